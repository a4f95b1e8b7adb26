"""What the doctor finds, and how it says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from normbench.cli import doctor
from normbench.cli.main import main
from normbench.engine.capture.captured import Captured


def found(outputs: Path) -> dict[str, str]:
    return {finding.text: finding.state for finding in doctor.look(outputs)}


@pytest.fixture(scope="module")
def findings(tmp_path_factory) -> dict[str, str]:
    return found(tmp_path_factory.mktemp("doctor") / "outputs")


def state_of(findings: dict[str, str], start: str) -> str:
    return next(state for text, state in findings.items() if start in text)


def test_versions_cores_and_back_ends_are_told(findings):
    assert state_of(findings, "python") == state_of(findings, "CPU core") == "ok"
    assert state_of(findings, "back ends of workers: gloo") == "ok"


def test_data_that_is_here_or_not_is_told(findings, monkeypatch):
    assert findings["data=mnist: 55000/5000/10000 images"] == "ok"
    assert state_of(findings, "data=imagefolder") == "note"


def test_a_short_training_alone_and_of_two_workers_is_tried(findings):
    assert state_of(findings, "20 training steps: finished on") == "ok"
    assert state_of(findings, "20 steps of two processes (gloo): finished on cpu") == "ok"


def test_steps_that_cannot_be_replayed_are_told_with_the_reason(monkeypatch):
    monkeypatch.setattr(Captured, "_record", refuse_to_record)
    assert doctor._trained().endswith(
        "; capture=on: steps are not replayed: this torch records nothing"
    )


def refuse_to_record(self, key, inputs):
    self.reason = "this torch records nothing"
    return self.function(*inputs)


def test_outputs_that_cannot_be_written_fail_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    (finding,) = doctor._storage(tmp_path / "file" / "outputs")
    assert finding.state == "fail"
    assert finding.text.endswith("outputs is not writable: use --outputs DIR")


def test_nothing_is_created_in_outputs(tmp_path):
    assert all(each.state == "ok" for each in doctor._storage(tmp_path / "outputs"))
    assert not list(tmp_path.iterdir())


def test_what_fails_makes_exit_code_4_and_is_marked(tmp_path, monkeypatch, capsys):
    def broken() -> str:
        raise OSError("no such luck")

    monkeypatch.setattr(doctor, "look", lambda outputs: [doctor._tried("a step", broken)])
    assert main(["doctor", "--outputs", str(tmp_path)]) == 4
    assert capsys.readouterr().out == " FAIL  a step: OSError: no such luck\n"


def test_json_is_one_document(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "look", lambda outputs: [doctor.Finding("note", "well")])
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": 1,
        "command": "doctor",
        "findings": [{"state": "note", "text": "well"}],
    }

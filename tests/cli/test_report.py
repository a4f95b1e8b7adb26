"""`normbench report` and `plot`: files, escaping, commands that repeat the runs, refusals."""

from __future__ import annotations

import base64
import csv
import itertools
import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from commands import document, normbench

from normbench.sweeps import compared
from normbench.sweeps.reported import Report

TINY = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=32", "device=cpu"]
SHORT = ["train", "-m", *TINY, "epochs=1", "eval_every=0.5", "optimizer.lr=0.3", "tb=false"]
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>&\"'|$x_1$"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of which one run failed with a hostile message, one is gone, and a norm has none."""
    place = tmp_path_factory.mktemp("report")
    words = ["norm=bn,gn,in", "batch=16,64", "seeds=6", "skip_invalid=true"]
    done = normbench(*SHORT, *words, cwd=place)
    assert done.returncode == 0, done.stderr
    runs = sorted(place.glob("outputs/runs/mlp-width32-gn-b64-*/seed*"))
    shutil.rmtree(runs[1])
    status = json.loads((runs[2] / "status.json").read_text())
    status |= {"state": "failed", "message": ATTACK, "final": None}
    (runs[2] / "status.json").write_text(json.dumps(status))
    return place


def sweep(place: Path) -> str:
    (folder,) = place.glob("outputs/sweeps/*")
    return str(folder.relative_to(place))


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_a_page_has_no_outside_links_and_runs_nothing_of_a_message(place: Path) -> None:
    done = normbench("report", sweep(place), cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{sweep(place)}/report.html\n"
    text = (place / sweep(place) / "report.html").read_text()
    tags = Tags(text).found
    assert [tag for tag, _ in tags].count("script") == 1
    links = [given.get("src") or given.get("href") for tag, given in tags if tag in ("img", "a")]
    assert links
    assert all(link and link.startswith(("#", "data:image/svg+xml;base64,")) for link in links)
    assert not [name for _, given in tags for name in given if name.startswith("on")]
    assert "&lt;script&gt;alert(1)" in text
    for picture in re.findall(r"base64,([^\"]+)", text):
        drawn = base64.b64decode(picture).decode()
        assert "<script" not in drawn
        assert not re.findall(r"(?:href|src)=\"(?!#)", drawn)


def test_the_same_runs_give_the_same_bytes(place: Path) -> None:
    for name in ("a.html", "a.html"):
        assert normbench("report", sweep(place), "-o", name, cwd=place).returncode == 0
        (place / name).rename(place / f"{len([*place.glob('*.once')])}.once")
    first, second = sorted(place.glob("*.once"))
    assert first.read_bytes() == second.read_bytes()


def test_every_command_of_a_report_names_the_runs_that_are_there(place: Path) -> None:
    normbench("report", sweep(place), "-o", "r.md", cwd=place)
    found = re.findall(r"^    (normbench train .*)$", (place / "r.md").read_text(), re.MULTILINE)
    assert len(found) == 4
    plans = [normbench(*shlex.split(line)[1:], "dry_run=true", cwd=place) for line in found]
    told = "\n".join(plan.stdout for plan in plans)
    assert [plan.returncode for plan in plans] == [0] * 4, plans
    assert told.count("finished already") == 22
    assert told.count("to train ") == 2


def test_runs_that_are_gone_are_reported_without_a_command(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "outputs", tmp_path / "outputs")
    (gone,) = tmp_path.glob("outputs/runs/mlp-width32-gn-b64-*")
    shutil.rmtree(gone)
    answer = compared.answer(compared.Question(tmp_path / "outputs", [tmp_path / sweep(place)]))
    assert len(Report(answer, [], "").commands) == 3


GOLDEN = """\
- bn: all 6 failed at batch 16
- gn against bn: too few pairs, 0/4 against 1/6 failed at batch 64
- differing besides norm: nothing; with it comes bias (bn auto; gn on)

test accuracy, % by norm

| norm | batch 16 | batch 64 |
| --- | --- | --- |
| bn | 10.0 6/6 failed | 82.0 [80.0, 84.0] 1/6 failed |
| gn | 90.5 [88.4, 92.6] 2/6 failed | 92.0 [88.6, 95.4] 2 without result |
| in | does not apply | does not apply |

- no norm can be called better on 3 seeds: the exact sign-flip test has p >= 0.25, 6 seeds are \
needed
- mean and 95 % interval (Student t) of 4 to 6 seeds, given that a run trains; 0 of 4 failures \
means at most 53 %
- seeds do not vary the test images, the split or the training images
- failures: 7 stuck at most 5 points above chance, 10.0 %: the share of the largest class; 2 \
diverged
"""


def test_all_that_can_befall_a_cell_is_told(place: Path, tmp_path: Path) -> None:
    """Diverged, stuck, failed, missing and skipped cells, with accuracies that no machine moves."""
    shutil.copytree(place / "outputs", tmp_path / "outputs")
    for norm, batch in itertools.product(("bn", "gn"), (16, 64)):
        for path in tmp_path.glob(f"outputs/runs/*{norm}-b{batch}-*/seed*/status.json"):
            status, seed = json.loads(path.read_text()), int(path.parent.name[4:])
            if status["final"] is None:
                continue
            accuracy = {"bn": 0.79, "gn": 0.89}[norm] + 0.01 * seed
            if (norm, batch) == ("bn", 16) or (norm, batch, seed) == ("bn", 64, 0):
                accuracy = 0.1
            status["final"] |= {"test/accuracy": accuracy}
            if (norm, batch) == ("gn", 16) and seed > 3:
                status |= {"state": "diverged", "message": "loss is not finite at step 7"}
            path.write_text(json.dumps(status))
    done = normbench("report", sweep(tmp_path), "-o", "r.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "r.md").read_text()
    assert GOLDEN in text
    assert done.stdout.split()[1:] == [f"r-{name}.svg" for name in SHOWN]
    drawn = (tmp_path / "r-failures.svg").read_text()
    for kind in ("trained", "stuck", "diverged", "failed", "no result"):
        assert f"<!-- {kind} -->" in drawn
    assert "<!-- bn  batch 16 -->" in drawn


SHOWN = ("convergence", "batch", "differences", "failures", "cost")


def test_markdown_names_its_figures_and_csv_is_the_long_table(place: Path) -> None:
    normbench("report", sweep(place), "-o", "r.md", cwd=place)
    text = (place / "r.md").read_text()
    figures = re.findall(r"\]\(<(.*?)>\)", text)
    assert figures == [f"r-{name}.svg" for name in SHOWN]
    assert all((place / name).read_text().startswith("<?xml") for name in figures)
    assert "<script" not in text
    normbench("report", sweep(place), "-o", "r.csv", cwd=place)
    rows = [*csv.DictReader((place / "r.csv").read_text().splitlines())]
    assert len(rows) == 26
    states = [row["state"] for row in rows]
    assert [states.count(state) for state in ("finished", "failed", "planned")] == [22, 1, 1]


def test_a_tuned_sweep_has_its_search_and_commands_without_it(tmp_path: Path) -> None:
    words = [
        "norm=none,bn",
        "batch=16,64",
        "seeds=3",
        "tune=lr",
        "tune_lrs=[0.03,0.1,0.3]",
        "tune_seeds=2",
    ]
    short = [word for word in SHORT if not word.startswith("optimizer.lr")]
    assert normbench(*short, *words, cwd=tmp_path).returncode == 0
    normbench("report", sweep(tmp_path), "-o", "t.md", cwd=tmp_path)
    text = (tmp_path / "t.md").read_text()
    assert "| none batch 16 |" in " ".join(text.split())
    assert "](<t-lr.svg>)" in text
    found = re.findall(r"^    (normbench train .*)$", text, re.MULTILINE)
    assert len(found) == 4
    for line in found:
        plan = normbench(*shlex.split(line)[1:], "dry_run=true", cwd=tmp_path)
        assert plan.stdout.count("finished already") == 3, (line, plan.stdout, plan.stderr)


def test_filters_and_a_baseline_as_in_compare(place: Path) -> None:
    told = document("report", "norm=bn,gn", "--baseline", "gn", "-o", "f.html", cwd=place)
    assert (told["command"], told["file"]) == ("report", "f.html")
    assert "bn against gn" in (place / "f.html").read_text()


@pytest.mark.parametrize("form, start", [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_plot_writes_one_figure(place: Path, form: str, start: bytes) -> None:
    done = normbench("plot", "batch", sweep(place), "-o", f"one.{form}", cwd=place)
    assert (done.returncode, done.stdout) == (0, f"one.{form}\n"), done.stderr
    assert (place / f"one.{form}").read_bytes().startswith(start)


@pytest.mark.parametrize(
    "words, code, said",
    [
        ("report -o r.txt", 2, "-o r.txt: does not end in .html, .md, .csv\n  try: -o report.html"),
        ("report -o none/r.md", 3, "its folder none is not here\n  try: mkdir -p none"),
        ("report -o outputs", 3, "outputs: is a folder\n  try: -o outputs/report.html"),
        ("report --metric val/lost", 2, "--metric val/lost: was not recorded"),
        ("report nowhere", 3, "nowhere: is not here"),
        ("plot bach", 2, "plot bach: is none of convergence, batch"),
        ("plot lr", 2, "nothing to draw in this figure\n  try: normbench plot convergence"),
        ("plot cost -o cost.gif", 2, "-o cost.gif: does not end in .svg, .png, .pdf"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused(place: Path, words: str, code: int, said: str) -> None:
    before = sorted(place.rglob("*"))
    done = normbench(*words.split(), cwd=place)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert sorted(place.rglob("*")) == before


def test_damaged_settings_are_refused_or_left_out(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "outputs", tmp_path / "outputs")
    file = tmp_path / sweep(place) / "sweep.json"
    file.write_text(file.read_text().replace('"batch": "16"', '"batch": "<b>"'))
    done = normbench("plot", "batch", sweep(place), cwd=tmp_path)
    assert (done.returncode, "nothing to draw" in done.stderr) == (2, True), done.stderr
    assert normbench("report", sweep(place), "-o", "d.html", cwd=tmp_path).returncode == 0
    assert "<b>" not in (tmp_path / "d.html").read_text()
    run = json.loads(file.read_text())["cells"][0]["run"]
    config = tmp_path / "outputs/runs" / run / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.3", "lr: three"))
    stored = json.loads(file.read_text())
    stored["tuning"] = [{"run": run, "evaluation": None, "state": "finished"}]
    file.write_text(json.dumps(stored))
    done = normbench("plot", "lr", sweep(place), cwd=tmp_path)
    assert (done.returncode, "optimizer.lr is no number" in done.stderr) == (3, True), done.stderr

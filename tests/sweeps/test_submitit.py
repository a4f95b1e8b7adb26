"""Sweeps that submitit starts, by its local executor: the same runs as our own launcher's."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = "hydra_plugins.hydra_submitit_launcher"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec(PLUGIN) is None, reason="the extra submitit is not installed"
    ),
]
TINY = ("data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "model.depth=2")
SMALL = (*TINY, "batch=32", "steps=12", "device=cpu", "tb=false")
LOCAL = "hydra/launcher=submitit_local"
SLURM = {  # its commands, as far as submitit needs them: one node that runs one task at a time
    "sbatch": """\
#!{python}
import os, subprocess, sys
text = open(sys.argv[-1]).read()
flags = dict(line[10:].partition("=")[::2] for line in text.splitlines() if "#SBATCH" in line)
first, _, last = flags.get("array", "0").partition("%")[0].partition("-")
with open("seen", "a") as seen:
    seen.write(text)
print("Submitted batch job 7", flush=True)
if os.fork():
    os._exit(0)
os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # who has submitted the job waits for its end
os.dup2(1, 2)
names = "JOB_NUM_NODES NTASKS NODEID PROCID LOCALID JOB_ID ARRAY_JOB_ID ARRAY_TASK_ID"
for task in range(int(first), int(last or first) + 1):
    values = ["1", "1", "0", "0", "0", str(70 + task), "7", str(task)]
    told = dict(zip(["SLURM_" + name for name in names.split()], values))
    subprocess.run(["bash", sys.argv[-1]], env={{**os.environ, **told, "SLURM_JOB_NODELIST": "a"}})
    open(__file__ + f"-{{task}}", "w").close()
""",
    "srun": """\
#!{python}
import os, sys
command = sys.argv[sys.argv.index({python!r}) :]
os.execv(command[0], command)
""",
    "sacct": """\
#!{python}
import os
print("JobID|State|NodeList")
for task in range(9):
    done = os.path.exists(os.path.join(os.path.dirname(__file__), f"sbatch-{{task}}"))
    print(f"7_{{task}}|{{'COMPLETED' if done else 'RUNNING'}}|a")
""",
}


def train(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "normbench", "train", "-m", *SMALL, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )
    logs = [each.read_text() for each in folder.glob("outputs/.submitit/*/*.err")]
    assert done.returncode in (0, 1), (done.stderr, logs)
    return done


def records(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each run of a folder was recorded, and its rows."""
    files = folder.glob("outputs/runs/*/seed0/metrics.jsonl")
    return {each.parts[-3]: (each.stat().st_mtime_ns, each.read_bytes()) for each in files}


@pytest.fixture(scope="module")
def submitted(tmp_path_factory):
    """A folder with two runs that submitit has trained, and what the command printed."""
    folder = tmp_path_factory.mktemp("submitted")
    done = train(folder, LOCAL, "norm=bn,gn", "gpus=1")
    assert done.returncode == 0
    return folder, done.stdout


def test_submitit_trains_the_runs_and_the_command_prints_their_table(submitted):
    folder, printed = submitted
    assert sorted(({"bn", "gn"} & {*name.split("-")}).pop() for name in records(folder)) == [
        "bn",
        "gn",
    ]
    assert [line.split()[0] for line in printed.splitlines()[1:3]] == ["bn", "gn"]


def test_the_plain_command_finds_the_runs_of_submitit(submitted):
    folder, printed = submitted
    before = records(folder)
    again = train(folder, "norm=bn,gn", "gpus=1")
    assert printed.splitlines()[1:3] == [
        line for line in again.stdout.splitlines() if line.split()[:1] in (["bn"], ["gn"])
    ]
    assert records(folder) == before


def test_a_run_of_submitit_has_the_rows_of_a_plain_one(submitted, tmp_path):
    folder, _ = submitted
    train(tmp_path, "norm=bn,gn", "gpus=1")
    rows = [
        {name: each[1] for name, each in records(place).items()} for place in (folder, tmp_path)
    ]
    assert rows[0] == rows[1]


def test_a_job_of_submitit_may_have_several_workers(tmp_path):
    assert train(tmp_path, LOCAL, "norm=syncbn", "gpus=2").returncode == 0
    (name,) = records(tmp_path)
    assert "syncbn" in name


def test_a_failed_job_of_submitit_fails_the_command(tmp_path):
    done = train(tmp_path, LOCAL, "norm=bn", "optimizer.lr=1e9", "on_nan=fail")
    assert done.returncode == 1
    assert "failed" in done.stdout


def test_slurm_is_asked_as_the_command_says_and_trains_the_runs(tmp_path):
    (place := tmp_path / "bin").mkdir()
    for name, text in SLURM.items():
        (place / name).write_text(text.format(python=sys.executable))
        (place / name).chmod(0o755)
    path = f"{place}:{os.environ['PATH']}"
    asked = ("hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=12")
    done = train(
        tmp_path, "hydra/launcher=submitit_slurm", *asked, "norm=bn,gn,ln", "gpus=1", PATH=path
    )
    assert done.returncode == 0, done.stderr
    seen = (tmp_path / "seen").read_text()
    for flag in ("--array=0-2", "--partition=gpu", "--time=12"):
        assert f"#SBATCH {flag}" in seen
    assert len(records(tmp_path)) == 3
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == ["bn", "gn", "ln"]


@pytest.mark.skipif(shutil.which("srun") is not None, reason="Slurm is here")
def test_a_machine_without_slurm_is_told_so(tmp_path):
    words = ["-m", *SMALL, "hydra/launcher=submitit_slurm", "norm=bn,gn", "gpus=1"]
    done = subprocess.run(
        [sys.executable, "-m", "normbench", "train", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    *_, first, second = done.stderr.splitlines()  # below the plan
    assert first.startswith("normbench: error: hydra/launcher=submitit_slurm: ")
    assert second == "  try: hydra/launcher=normbench"

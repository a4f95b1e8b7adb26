"""normbench's own loop: `fit` with its rows, recorded in files and TensorBoard, as a run has it."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from normbench.runs.columns import hparams
from normbench.runs.directory import RunDirectory
from normbench.runs.job import Job
from normbench.settings.schema import Config


class Ours:
    """Trains from one training row to the next, `log_every` steps."""

    def __init__(self, config: Config) -> None:
        settings = {"experiment": config.experiment(), "execution": config.execution()}
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        how = {"tb": True, "tb_axis": "examples", "hparams": hparams(config)}
        self.record = RunDirectory(Path(folder) / "run", settings, {}, **how).__enter__()
        self.rows = Job(config).rows()
        self.losses: list[float] = []
        next(self.rows)  # the validation at step 0

    def train(self, steps: int) -> None:
        """Train up to the next training row, which is due after so many steps."""
        row = next(self.rows)
        self.record.write(row)
        self.losses.append(row.values["train/loss"])

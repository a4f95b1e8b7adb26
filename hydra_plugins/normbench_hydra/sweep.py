"""The sweeper and launcher of normbench: a sweep is planned and run as a whole, not job by job.

Hydra imports this file at every start, so nothing heavy may be imported at its top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, env_override
from hydra.plugins.launcher import Launcher


class GridSweeper(BasicSweeper):
    """Launches the checked cells of the command, but writes no file and makes no folder.

    Args: params: lists that a file keeps, `norm: "bn,gn"`; they are among the cells.
    """

    def __init__(self, params: Mapping[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=dict(params or {}))

    def sweep(self, arguments: list[str]) -> Any:
        """Launch all cells that are left at once and keep their exit codes."""
        from normbench.errors import MachineError, first_line
        from normbench.settings.members import for_hydra
        from normbench.sweeps.command import running

        command = running.get()
        assert command is not None and self.launcher is not None
        ours = isinstance(self.launcher, PoolLauncher)
        left = [planned.cell.words for planned in command.sweep.cells if ours or planned.left]
        rows = [[for_hydra(text) for text in row] for row in dict.fromkeys(left)]
        try:
            jobs = self.launcher.launch(rows, initial_job_idx=0) if rows else []
        except Exception as error:  # such as submitit's where there is no Slurm
            if ours:
                raise
            name = self.config.hydra.runtime.choices["hydra/launcher"]
            fix = "hydra/launcher=normbench"
            raise MachineError(f"hydra/launcher={name}", first_line(error), fix) from error
        command.codes = [job.return_value for job in jobs]
        return command.codes


class PoolLauncher(Launcher):
    """Lets the task train all cells at once, which forks one child per run from a warm parent."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Keep the task; the cells were composed and checked before Hydra started."""
        self.task, self.config = task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        """Run every cell and return one finished job for each, with what the task says of it."""
        with env_override(self.config.hydra.job.env_set):
            values = self.task(job_overrides)
        jobs = []
        for overrides, value in zip(job_overrides, values, strict=True):
            job = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
            job.return_value = value
            jobs.append(job)
        return jobs


SWEEPER = {"_target_": f"{__name__}.GridSweeper", "params": {}}
LAUNCHER = {"_target_": f"{__name__}.PoolLauncher"}
for group, node in (("sweeper", SWEEPER), ("launcher", LAUNCHER)):
    ConfigStore.instance().store(
        name="normbench", node=node, group=f"hydra/{group}", provider="normbench"
    )

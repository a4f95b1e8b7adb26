"""The sweeper and launcher of normbench: a sweep is planned and run as a whole, not job by job.

Hydra imports this file at every start, so nothing heavy may be imported at its top.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher


class GridSweeper(BasicSweeper):
    """Expands comma lists and ranges like Hydra's own, but writes no file and makes no folder."""

    def __init__(self) -> None:
        super().__init__(max_batch_size=None)

    def sweep(self, arguments: list[str]) -> Any:
        """Launch all cells at once and keep their exit codes."""
        parser = OverridesParser.create(self.hydra_context.config_loader)
        (cells,) = self.split_arguments(parser.parse_overrides(arguments), None)
        from normbench.errors import MachineError, first_line
        from normbench.sweeps.command import running

        try:
            jobs = self.launcher.launch(cells, initial_job_idx=0)
        except RuntimeError as error:  # such as submitit's where there is no Slurm
            if isinstance(self.launcher, PoolLauncher):
                raise
            name = self.config.hydra.runtime.choices["hydra/launcher"]
            fix = "hydra/launcher=normbench"
            raise MachineError(f"hydra/launcher={name}", first_line(error), fix) from error
        command = running.get()
        assert command is not None
        command.codes = [job.return_value for job in jobs]
        return command.codes


class PoolLauncher(Launcher):
    """Lets the task train all cells at once, which forks one child per run from a warm parent."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Keep the task; the cells were composed and checked before Hydra started."""
        self.task = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        """Run every cell and return one finished job for each, with its exit code."""
        code = self.task(None)
        jobs = []
        for overrides in job_overrides:
            job = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
            job.return_value = code
            jobs.append(job)
        return jobs


for group, kind in (("sweeper", GridSweeper), ("launcher", PoolLauncher)):
    ConfigStore.instance().store(
        name="normbench",
        node={"_target_": f"{__name__}.{kind.__name__}"},
        group=f"hydra/{group}",
        provider="normbench",
    )

"""Says where to find now what a part of another package imports from where it was."""

from __future__ import annotations

import re

NOW = {
    "normbench.augment": "normbench.engine.augment",
    "normbench.config": "normbench.settings.schema",
    "normbench.feed": "normbench.engine.loader",
    "normbench.files": "normbench.runtime.storage",
    "normbench.inputs": "normbench.engine.transforms",
    "normbench.machine": "normbench.runtime.machine",
    "normbench.options": "normbench.parts.options",
    "normbench.orders.Order": "normbench.orders._base.Order",
    "normbench.ranks": "normbench.runtime.collectives",
    "normbench.registry": "normbench.parts.registry",
    "normbench.schedule": "normbench.schedules._base",
    "normbench.seeds": "normbench.runtime.rng",
    "normbench.stats": "normbench.results.stats",
    "normbench.train": "normbench.engine.train",
    "normbench.data._base.About": "normbench.data._base.DatasetInfo",
    "normbench.data._base.Moments": "normbench.data._base.PixelMoments",
    "normbench.data._base.Sound": "normbench.data._base.VerifiedFile",
    "normbench.inits._base.Lessons": "normbench.inits._base.InitContext",
    "normbench.norms._base.ACTIVATIONS": "normbench.parts.registry.find",
    "normbench.norms._base.TLU": "normbench.norms._activations.TLU",
    **{
        f"normbench.norms._base.{old}": f"normbench.norms._units.{new}"
        for old, new in {
            **{name: name for name in ("Conv2d", "Dropout", "Linear", "Unit", "apply")},
            "Units": "UnitBuilder",
        }.items()
    },
    "normbench.norms._batch.Sets": "normbench.norms._batch.StatGroups",
    "normbench.norms._batch.centre": "normbench.norms._batch_moments.centre",
    "normbench.norms._batch.follow": "normbench.norms._batch.ema_by_chunk_",
    "normbench.norms._batch.moments": "normbench.norms._batch_moments.moments",
    "normbench.norms._moments.track": "normbench.norms._moments.ema_",
    "normbench.norms._sums.precise": "normbench.norms._sums.at_least_float32",
    "normbench.norms._sums.spread": "normbench.norms._sums.per_position",
    "normbench.optimizers._base.Flat": "normbench.optimizers._base.FlatParameters",
    "normbench.optimizers._base.Optimizer": "normbench.optimizers._base.OptimizerOptions",
    "normbench.optimizers._base.Stepper": "normbench.optimizers._base.FlatOptimizer",
}


def moved(error: ImportError) -> tuple[str, str] | None:
    """Return the old and the new place of what could not be imported; None if it is not of ours."""
    name = re.search(r"cannot import name '(\w+)'", str(error))
    old = f"{error.name}.{name[1]}" if name else str(error.name)
    return (old, NOW[old]) if old in NOW else None

"""Says before a sweep begins whether its table can compare what is asked for. No torch."""

from __future__ import annotations

from normbench.errors import Mistake, Refused
from normbench.parts.options import written
from normbench.results.layout import compared_key
from normbench.settings.fields import AUTO
from normbench.sweeps.describe import not_applying, varying
from normbench.sweeps.plan import Sweep


def check_comparison(sweep: Sweep) -> None:
    """Raise Refused if what the table is to compare is not swept."""
    if sweep.cells and (mistake := _not_compared(sweep)):
        raise Refused(mistake)


def _not_compared(sweep: Sweep) -> Mistake | None:
    """Say what of `compare` and `baseline` is not swept, and why `seeds=auto` decides nothing."""
    skipped = [result.settings for result in not_applying(sweep)]
    cells = [*(planned.settings for planned in sweep.cells), *skipped]
    config, keys = sweep.cells[0].config, varying(cells, sweep)
    by = compared_key(keys) if config.compare is None else config.compare
    if config.compare is not None and by not in keys:
        why = f"is not swept by this command, which sweeps {', '.join(keys) or 'nothing'}"
        return Mistake(f"compare={by}", why, f"compare={written(compared_key(keys) or None)}")
    values = list(dict.fromkeys(str(cell[by]) for cell in cells if by in cell))
    if AUTO in {planned.config.seeds for planned in sweep.cells}:
        if len(values) < 2:
            why = f"decides a comparison, and {'one ' + by if by else 'nothing'} is compared"
            return Mistake("seeds=auto", why, "seeds=5")
        configs = [planned.config for planned in sweep.cells]
        if len({(each.seeds, each.seed, each.seeds_max) for each in configs}) > 1:
            return Mistake("seeds=auto", "holds for all cells, from one first seed on", "seeds=5")
    base = None if config.baseline is None else written(config.baseline)
    if base is not None and base not in values:
        why = f"is not a value of {by} here: {', '.join(values)}" if by else "nothing is swept"
        return Mistake(f"baseline={base}", why, f"baseline={(values or ['null'])[0]}")
    return None

"""`normbench probe`: what the layers of nets do, at their start or in finished runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.cli import report
from normbench.cli.parser import Parser, screen
from normbench.errors import Mistake, Refused
from normbench.results import groups, stats
from normbench.results.tables import Estimate, Table, TableCell, column
from normbench.settings import compose

if TYPE_CHECKING:
    from normbench.runs.probe import Asked, Measured
    from normbench.settings.schema import Config

EXAMPLES = (
    "normbench probe model=mlp init=xavier_normal,kaiming_normal seeds=8",
    "normbench probe model=resnet20 norm=none,bn -o layers.svg",
    "normbench probe model=mlp norm=none,bn steps=300 --along 20",
    "normbench probe outputs/sweeps/NAME --sampling --rank",
)
FORMS = (".svg", ".png", ".pdf")
FACTORS = {  # shown as the factor from a layer to the next
    "growth/activation": "signal",  # a column may be called activation by what is compared
    "growth/gradient": "gradient",
    "growth/weight_gradient": "weight gradient",
}
PLAIN = {
    "saturated": "saturated",
    "weight_var_fan_in": "var x fan-in",
    "rank": "rank",
    "weight_rank": "rank of weight",
    "cka": "cka to start",
    "drift": "drift",
    "linear_drift": "drift before norm",
    "settled": "settled",
    "sampling/mean": "mean error",
    "sampling/std": "std error",
    "parameters": "parameters",
}
LAYERS = (
    *("act_second", "output_grad_norm", "grad_norm", "saturated", "zeros", "rank", "weight_rank"),
    *("cka", "drift", "linear_drift", "settled"),
)
NOTES = (
    "signal: factor from layer to layer of the mean square of activations; gradient, weight "
    "gradient: of the norm of the loss's gradient, toward the input",
)
WATCHED = (
    "drift: change of a unit's mean in one step, in deviations, after a third of the steps; "
    "settled: share of the steps after which a layer is like its end, CKA 0.9"
)
SAMPLED = "mean error, std error: slope of log2(error) on log2(samples behind a statistic)"


@dataclass
class Net:
    """A configuration, or the run that is kept of it, and what was measured at each seed."""

    settings: dict[str, str]
    configs: list[Config]
    kept: bool
    found: list[Measured]

    def metric(self, name: str) -> list[float]:
        """Give a metric of all seeds that have it."""
        values = [each.metrics[name] for each in self.found if name in each.metrics]
        return [value for value in values if math.isfinite(value)]

    def layers(self) -> dict[str, dict[str, float]]:
        """Give the quantities of each layer, means over the seeds."""
        return {
            path: {
                key: stats.mean([each.layers[path][key] for each in self.found])
                for key in values
                if all(key in each.layers[path] for each in self.found)
            }
            for path, values in self.found[0].layers.items()
        }


def parser() -> Parser:
    """Return the parser of the command's words."""
    made = Parser("probe", "Measure layers in float64; nothing is kept.", EXAMPLES)
    about = "settings KEY=VALUE, or lists of values; or finished runs and sweeps"
    made.add_argument("words", nargs="*", metavar="WORD", help=about)
    span = "numbers of the layers that factors and means are over (default: hidden ones)"
    made.add_argument("--layers", metavar="A:B", help=span)
    made.add_argument("--rank", action="store_true", help="ranks of what layers give")
    how = "errors of statistics of 2 to 512 samples"
    made.add_argument("--sampling", action="store_true", help=how)
    often = "train each net, too, and look so often on the way at how its layers move"
    made.add_argument("--along", metavar="N", type=int, default=0, help=often)
    made.add_argument("--config-dir", metavar="DIR", help="your own configuration files")
    made.add_argument("-o", "--out", metavar="FILE", type=Path, help="a .svg, .png or .pdf")
    return made


def run(words: list[str]) -> int:
    """Measure every net, and show what came of it: factors from layer to layer, and the layers.

    Raises: Refused with all mistakes, before anything is measured; FileRefused.
    """
    options = parser().parsed(words)
    shown, span = screen(options), _span(options.layers)
    path = report.target(options.out, FORMS, "-o layers.svg") if options.out else None
    given = [word for word in options.words if "=" in word and not Path(word).exists()]
    places = [Path(word) for word in options.words if word not in given]
    if places and given:
        why = "is settled in finished runs"
        raise Refused(Mistake(given[0], why, f"normbench probe {places[0]}"))
    if options.along < 0 or (places and options.along):
        why = "is for nets that are still to be trained" if places else "is no number of looks"
        raise Refused(
            Mistake(f"--along {options.along}", why, "normbench probe norm=bn --along 20")
        )
    nets = _kept(places) if places else _started(given, options.config_dir)
    from normbench.runs.probe import Asked  # imports torch, which a refusal does without

    asked = Asked(span, options.rank, options.sampling, along=options.along)
    with shown.work("measuring", sum(len(net.configs) for net in nets)) as so_far:
        for done, _ in enumerate(_measured(nets, asked), 1):
            so_far(done)
    shown.document({"command": "probe", "nets": [_document(net) for net in nets]})
    shown.table(_table(nets))
    if len(nets) == 1:
        shown.lines([""])
        shown.table(_layers(nets[0]))
    if path:
        _draw(nets, path)
        shown.note(str(path))
    return 0


def _span(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) < int(last)):
        why = "is no range of layers, which are counted from 1"
        raise Refused(Mistake(f"--layers {text}", why, "--layers 2:5"))
    return int(first), int(last)


def _started(words: Sequence[str], folder: str | None) -> list[Net]:
    """Make the nets of every combination of the settings.

    Raises: Refused with all misfits.
    """
    cells = [
        cell
        for cell in compose.Grid(compose.loader(folder)).cells(words, True)
        if cell.config is not None
    ]
    from normbench.runs import check  # imports torch

    given = [dict(text.split("=", 1) for text in cell.row) for cell in cells]
    keys, nets, mistakes = groups.swept(given), [], []
    for cell, row in zip(cells, given, strict=True):
        config = cell.config
        assert config
        error = check.check_fit(config, config.shape, config.classes).error
        if error:
            mistakes += [] if config.skip_invalid else error.mistakes
        else:
            nets.append(Net({key: row[key] for key in keys}, config.with_seeds(), False, []))
    if mistakes or not nets:
        raise Refused(*dict.fromkeys(mistakes))
    return nets


def _kept(places: Sequence[Path]) -> list[Net]:
    """Find the nets of finished runs.

    Raises: FileRefused if a run is damaged, not finished or has no weights.
    """
    from normbench.runs import stored, weights
    from normbench.runs.reader import read_status
    from normbench.sweeps import records

    nets: dict[str, Net] = {}
    for directory in dict.fromkeys(one.directory for place in places for one in records.at(place)):
        config = stored.finished(Path(directory)).training
        weights.check(config.directory, (read_status(config.directory) or {}).get("state_sha256"))
        net = nets.setdefault(config.name, Net({"run": config.name}, [], True, []))
        net.configs.append(config)
    return [*nets.values()]


def _measured(nets: Sequence[Net], asked: Asked) -> Iterator[None]:
    """Measure each net at each seed.

    Raises: Refused if no layer is in the range.
    """
    from normbench.runs import weights
    from normbench.runs.probe import measure

    for net in nets:
        for config in net.configs:
            kept = weights.read(config.directory) if net.kept else None
            net.found.append(measure(config, asked, kept))
            yield
        count = len(net.found[0].layers)
        if asked.span and asked.span[1] > count:
            text, last = f"{asked.span[0]}:{asked.span[1]}", max(2, count - 1)
            why = f"{' '.join(net.settings.values()) or 'the net'} has {count} layers"
            raise Refused(Mistake(f"--layers {text}", why, f"--layers 1:{last}"))


def _table(nets: Sequence[Net]) -> Table:
    names = [*nets[0].settings]
    shown = [name for name in (*FACTORS, *PLAIN) if any(net.metric(name) for net in nets)]
    columns = [column([_entry(name, net.metric(name)) for net in nets]) for name in shown]
    labels = [[TableCell(text) for text in net.settings.values()] for net in nets]
    lines = zip(*columns, strict=True)
    rows = tuple((*label, *cells) for label, cells in zip(labels, lines, strict=True))
    head = (*names, *({**FACTORS, **PLAIN}[name] for name in shown))
    notes = (*NOTES, *([SAMPLED] if "sampling/mean" in shown else []))
    notes += (WATCHED,) if "drift" in shown else ()
    return Table("", head, rows, labels=len(names), notes=notes)


def _entry(name: str, values: Sequence[float]) -> Estimate | TableCell:
    if not values:
        return TableCell("-", "faint")
    form, interval = _factor if name in FACTORS else _number, stats.interval(values)
    spread = interval is not None and interval.low < interval.high
    bounds = (form(interval.low), form(interval.high)) if interval and spread else None
    return Estimate(form(stats.mean(values)), bounds)


def _factor(log: float) -> str:
    return f"{math.exp(log):#.4g}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() else f"{value:.3f}"


def _layers(net: Net) -> Table:
    """Lay out the layers of one net."""
    layers = net.layers()
    shown = [key for key in LAYERS if any(key in values for values in layers.values())]
    rows = tuple(
        (
            TableCell(f"{number} {path}"),
            *(TableCell(f"{values[key]:.4g}" if key in values else "-") for key in shown),
        )
        for number, (path, values) in enumerate(layers.items(), 1)
    )
    head = ("layer", *(key.replace("_", " ") for key in shown))
    return Table("", head, rows, right=frozenset(range(1, len(head))))


def _document(net: Net) -> dict[str, Any]:
    names = [*net.found[0].metrics]
    return {
        **net.settings,
        "seeds": [config.seed for config in net.configs],
        "metrics": {name: [each.metrics[name] for each in net.found] for name in names},
        "layers": [{"path": path, **values} for path, values in net.layers().items()],
    }


def _draw(nets: Sequence[Net], path: Path) -> None:
    from normbench.display import depth, drawing  # imports matplotlib
    from normbench.runtime import storage

    figure = depth.of_nets(
        {
            " ".join(net.settings.values()): [
                {
                    key: [values[key] for values in each.layers.values() if key in values]
                    for key in depth.PROBED
                }
                for each in net.found
            ]
            for net in nets
        }
    )
    assert figure
    storage.write_atomic(path, drawing.encoded(figure, path.suffix[1:]))

"""`normbench summary`: the layers of configurations, found by running them on an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import SequenceMatcher

import torch
from torch import Tensor, nn

from normbench.cli.parser import Parser, screen
from normbench.display.screen import Screen
from normbench.engine.train import why_eager
from normbench.errors import Refused
from normbench.norms._base import OverTime
from normbench.results.tables import Table, TableCell
from normbench.runs import build, check
from normbench.settings import compose
from normbench.settings.schema import Config

EXAMPLES = (
    "normbench summary model=blog6 norm=bn",
    "normbench summary model=resnet20 norm=gn data=synthetic",
    "normbench summary model=cnn norm=bn --diff norm=frn",
)
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d)
SILENT = (nn.Flatten, nn.Identity)  # compute nothing, so they have no row


@dataclass(frozen=True)
class LayerRow:
    """One layer in the order of execution: `name` is its kind and number, -1 stands for N."""

    name: str
    kind: str
    path: str
    output_shape: tuple[int, ...]
    parameters: int
    buffers: int  # elements
    groups: int = 1  # of its channels


@dataclass(frozen=True)
class Summary:
    """The rows of a model and what they add up to.

    `norm`: parameters beyond the weights and biases of the linear layers and beyond those that the
    same model has without its norm; `without`: all parameters of that model.
    """

    rows: list[LayerRow]
    trainable: int
    norm: int
    buffers: int
    without: int


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Show layers, output shapes, parameters and buffers."
    made = Parser("summary", text, EXAMPLES, overrides=True)
    made.add_argument("--diff", nargs="+", metavar="KEY=VALUE", help="beside it, with this changed")
    made.add_argument("--config-dir", metavar="DIR", help="your own configuration files")
    return made


def run(words: list[str]) -> int:
    """Show the layers of a configuration."""
    options = parser().parsed(words)
    grid = compose.Grid(compose.loader(options.config_dir))
    show(grid, options.overrides, options.diff or [], screen(options))
    return 0


def show(
    grid: compose.Grid, overrides: Sequence[str], changed: Sequence[str], screen: Screen
) -> None:
    """Print the layer table of a configuration, beside it one with `changed` overrides.

    Raises: Refused if the configuration cannot be built.
    """
    chosen = _one(grid, overrides)
    first = _counted(chosen)
    if not changed:
        document = {"command": "summary", "config": chosen.experiment(), **asdict(first)}
        screen.document(document)
        screen.table(table(first, _remark(chosen, first)))
        return
    keys = {text.partition("=")[0] for text in changed}
    kept = [text for text in overrides if text.partition("=")[0] not in keys]
    other = _one(grid, [*kept, *changed])
    second = _counted(other)
    titles = (" ".join(overrides) or "default", " ".join(changed))
    both = {"left": asdict(first), "right": asdict(second)}
    screen.document({"command": "summary", **both})
    screen.table(pair(titles, (first, second)))


def _one(grid: compose.Grid, overrides: Sequence[str]) -> Config:
    (cell,) = grid.cells(overrides, multirun=False)
    assert cell.config
    error = check.check_fit(cell.config, cell.config.shape, cell.config.classes).error
    if error:
        raise Refused(*error.mistakes)
    return cell.config


def _counted(chosen: Config) -> Summary:
    plain = replace(chosen, norm={"name": "none"}, activation={"name": "relu"}, placement="pre")
    linear = linear_parameters(build.unfilled(chosen, chosen.shape, chosen.classes))
    without = build.unfilled(plain, chosen.shape, chosen.classes)
    model = build.model(chosen, chosen.shape, chosen.classes)
    return summarize(model, without, linear, chosen.shape)


def _remark(chosen: Config, summary: Summary) -> str:
    examples = chosen.stat_batch if build.norm(chosen).uses_batch else None
    remarks = [statistics(summary, examples)]
    if check.foreign(chosen):  # our own can all be replayed
        model = build.model(chosen, chosen.shape, chosen.classes).train()
        labels = torch.arange(chosen.worker_batch) % chosen.classes
        reason = why_eager(model, torch.rand(len(labels), *chosen.shape), labels)
        remarks += [f"steps are not replayed: {reason}"] if reason else []
    return "   ".join(remarks)


def linear_parameters(model: nn.Module) -> dict[str, int]:
    """Count the parameters of each linear layer, by path, before a norm replaces any of them."""
    return {
        path: _count(layer) for path, layer in model.named_modules() if isinstance(layer, LINEAR)
    }


def summarize(
    model: nn.Module, without: nn.Module, linear: Mapping[str, int], shape: Sequence[int]
) -> Summary:
    """Count what `model` holds; nothing is trained, and the model stays as it is.

    Args: model: with its norm, on any device. without: the same with `norm=none`.
        linear: `linear_parameters` of the model before `norms._base.apply`. shape: (C, H, W).
    """
    plain = {name for name, _ in without.named_parameters()}
    norm = sum(max(0, _count(model.get_submodule(path)) - linear[path]) for path in linear)
    for name, parameter in model.named_parameters():
        inside = any(name.startswith(f"{path}.") for path in linear)
        norm += 0 if inside or name in plain else parameter.numel()
    return Summary(
        rows=layers(model, shape),
        trainable=_count(model),
        norm=norm,
        buffers=sum(buffer.numel() for buffer in model.buffers()),
        without=_count(without),
    )


def layers(model: nn.Module, shape: Sequence[int]) -> list[LayerRow]:
    """List the layers of `model` in the order in which they first run on an image of `shape`.

    A layer of torch, or derived from one, has torch's name for it. What a layer shares with an
    earlier one is counted there. The layers of a norm at several time steps are one row.
    """
    rows: list[LayerRow] = []
    seen: set[int] = set()  # layers that ran, and tensors that were counted

    def new(tensors: Iterator[Tensor]) -> int:
        fresh = {id(tensor): tensor.numel() for tensor in tensors if id(tensor) not in seen}
        seen.update(fresh)
        return sum(fresh.values())

    def after(path: str, layer: nn.Module, output: Tensor) -> None:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        kind, sizes = _kind(layer), tuple(output.shape[1:])
        name, counts = f"{kind}-{len(rows) + 1}", (new(layer.parameters()), new(layer.buffers()))
        groups = int(getattr(layer, "num_groups", getattr(layer, "groups", 1)))
        rows.append(LayerRow(name, kind, path, (-1, *sizes), *counts, groups))

    hooks = [
        layer.register_forward_hook(lambda layer, _, output, path=path: after(path, layer, output))
        for path, layer in _leaves("", model)
    ]
    try:
        _forward(model, shape)
    finally:
        for hook in hooks:
            hook.remove()
    return rows


def statistics(summary: Summary, examples: int | None) -> str:
    """Say over how many values the first norm takes a statistic; `examples`: None if of one."""
    if examples is None:
        return "statistics over 1 example (no batch)"
    normed = [row for row in summary.rows if "norm" in row.path.split(".")]
    positions = (normed or summary.rows)[0].output_shape[2:]
    return f"statistics over {' x '.join(map(str, (examples, *positions)))} values"


def aligned(
    left: Sequence[LayerRow], right: Sequence[LayerRow]
) -> list[tuple[LayerRow | None, LayerRow | None]]:
    """Put the rows of two models side by side where they have the same path and output shape."""
    matcher = SequenceMatcher(None, _keys(left), _keys(right), autojunk=False)
    pairs: list[tuple[LayerRow | None, LayerRow | None]] = []
    for what, a, b, c, d in matcher.get_opcodes():
        if what == "equal":
            pairs += zip(left[a:b], right[c:d], strict=True)
        else:
            pairs += [(row, None) for row in left[a:b]] + [(None, row) for row in right[c:d]]
    return pairs


def table(summary: Summary, remark: str = "") -> Table:
    """Lay out one model, and under it the totals with a `remark` on its statistics."""
    head = ("layer", "output shape", "parameters", "buffers")
    rows = tuple(
        tuple(map(TableCell, (_label(row), _shape(row), *_numbers(row)))) for row in summary.rows
    )
    totals = (*_totals(summary), *filter(None, [remark]))
    return Table("", head, rows, right=frozenset({2, 3}), notes=("   ".join(totals),))


def pair(titles: tuple[str, str], summaries: tuple[Summary, Summary]) -> Table:
    """Lay out two models side by side, `titles` over their layers and before their totals."""
    head = [part for title in titles for part in (title, "parameters", "buffers")]
    rows = []
    for sides in aligned(summaries[0].rows, summaries[1].rows):
        texts = [
            text for row in sides for text in ((_label(row), *_numbers(row)) if row else [""] * 3)
        ]
        rows.append(tuple(map(TableCell, (*texts, *{_shape(row) for row in sides if row}))))
    notes = [
        "   ".join((title, *_totals(summary)))
        for title, summary in zip(titles, summaries, strict=True)
    ]
    right = frozenset({1, 2, 4, 5})
    return Table("", (*head, "output shape"), tuple(rows), right=right, notes=tuple(notes))


def _leaves(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that get a row: those without children, or with tensors of their own."""
    children = list(module.named_children())
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if isinstance(module, OverTime) or own or not children:
        if not isinstance(module, SILENT):
            yield path, module
        return
    for name, child in children:
        yield from _leaves(f"{path}.{name}" if path else name, child)


def _kind(layer: nn.Module) -> str:
    """Name the torch layer that this one is, derives from, or is called after."""
    if isinstance(layer, OverTime):
        return _kind(layer.layers[0])
    for kind in type(layer).__mro__[: type(layer).__mro__.index(nn.Module)]:
        if kind.__module__.startswith("torch.nn.") and not kind.__name__.startswith("_"):
            return kind.__name__
    own = type(layer).__name__
    axes = getattr(layer, "dims", None)  # torch has a class for each number of spatial axes
    torchs = f"{own}{max(1, axes)}d" if isinstance(axes, int) else own
    return torchs if hasattr(nn, torchs) else own


def _forward(model: nn.Module, shape: Sequence[int]) -> None:
    """Run one forward of a blank image in evaluation, so that no buffer changes."""
    training, like = model.training, next(model.parameters())
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape, device=like.device, dtype=like.dtype))
    finally:
        model.train(training)


def _keys(rows: Sequence[LayerRow]) -> list[tuple[object, ...]]:
    return [(row.path, row.output_shape) for row in rows]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _label(row: LayerRow) -> str:
    return row.name if row.groups == 1 else f"{row.name} ({row.groups} groups)"


def _shape(row: LayerRow) -> str:
    return f"[{', '.join(map(str, row.output_shape))}]"


def _numbers(row: LayerRow) -> tuple[str, str]:
    return f"{row.parameters:,}", f"{row.buffers:,}"


def _totals(summary: Summary) -> tuple[str, ...]:
    share = 100 * summary.norm / summary.trainable
    return (
        f"trainable {summary.trainable:,}",
        f"norm {summary.norm:,} ({share:.1f} %)",
        f"buffers {summary.buffers:,}",
        f"norm=none: {summary.without:,}",
    )

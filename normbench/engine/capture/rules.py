"""How operators compute for several lanes at once, whose tensors lie in one with a first axis more.

A rule takes an operator and its arguments, with such a stack (lanes, ...) for each tensor, and
returns stacks of the results. It may raise where it does not know how: then each lane calls the
operator for itself. None is trusted: what it gives is held against each lane's own result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

Rule = Callable[..., Any]
aten = torch.ops.aten
NONE, MEAN = 0, 1  # torch's numbers for reductions of a loss
VECTOR = 8  # float32 values that a processor computes at a time in batch norm
WHOLE = {aten.sum.default: aten.sum.dim_IntList, aten.mean.default: aten.mean.dim}


class NoRule(Exception):
    """These arguments are not for this rule."""


@dataclass(frozen=True)
class Case:
    """An operator, and whether a lane's own feature maps are channels-last."""

    op: OpOverload
    last: bool

    def rule(self) -> Rule | None:
        """Return the rule for the operator, if there is one."""
        name = self.op._schema.name.rpartition("::")[2]
        pointwise = torch.Tag.pointwise in self.op.tags
        return RULES.get(name, _pointwise if pointwise else None)

    def wide(self, x: Tensor) -> Tensor:
        """Put lanes (K, n, c, ...) beside each other as channels (n, K c, ...)."""
        if x.dim() < 3:
            raise NoRule
        return self._merged(x.transpose(0, 1), 1)

    def long(self, x: Any) -> Any:
        """Put lanes (K, n, ...) one after the other (K n, ...); anything else stays as it is."""
        return self._merged(x, 0) if isinstance(x, Tensor) else x

    def _merged(self, x: Tensor, axis: int) -> Tensor:
        """Make one axis of two, as a view if that is possible, else in the lanes' own format."""
        if not self.last or x.dim() != 5:
            return x.contiguous().flatten(axis, axis + 1)
        order, at = ((0, 3, 4, 1, 2), 3) if axis else ((0, 1, 3, 4, 2), 0)
        return x.permute(order).contiguous().flatten(at, at + 1).permute(0, 3, 1, 2)


def narrow(x: Tensor, lanes: int) -> Tensor:
    """Take channels apart again that `wide` has put beside each other."""
    return torch.unflatten(x, 1, (lanes, -1)).transpose(0, 1)


def rows(x: Any, lanes: int) -> Any:
    """Take apart again what `long` has put one after the other."""
    if not isinstance(x, Tensor):
        return x
    return torch.unflatten(x, 0, (lanes, -1)) if x.numel() else x.expand(lanes, 0)


def inner(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Make a stack (lanes, n, ...) that lies as (n, lanes, ...): there lanes are like channels."""
    lanes, n, *rest = shape
    return like.new_empty([n, lanes, *rest]).transpose(0, 1)


def _pointwise(case: Case, *args: Any, **kwargs: Any) -> Any:
    """Broadcast behind the axis of lanes."""
    most = max(each.dim() for each in args if isinstance(each, Tensor))
    return case.op(*(_lifted(each, most) for each in args), **kwargs)


def _lifted(value: Any, dim: int) -> Any:
    if isinstance(value, Tensor):
        for _ in range(dim - value.dim()):
            value = value.unsqueeze(1)
    return value


def _axis(axis: int) -> int:
    return axis + 1 if axis >= 0 else axis


def _along(count: int) -> Rule:
    """Make the rule of an operator whose `count` arguments behind the tensor are axes."""

    def rule(case: Case, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        axes = args[:count] or (0,)  # the default of `slice`
        return case.op(x, *map(_axis, axes), *args[count:], **kwargs)

    return rule


def _reduction(before: int) -> Rule:
    """Make the rule of a reduction whose axes come after `before` arguments behind the tensor."""

    def rule(case: Case, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        given = args[before] if len(args) > before else None
        axes = [*map(_axis, given)] if given else [*range(1, x.dim())]
        if not axes:
            raise NoRule
        op = WHOLE.get(case.op, case.op)
        return op(x, *args[:before], axes, *args[before + 1 :], **kwargs)

    return rule


def _same(case: Case, x: Tensor, **kwargs: Any) -> Any:
    return case.op(x, **kwargs)


def _flip(case: Case, x: Tensor) -> Tensor:
    return x.transpose(1, 2) if x.dim() == 3 else x


def _view(case: Case, x: Tensor, shape: Any) -> Tensor:
    return x.reshape(len(x), *shape)


def _permute(case: Case, x: Tensor, axes: Any) -> Tensor:
    return x.permute(0, *(axis % (x.dim() - 1) + 1 for axis in axes))


def _expand(case: Case, x: Tensor, shape: Any, **kwargs: Any) -> Tensor:
    made: Tensor = _lifted(x, len(shape) + 1).expand(len(x), *shape)
    return made


def _softmax_back(case: Case, g: Tensor, y: Tensor, axis: int, dtype: Any) -> Any:
    return case.op(g, y, _axis(axis), dtype)


def _product(case: Case, a: Tensor, b: Tensor) -> Tensor:
    """Multiply a (lanes, n, m) with b (lanes, m, k)."""
    return torch.bmm(a, b, out=inner(a, (len(a), a.shape[1], b.shape[2])))


def _sum_of_product(case: Case, bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    out = inner(a, (len(a), a.shape[1], b.shape[2]))
    return torch.baddbmm(_lifted(bias, 3), a, b, out=out)


def _convolution(case: Case, x: Tensor, w: Tensor, bias: Any, *how: Any) -> Any:
    lanes, (*shape, groups) = len(x), how
    y = case.op(case.wide(x), case.long(w), case.long(bias), *shape, lanes * groups)
    return narrow(y, lanes)


def _convolution_back(
    case: Case, g: Tensor, x: Tensor, w: Tensor, biases: Any, *how: Any
) -> tuple[Any, ...]:
    lanes, (*shape, groups, mask) = len(x), how
    sizes = biases and [lanes * size for size in biases]
    wide = case.wide(g), case.wide(x), case.long(w)
    gx, *rest = case.op(*wide, sizes, *shape, lanes * groups, mask)
    gx = narrow(gx, lanes) if mask[0] else None
    return gx, *(rows(each, lanes) for each in rest)


def _pool(case: Case, x: Tensor, *how: Any) -> tuple[Any, ...]:
    return tuple(narrow(each, len(x)) for each in case.op(case.wide(x), *how))


def _pool_back(case: Case, g: Tensor, x: Tensor, *how: Any) -> Any:
    made = case.op(case.wide(g), case.wide(x), *how[:-1], case.wide(how[-1]))
    return narrow(made, len(x))


def _batch_norm(case: Case, x: Tensor, w: Any, b: Any, *how: Any) -> tuple[Any, ...]:
    lanes, running = len(x), [_in_place(each) for each in how[:2]]
    y, *rest = case.op(case.wide(x), case.long(w), case.long(b), *running, *how[2:])
    return narrow(y, lanes), *(rows(each, lanes) for each in rest)


def _batch_norm_back(
    case: Case, g: Tensor, x: Tensor, w: Any, mean: Any, var: Any, *given: Any
) -> tuple[Any, ...]:
    lanes, (*saved, train, eps, mask) = len(x), given
    vectors = [case.long(each) for each in (w, mean, var, *saved)]
    gx, *rest = case.op(case.wide(g), case.wide(x), *vectors, train, eps, [True] * 3)
    gx, gw, gb = narrow(gx, lanes), *(rows(each, lanes) for each in rest)
    if x.shape[2] % VECTOR and train and (case.last or x.dim() == 3):
        _last_channels(gx, g, x, w, *saved, gw, gb)
    return gx, gw if mask[1] else None, gb if mask[2] else None


def _last_channels(
    gx: Tensor, g: Tensor, x: Tensor, w: Any, mean: Tensor, scale: Tensor, *sums: Tensor
) -> None:
    """Compute the gradient of a lane's last channels as it does alone: without fused products.

    There they fill no vector of the processor, which rounds once where this rounds twice.
    """
    last, count = -(x.shape[2] % VECTOR), x[0].numel() // x.shape[2]

    def cut(value: Tensor) -> Tensor:
        return value[:, None, last:, None, None] if x.dim() == 5 else value[:, None, last:]

    scale, gw, gb = cut(scale), *map(cut, sums)
    slope = gw.mul(scale).div_(count)
    made = g[:, :, last:].sub(gb / count).sub_(x[:, :, last:].sub(cut(mean)).mul_(slope))
    made.mul_(scale)
    gx[:, :, last:].copy_(made if w is None else made.mul_(cut(w)))


def _in_place(value: Any) -> Any:
    """Return running statistics as a vector in the same memory, for they are written to."""
    return value.view(-1) if isinstance(value, Tensor) else value


def _group_norm(case: Case, x: Tensor, w: Any, b: Any, *sizes: Any) -> tuple[Any, ...]:
    lanes, (n, c, area, groups, eps) = len(x), sizes
    how = n, lanes * c, area, lanes * groups
    made = case.op(case.wide(x), case.long(w), case.long(b), *how, eps)
    return tuple(narrow(each, lanes) for each in made)


def _group_norm_back(case: Case, g: Tensor, x: Tensor, *given: Any) -> tuple[Any, ...]:
    lanes, (mean, rstd, w, n, c, area, groups, mask) = len(x), given
    wide = [case.wide(each) for each in (g, x, mean, rstd)]
    gx, *rest = case.op(*wide, case.long(w), n, lanes * c, area, lanes * groups, mask)
    return narrow(gx, lanes), *(rows(each, lanes) for each in rest)


def _loss(case: Case, logs: Tensor, y: Tensor, weight: Any, how: int, ignored: int) -> Any:
    if weight is not None or how != MEAN:
        raise NoRule
    each = case.op(case.long(logs), case.long(y), None, NONE, ignored)[0]
    return rows(each, len(y)).sum(1).div_(y.shape[1]), torch.full((len(y),), float(y.shape[1]))


def _loss_back(case: Case, g: Tensor, logs: Tensor, y: Tensor, weight: Any, *how: Any) -> Any:
    reduction, ignored, total = how
    if weight is not None or reduction != MEAN:
        raise NoRule
    # All lanes have as many images, and the gradients of their losses are one and the same.
    args = g[0], case.long(logs), case.long(y), None, reduction, ignored, total[0]
    return rows(case.op(*args), len(y))


RULES: dict[str, Rule] = {
    **{name: _along(1) for name in ("select", "slice", "unsqueeze", "squeeze", "cumsum")},
    **{name: _along(1) for name in ("_softmax", "_log_softmax")},
    "transpose": _along(2),
    **dict.fromkeys(("sum", "mean", "amax", "amin"), _reduction(0)),
    "linalg_vector_norm": _reduction(1),
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), _view),
    **dict.fromkeys(("detach", "alias", "clone", "zeros_like", "ones_like", "_to_copy"), _same),
    **dict.fromkeys(("_log_softmax_backward_data", "_softmax_backward_data"), _softmax_back),
    "t": _flip,
    "permute": _permute,
    "expand": _expand,
    "mm": _product,
    "addmm": _sum_of_product,
    "convolution": _convolution,
    "convolution_backward": _convolution_back,
    "max_pool2d_with_indices": _pool,
    "max_pool2d_with_indices_backward": _pool_back,
    "native_batch_norm": _batch_norm,
    "native_batch_norm_backward": _batch_norm_back,
    "native_group_norm": _group_norm,
    "native_group_norm_backward": _group_norm_back,
    "nll_loss_forward": _loss,
    "nll_loss_backward": _loss_back,
}

"""What norms have in common: with each other, and with torch's own layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from contracts.cases import create, default_dtype, draw, forward_backward
from torch import nn

from normbench.norms._activations import TLU

SHAPES = {0: (6, 5), 1: (6, 5, 7), 2: (6, 5, 4, 3)}
MAPS = (1, 2)


@dataclass(frozen=True)
class Relation:
    """Two modules that compute the same.

    Args: left, right: make them for `channels` and `dims`;
        where: `everything`, `training` (output and gradients) or `output` (in training); dims:
        the spatial axes of the inputs; renamed: parameters of `right` by another name in `left`.
    """

    left: Callable[[int, int], nn.Module]
    right: Callable[[int, int], nn.Module]
    where: str = "everything"
    dims: tuple[int, ...] = (0, 1, 2)
    renamed: dict[str, str] = field(default_factory=dict)
    tolerance: float = 1e-9


class Formula(nn.Module):
    """A function of the input as a module."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


class Joined(nn.Module):
    """Batch statistics of the last `window` outputs of a frozen linear layer, joined."""

    def __init__(self, linear, window):
        super().__init__()
        self.linear, self.window, self.seen = linear, window, []

    def forward(self, x):
        z = self.linear(x)
        self.seen = [*self.seen, z.detach()][-self.window :]
        joined = torch.cat(self.seen)
        axes = (0, *range(2, z.dim()))
        mean, var = joined.mean(axes, keepdim=True), joined.var(axes, unbiased=False, keepdim=True)
        return (z - mean) / (var + 1e-5).sqrt()


def layer(name, **options):
    return lambda channels, dims: create(name, **options).layer(channels, dims)


def linear(channels, dims):
    plain = nn.Conv2d(channels, 6, 3, bias=False) if dims else nn.Linear(channels, 6, bias=False)
    plain.weight.data = draw(tuple(plain.weight.shape), 1)
    return plain


def replaced(name, **options):
    return lambda channels, dims: create(name, **options).linear(linear(channels, dims))


def followed(name, **options):
    """A linear layer and a norm after it."""
    return lambda channels, dims: nn.Sequential(
        OrderedDict(linear=linear(channels, dims), norm=create(name, **options).layer(6, dims))
    )


def with_values(make, **values):
    """Set parameters of a module and keep them out of the random ones."""

    def made(channels, dims):
        module = make(channels, dims)
        for key, value in values.items():
            given = torch.as_tensor(value, dtype=torch.float64)
            getattr(module, key).data = given.expand_as(getattr(module, key)).clone()
            getattr(module, key).requires_grad_(False)
        return module

    return made


def member(over, dims):
    """One of switch's three normalizations, from instance moments with unbiased variances."""

    def function(x):
        places = tuple(range(2, x.dim()))
        mean, var = x.mean(places, keepdim=True), x.var(places, keepdim=True)
        if over:
            square = (var + mean**2).mean(over, keepdim=True)
            mean = mean.mean(over, keepdim=True)
            var = square - mean**2
        return (x - mean) / (var + 1e-5).sqrt()

    return Formula(function)


def switch(*logits):
    make = layer("switch", affine=False)
    return with_values(make, mean_weight=logits, var_weight=logits)


def frn(activation):
    def made(channels, dims):
        norm = create("frn")
        act = norm.activation(nn.ReLU() if activation == "relu" else None, channels, dims)
        if activation == "tlu":
            act.tau.requires_grad_(False)
        return nn.Sequential(OrderedDict(norm=norm.layer(channels, dims), act=act))

    return made


def of_torch(*kinds, **options):
    """A layer of torch: a class for each number of spatial axes."""
    return lambda channels, dims: kinds[dims](channels, **options)


BN = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)
FINAL = {"start": 0, "rmax_end": 0, "dmax_end": 0}
RELATIONS = {
    "gn with one group is ln": Relation(layer("gn", groups=1), layer("ln")),
    "gn with C groups is in": Relation(layer("gn", groups=5), layer("in"), dims=MAPS),
    "brn without limits to correct is bn": Relation(
        layer("brn", rmax=1.0, dmax=0.0, **FINAL), layer("bn"), "training"
    ),
    "cbn with a window of one is bn": Relation(
        replaced("cbn", window=1),
        followed("bn"),
        dims=(0, 2),
        renamed={"linear.weight": "weight"},
    ),
    "ghostbn with one chunk is bn": Relation(layer("ghostbn", size=6), layer("bn")),
    "syncbn with one worker is bn": Relation(layer("syncbn"), layer("bn")),
    "cmbn with a window of one is bn": Relation(layer("cmbn", window=1), layer("bn"), "training"),
    "evalnorm is bn": Relation(layer("evalnorm"), layer("bn"), "training"),
    "cbn with frozen weights joins the last batches": Relation(
        replaced("cbn", window=3, affine=False),
        lambda c, d: Joined(linear(c, d), 3),
        "output",
        dims=(0, 2),
        renamed={"linear.weight": "weight"},
    ),
    "bin with gate 1 is bn": Relation(
        with_values(layer("bin"), gate=1.0), layer("bn"), "training", MAPS
    ),
    "bin with gate 0 is in": Relation(
        with_values(layer("bin"), gate=0.0), layer("in"), "training", MAPS
    ),
    "switch to instances": Relation(
        switch(99.0, 0.0, 0.0), lambda c, d: member((), d), "training", MAPS
    ),
    "switch to layers": Relation(
        switch(0.0, 99.0, 0.0), lambda c, d: member((1,), d), "training", MAPS
    ),
    "switch to the batch": Relation(
        switch(0.0, 0.0, 99.0), lambda c, d: member((0,), d), "training", MAPS
    ),
    "dbn with C groups is bn without affine": Relation(
        layer("dbn", groups=5, affine=False), layer("bn", affine=False), "training"
    ),
    "iternorm with many steps is dbn": Relation(
        layer("iternorm", steps=30, eps=1e-3),
        layer("dbn", eps=1e-3),
        "training",
        (1, 2),
        tolerance=1e-6,
    ),
    "lrn in its two forms": Relation(
        layer("lrn", alpha=5e-4, k=2.0), layer("lrn", divide=False, k=2.0)
    ),
    "divisive of single positions is ln over channels": Relation(
        layer("divisive", sum_window=1, sup_window=1, sigma2=1e-5, affine=False),
        lambda c, d: Formula(lambda x: F.layer_norm(x.movedim(1, -1), (c,)).movedim(-1, 1)),
        dims=MAPS,
    ),
    "wn starts as the layer it replaced": Relation(
        replaced("wn", data_init=False), linear, dims=(0, 2), renamed={"weight": ""}
    ),
    "frn with tau 0 is frn with relu": Relation(frn("tlu"), frn("relu")),
    "bn is torch's": Relation(layer("bn", momentum=0.3), of_torch(*BN, momentum=0.3)),
    "bn with a plain average is torch's": Relation(
        layer("bn", momentum=None), of_torch(*BN, momentum=None)
    ),
    "ln is torch's group norm with one group": Relation(
        layer("ln"), lambda c, d: nn.GroupNorm(1, c)
    ),
    "ln is torch's layer norm without affine": Relation(
        layer("ln", affine=False),
        lambda c, d: nn.LayerNorm(SHAPES[d][1:], bias=False, elementwise_affine=False),
    ),
    "ln of (N, C) is torch's layer norm": Relation(
        layer("ln"), lambda c, d: nn.LayerNorm(c), dims=(0,)
    ),
    "in is torch's, tracked too": Relation(
        layer("in", track=True, momentum=0.2),
        of_torch(
            nn.Module,
            nn.InstanceNorm1d,
            nn.InstanceNorm2d,
            affine=True,
            momentum=0.2,
            track_running_stats=True,
        ),
        dims=MAPS,
    ),
    "gn is torch's": Relation(
        layer("gn", groups=5),
        lambda c, d: nn.GroupNorm(5, c),
        dims=MAPS,
    ),
    "lrn is torch's": Relation(
        layer("lrn", size=4, alpha=0.5),
        lambda c, d: nn.LocalResponseNorm(4, alpha=0.5),
        dims=MAPS,
    ),
    "rms of (N, C) is torch's": Relation(
        layer("rms"), lambda c, d: nn.RMSNorm(c, eps=1e-6), dims=(0,)
    ),
    "pono is torch's layer norm but for the variance": Relation(
        layer("pono", eps=0.0),
        lambda c, d: Formula(
            lambda x: F.layer_norm(x.movedim(1, -1), (c,), eps=0.0).movedim(-1, 1) * 0.8**0.5
        ),
    ),
    "dyt is tanh": Relation(layer("dyt", alpha=1.0, affine=False), lambda c, d: nn.Tanh()),
}


@pytest.mark.parametrize("name", RELATIONS)
def test_two_norms_compute_the_same_where_they_should(name):
    relation = RELATIONS[name]
    for dims in relation.dims:
        hold(relation, SHAPES[dims])


def hold(relation, shape):
    """Compare the modules of a relation over three training forwards and in evaluation."""
    with default_dtype(torch.float64):
        left, right = (make(shape[1], len(shape) - 2) for make in (relation.left, relation.right))
    pairs = paired(relation, left, right)
    for t in range(3):
        both = [forward_backward(module, draw(shape, t)) for module in (left, right)]
        same(relation, both[0][0], both[1][0])
        if relation.where != "output":
            same(relation, both[0][1], both[1][1])
            for one, other in pairs:
                same(relation, one.grad, other.grad)
    if relation.where == "everything":
        same(relation, left.eval()(draw(shape, 9)), right.eval()(draw(shape, 9)))
        expected = dict(right.named_buffers())
        for key, value in left.named_buffers():
            if key in expected:
                same(relation, value, expected[key])


def paired(relation, left, right):
    """Give both modules the same random parameters and return those with gradients in pairs."""
    learned = dict(left.named_parameters())
    pairs = [
        (learned[relation.renamed.get(key, key)], value)
        for key, value in right.named_parameters()
        if relation.renamed.get(key, key) in learned
    ]
    with torch.no_grad():
        for one, other in pairs:
            if one.dim() < 2 and one.requires_grad:
                values = draw(tuple(one.shape), 5)
                one.copy_(values)
                other.copy_(values)
    return [(one, other) for one, other in pairs if one.requires_grad]


def same(relation, one, other):
    tolerance = relation.tolerance
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_the_threshold_splits_the_gradient_at_a_tie_as_torch_does():
    x, up = draw((4, 3, 2, 2), 0), draw((4, 3, 2, 2), 1)
    act = TLU(3, 2).double()
    with torch.no_grad():
        act.tau.copy_(x[0, :, 0, 0])
    tau = act.tau.detach().clone().requires_grad_()
    expected = Formula(lambda x: torch.maximum(x, tau[:, None, None]))
    for one, other in zip(
        forward_backward(act, x, up), forward_backward(expected, x, up), strict=True
    ):
        assert one.equal(other)
    torch.testing.assert_close(act.tau.grad, tau.grad)

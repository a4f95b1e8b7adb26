"""What `normbench probe` measures, against the same worked out by hand, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from commands import document, normbench

from normbench.engine import probe as engine
from normbench.runs import probe
from normbench.runs.job import Job
from normbench.settings import compose

TINY = ("data=synthetic", "data.shape=[1,4,4]", "device=cpu", "model=mlp", "model.width=12")
NET = (*TINY, "model.depth=4", "norm=none", "activation=tanh", "init=xavier_normal", "batch=32")


def configured(*words):
    (cell,) = compose.Grid(compose.loader()).cells([*words], False)
    return cell.config


def by_hand(config):
    """Mean squares of activations, norms of gradients by them and by weights, of each layer."""
    job = Job(config)
    index = torch.cat([job.train.order(config.seed, 0, config.batch)[0]])
    x, y = job.train.gather(index)
    h, kept = x.double().flatten(1), []
    weights = [weight.detach().double().requires_grad_() for weight in weights_of(config)]
    for weight in weights:
        h = (h @ weight.T).tanh()  # biases start at 0
        kept.append(h)
    logits = h @ job.model.head.weight.double().T
    loss = -(logits - logits.logsumexp(1, keepdim=True))[torch.arange(32), y].mean()
    grads = torch.autograd.grad(loss, [*kept, *weights])
    norms = [math.sqrt(float((grad**2).sum())) for grad in grads]
    return [float((each.detach() ** 2).mean()) for each in kept], norms[:4], norms[4:]


def weights_of(config):
    model = Job(config).model
    return [model.get_parameter(f"layer{number}.linear.weight") for number in range(1, 5)]


def test_factors_are_those_of_a_net_worked_out_by_hand():
    config = configured(*NET)
    found = probe.measure(config, probe.Asked((1, 4), rank=True))
    squares, grads, of_weights = by_hand(config)
    for quantity, expected in (
        ("act_second", squares),
        ("output_grad_norm", grads),
        ("grad_norm", of_weights),
    ):
        values = [found.layers[f"layer{number}"][quantity] for number in range(1, 5)]
        assert values == pytest.approx(expected, rel=1e-9)
    relative = [
        grad / float(weight.detach().double().norm())
        for grad, weight in zip(of_weights, weights_of(config), strict=True)
    ]
    fitted = {
        "growth/activation": np.polyfit(range(4), np.log(squares), 1)[0],
        "growth/gradient": -np.polyfit(range(4), np.log(grads), 1)[0],
        "growth/weight_gradient": -np.polyfit(range(4), np.log(of_weights), 1)[0],
        "growth/relative_gradient": -np.polyfit(range(4), np.log(relative), 1)[0],
        "rank": 12,
        "weight_rank": 12,
        "parameters": 17 * 12 + 3 * 13 * 12 + 13 * 10,
    }
    assert {key: found.metrics[key] for key in fitted} == pytest.approx(fitted, rel=1e-9)


def test_ranks_likeness_and_slopes_are_those_of_numpy():
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    b = torch.randn(9, 5, generator=generator, dtype=torch.float64)
    assert [engine.rank(each) for each in (a, a @ a.T, b, 0 * b)] == [3, 3, 5, 0]
    centred = [(each - each.mean(0)).numpy() for each in (a, b)]
    one, other = (np.linalg.svd(each, full_matrices=False) for each in centred)
    overlap = (one[0].T @ other[0]) ** 2 * np.outer(one[1] ** 2, other[1] ** 2)
    likeness = overlap.sum() / np.sqrt((one[1] ** 4).sum() * (other[1] ** 4).sum())
    assert engine.cka(a, b) == pytest.approx(likeness)
    assert engine.cka(a, 3 * a @ torch.linalg.qr(b[:3, :3])[0] + 5) == pytest.approx(1)
    assert engine.growth([1.0, 0.0]) == pytest.approx(-300 * math.log(10))


def test_errors_of_statistics_fall_with_the_root_of_the_samples():
    found = probe.measure(configured(*NET), probe.Asked(sampling=True))
    assert found.metrics["sampling/mean"] == pytest.approx(-0.5, abs=0.05)
    errors = found.layers["layer1"]
    assert errors["mean_error/512"] == pytest.approx(512**-0.5, rel=0.2)  # in deviations


def test_nets_at_their_start_and_finished_runs_are_measured(tmp_path):
    words = (*TINY, "norm=none,bn", "seeds=2", "model.depth=2", "batch=16")
    found = document("probe", *words, "-o", "a.svg", cwd=tmp_path)["nets"]
    assert [net["norm"] for net in found] == ["none", "bn"]
    assert all(len(net["metrics"]["growth/gradient"]) == 2 for net in found)
    assert (tmp_path / "a.svg").read_text("utf-8").count("<svg") == 1
    assert not (tmp_path / "outputs").exists()
    normbench("train", *TINY, "steps=2", "norm=bn", "tb=false", cwd=tmp_path)
    (net,) = document("probe", "outputs", cwd=tmp_path)["nets"]
    assert 0 < net["metrics"]["cka"][0] < 1
    (judged,) = document("eval", "outputs", "probe=true", cwd=tmp_path)["runs"]
    for metric in ("cka", "saturated", "growth/gradient"):
        expected = net["metrics"][metric][0]
        found = judged["seeds"][0]["final"][f"probe/{metric.replace('/', '_')}"]
        assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--layers", "5:2"), "--layers 5:2: is no range of layers"),
        (("--layers", "2:9"), "--layers 2:9: the net has 4 layers"),
        (("outputs", "norm=bn"), "norm=bn: is settled in finished runs"),
    ],
)
def test_what_cannot_be_measured_is_refused(words, text, tmp_path):
    done = normbench("probe", *words, *TINY[: 5 * ("outputs" not in words)], cwd=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr and "\n  try: " in done.stderr


def test_a_net_that_trains_is_watched(tmp_path):
    """The last step of the drift by hand: the means of two runs, one a step shorter."""
    words = (*TINY, "model.depth=2", "norm=bn", "batch=32", "schedule=constant")
    found = probe.measure(configured(*words, "steps=3"), probe.Asked(along=1))
    nets = []
    for steps in (2, 3):
        job = Job(configured(*words, f"steps={steps}"))
        for _ in job.rows():
            pass
        nets.append(job)
    x = nets[0].train.gather(nets[0].train.order(0, 0, 32)[0].flatten())[0].double()
    before, after = (unit_moments(job.model, x) for job in nets)
    expected = ((after[0] - before[0]).abs() / before[1]).mean()
    assert found.layers["layer1"]["linear_drift"] == pytest.approx(float(expected), rel=1e-4)
    affine = [dict(job.model.get_submodule("layer1.norm").named_parameters()) for job in nets]
    moved = (affine[1]["bias"] - affine[0]["bias"]).abs() / affine[0]["weight"]
    assert found.layers["layer1"]["drift"] == pytest.approx(moved.mean().item(), rel=1e-3)
    assert found.layers["layer1"]["settled"] == 1.0  # the only look


def unit_moments(model, x):
    z = x.flatten(1) @ model.get_parameter("layer1.linear.weight").detach().double().T
    return z.mean(0), z.std(0, correction=0)

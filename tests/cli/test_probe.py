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
    weights = [job.model.get_parameter(f"layer{k}.linear.weight").double() for k in range(1, 5)]
    weights = [weight.detach().requires_grad_() for weight in weights]
    for weight in weights:
        h = (h @ weight.T).tanh()  # biases start at 0
        kept.append(h)
    logits = h @ job.model.head.weight.double().T
    loss = -(logits - logits.logsumexp(1, keepdim=True))[torch.arange(32), y].mean()
    grads = torch.autograd.grad(loss, [*kept, *weights])
    norms = [math.sqrt(float((grad**2).sum())) for grad in grads]
    return [float((each.detach() ** 2).mean()) for each in kept], norms[:4], norms[4:]


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
    fitted = {
        "growth/activation": np.polyfit(range(4), np.log(squares), 1)[0],
        "growth/gradient": -np.polyfit(range(4), np.log(grads), 1)[0],
        "growth/weight_gradient": -np.polyfit(range(4), np.log(of_weights), 1)[0],
        "rank": 12,
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

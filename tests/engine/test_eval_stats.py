"""By which statistics a model is evaluated: running, of the batch, or taken anew from the data."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from contracts.cases import Case, chosen, own, state, train
from engine.test_train import config, kinds
from torch import nn

from normbench import norms
from normbench.engine.evaluate import Evaluator, evenly
from normbench.norms._base import Norm, Running
from normbench.norms._modes import batch_statistics, check_update_bn, update_bn
from normbench.norms._units import Dropout
from normbench.parts import registry
from normbench.runs.check import check_fit
from normbench.runs.job import Job
from normbench.runtime import rng
from normbench.settings.schema import Config
from normbench.sweeps import describe

STATS = ("running", "batch", "dataset")
RUNNING = [case for name in own("norm") for case in chosen(name) if case.norm.has_modes()]
ALONE = {  # options by which an oracle sees its first batch alone and as a whole
    "momentum": 1.0,
    "norm_batch": "worker",
    "size": 99,
    "window": 1,
    "burnin": 0,
    "rmax": 1.0,
    "dmax": 0.0,
    "warmup": 99,
}
ENGINE = [
    "norm=bn",
    "norm=bn norm_batch=4",
    "norm=bn norm.momentum=null",
    "norm=bn model=rnn dropout=0.2",
    "norm=brn norm.start=1 norm.start_share=null",
    "norm=evalnorm norm.alpha=fit",
    "norm=mabn",
    "norm=online",
    "norm=cbn norm.burnin=0 norm.burnin_share=null",
    "norm=cmbn accumulate=2",
    "norm=wn+mean",
    "norm=dbn norm.groups=4",
    "norm=evonorm_b0",
    "norm=switch model=cnn",
    "norm=in norm.track=true model=cnn",
]
FIRST = {case.name: case for case in reversed(RUNNING)}.values()
each_running = pytest.mark.parametrize("case", RUNNING, ids=str)
each_first = pytest.mark.parametrize("case", FIRST, ids=str)
each_engine = pytest.mark.parametrize("words", ENGINE)


def alone(case: Case) -> Case:
    known = registry.facts("norm", case.name).options
    shares = {f"{key}_share": None for key in known if f"{key}_share" in known}
    given = {key: value for key, value in ALONE.items() if key in known}
    return dataclasses.replace(case, options=case.options | shares | given)


def oracle_beside(case: Case, module: nn.Module):
    """An oracle of the batch alone, with the learned values of `module`."""
    oracle = alone(case).oracle()
    with torch.no_grad():
        for key, value in module.named_parameters():
            oracle.parameters[key].copy_(value)
    if hasattr(oracle, "together"):  # one that takes its samples one by one in training
        oracle.train = oracle.together
    return oracle


def statistics(buffers):
    return {key: each for key, each in buffers.items() if "running_" in key}


def batches(case: Case):
    sizes = [3 * case.shape[0] + 2, 3 * case.shape[0] + 3, 4 * case.shape[0]]
    return [
        case.inputs(90 + k, (max(size, 8), *case.shape[1:])) * (1 + k)
        for k, size in enumerate(sizes)
    ]


def short(*words: str) -> Config:
    """A run of a few steps, with a validation at its beginning and its end."""
    given = {word.partition("=")[0] for word in words}
    usual = ("steps=6", "eval_every=9", "batch=32")
    return config(*[each for each in usual if each.partition("=")[0] not in given], *words)


def by(stats: str, chosen: Config) -> Job:
    """The same run, evaluated by `stats`."""
    return Job(dataclasses.replace(chosen, eval_stats=stats))


def judged(job: Job, stats: str) -> Evaluator:
    """Another judge of the same model, that evaluates by `stats`."""
    feeds = {"train": job.train, "val": job.evaluator.val, "test": job.evaluator.tests["test"]}
    step, budget = job.train_step, dataclasses.replace(job.budget, eval_stats=stats)
    return Evaluator(job.model, step.cast, step.norm, feeds, budget)


# ---- one layer ----


def test_every_norm_with_running_statistics_is_among_the_cases():
    names = {name for name in own("norm") if registry.facts("norm", name).constants["running"]}
    assert names | {"in"} == {case.name for case in RUNNING}


@each_running
def test_refreshed_statistics_are_those_of_all_batches_as_one(case):
    """By the law of total variance, whatever the sizes of the batches and their means."""
    module = case.moved()
    train(case, module, range(3))
    before = state(module)
    found = [x + k for k, x in enumerate(batches(case))]
    update_bn(module, found)
    after, oracle = module.state_dict(), oracle_beside(case, module)
    oracle.train(torch.cat(found).requires_grad_())
    expected = statistics(oracle.buffers)
    assert statistics(after).keys() == expected.keys() and expected
    for key, value in statistics(after).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-7, atol=1e-9)
    for key in after.keys() - statistics(after).keys():
        assert after[key].equal(before[key]), key


@each_running
def test_a_plain_training_forward_takes_the_moments_of_the_whole_batch_and_keeps_nothing(case):
    module = case.moved()
    train(case, module, range(3))
    for key, buffer in module.named_buffers():
        if key.endswith("steps"):
            buffer.fill_(50_000)  # late in training, where schedules have come to their end
    before, x = state(module), batches(case)[0]
    with torch.no_grad(), batch_statistics(module.eval()):
        y = module(x)
    expected = oracle_beside(case, module).train(x.clone().requires_grad_()).detach()
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    assert all(value.equal(before[key]) for key, value in module.state_dict().items())
    assert not any(each.training for each in module.modules())
    assert not any(each.plain for each in module.modules() if isinstance(each, Running))


@each_first
def test_training_goes_on_after_a_refresh_that_was_put_back_as_if_there_was_none(case):
    module = case.moved()
    train(case, module, range(3))
    twin = copy.deepcopy(module)
    kept = state(module)
    update_bn(module, batches(case))
    module.load_state_dict(kept)
    train(case, module, range(3, 6))
    train(case, twin, range(3, 6))
    assert all(each.equal(twin.state_dict()[key]) for key, each in module.state_dict().items())


def test_dropout_is_off_while_statistics_are_refreshed():
    layer = norms.create("bn").layer(3, 0)
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    update_bn(nn.Sequential(Dropout(0.5), nn.Dropout(0.5), layer).train(), [x])
    torch.testing.assert_close(layer.running_mean, x.mean(0))


# ---- whole models ----


def test_batches_of_an_evaluation_leave_nothing_out_and_none_is_smaller():
    for images, size in [(500, 33), (500, 500), (7, 64), (64, 64), (127, 64), (2000, 64), (3, 1)]:
        bounds = list(evenly(images, size))
        assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
        assert bounds[-1][1] == images
        lengths = [stop - start for start, stop in bounds]
        assert max(lengths) - min(lengths) <= 1
        assert min(lengths) >= min(size, images) and max(lengths) < 2 * size or len(bounds) == 1


@each_engine
def test_how_a_model_is_evaluated_changes_no_step_of_its_training(words):
    digests, every, chosen = set(), [], short(*words.split())
    for stats in STATS:
        job = by(stats, chosen)
        found = list(job.rows())
        assert found[-1].values["state"] == "finished"
        digests.add(job.state_sha256())
        every.append([row.values for row in kinds(found, "test")])
    assert len(digests) == 1
    assert every[0] != every[1] and every[0] != every[2]


@pytest.mark.parametrize(
    ("words", "size"), [((), 32), (("norm_batch=4",), 4), (("accumulate=4",), 8)]
)
def test_evaluation_by_batch_is_that_of_training_in_batches_of_one_statistic(words, size):
    job = by("batch", short("norm=bn", *words))
    test = kinds(list(job.rows()), "test")[0].values
    feed, seed = job.evaluator.tests["test"], rng.derive(0, "evaluation")
    order = torch.randperm(500, generator=rng.generator(seed, "order", 0))
    left = torch.randperm(500, generator=rng.generator(seed, "rest"))
    left = left[torch.isin(left, order[480:])]  # 15 batches of 32, and one or two more in each
    whole = [
        torch.cat(pair) for pair in zip(order[:480].split(32), left.tensor_split(15), strict=True)
    ]
    pieces = [batch[slice(*pair)] for batch in whole for pair in evenly(len(batch), size)]
    assert sorted(torch.cat(pieces).tolist()) == list(range(500))
    loss, hits = 0.0, 0
    for index in pieces:
        x, y = feed.gather(index)
        logits = by_hand(job.model, x.flatten(1).double())
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
        hits += int((logits.argmax(1) == y).sum())
    assert test["test/loss"] == pytest.approx(loss / 500, rel=1e-5)
    assert test["test/accuracy"] == hits / 500


def by_hand(model, x, moments=None, seen=None):
    """The logits of an mlp with bn: by given moments of each layer, else by those of the batch."""
    tensors = {key: each.double() for key, each in model.state_dict().items()}
    units = [key.removesuffix(".linear.weight") for key in tensors if key.endswith("linear.weight")]
    for k, unit in enumerate(units):
        z = x @ tensors[f"{unit}.linear.weight"].T
        mean, var = (z.mean(0), z.var(0, False)) if moments is None else moments[k]
        if seen is not None:
            seen.append(len(z) * torch.stack([mean, var + mean.square()]))
        z = (z - mean) / (var + 1e-5).sqrt()
        x = (z * tensors[f"{unit}.norm.weight"] + tensors[f"{unit}.norm.bias"]).relu()
    return x @ tensors["head.weight"].T + tensors["head.bias"]


@pytest.mark.parametrize(("batch", "size"), [(32, 64), (100, 100)])
def test_evaluation_by_dataset_joins_the_moments_of_training_batches(batch, size):
    job = by("dataset", short("norm=bn", f"batch={batch}"))
    test = kinds(list(job.rows()), "test")[0].values
    count, found = 2000 // size, []
    order = torch.randperm(2000, generator=rng.generator(0, "statistics"))
    for k in range(count):
        x, _ = job.train.gather(order[2000 * k // count : 2000 * (k + 1) // count])
        seen = []
        by_hand(job.model, x.flatten(1).double(), seen=seen)
        found.append(torch.stack(seen))
    mean, square = (torch.stack(found).sum(0) / 2000).unbind(1)
    moments = list(zip(mean, (square - mean.square()) * (2000 / 1999), strict=True))
    x, y = job.evaluator.tests["test"].gather(torch.arange(0, 500))
    logits = by_hand(job.model, x.flatten(1).double(), moments)
    assert test["test/loss"] == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-5)
    assert test["test/accuracy"] == float((logits.argmax(1) == y).double().mean())


def test_the_gap_is_that_of_training_to_the_chosen_evaluation():
    plain, dropped = (short("batch=8", "steps=10", f"dropout={p}") for p in (0, 0.5))

    def gaps(stats, chosen):
        return [row.values["gap/accuracy"] for row in kinds(list(by(stats, chosen).rows()), "val")]

    assert any(gaps("running", plain))
    assert not any(gaps("batch", plain))
    assert any(gaps("batch", dropped))
    assert gaps("dataset", plain) != gaps("running", plain)


@pytest.mark.parametrize("words", [("norm=gn",), ("norm=none", "dropout=0.2"), ("norm=wn",)])
def test_without_running_statistics_all_evaluations_are_the_same(words):
    chosen = short(*words)
    assert by("dataset", chosen).evaluator.stats == "running"
    one, *others = (list(by(stats, chosen).rows()) for stats in STATS)
    assert all(one == other for other in others)


def test_statistics_taken_anew_repair_what_running_ones_miss_in_a_short_run_of_cbn():
    """Its gradient lets the weights grow, and running statistics lag behind."""
    job = Job(
        config(
            *("norm=cbn", "norm.window=8", "norm.burnin=0", "norm.burnin_share=null"),
            *("norm.momentum=0.01", "model.depth=9", "model.width=64", "steps=40", "warmup=0"),
            *("optimizer.lr=0.3", "optimizer.weight_decay=0", "schedule=constant", "eval_every=9"),
        )
    )
    list(job.rows())
    accuracy = {
        stats: next(judged(job, stats).test(0)).values["test/accuracy"]
        for stats in ("running", "dataset")
    }
    assert accuracy["running"] < 0.2
    assert accuracy["dataset"] > 0.5


# ---- settings ----


class Foreign(Norm):
    """A norm of another package, with torch's own layer."""

    running = True

    def layer(self, channels: int, dims: int) -> nn.Module:
        return nn.BatchNorm1d(channels)


def test_running_statistics_out_of_reach_are_refused_with_dataset(monkeypatch):
    monkeypatch.setattr("normbench.norms.create", lambda name, **options: Foreign())
    chosen = dataclasses.replace(config("norm=bn"), eval_stats="dataset")
    error = check_fit(chosen, (1, 8, 8), 10).error
    assert str(error) == (
        "normbench: error: norm=bn: the running statistics of BatchNorm1d cannot be taken again "
        "from the training set\n  try: eval_stats=running"
    )
    assert check_fit(dataclasses.replace(chosen, eval_stats="batch"), (1, 8, 8), 10).error is None


def test_statistics_that_no_layer_offers_are_refused_too():
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("average", torch.zeros(3))

    with pytest.raises(
        ValueError, match="norm=hidden: the running statistics cannot be taken again"
    ):
        check_update_bn(Foreign(), "hidden", nn.Sequential(Hidden()))


def test_the_setting_names_an_evaluation_and_no_training():
    made = {stats: config(f"eval_stats={stats}") for stats in STATS}
    assert len({each.name for each in made.values()}) == 1
    assert len({each.evaluation_name for each in made.values()}) == 3
    assert made["running"].evaluation_name == ""
    assert "eval_stats" not in made["batch"].experiment()


def test_with_a_target_the_setting_is_part_of_the_training():
    made = {stats: config(f"eval_stats={stats}", "target=0.9") for stats in STATS}
    assert len({each.name for each in made.values()}) == 3
    assert {each.evaluation_name for each in made.values()} == {""}
    assert made["batch"].experiment()["eval_stats"] == "batch"


def test_the_heading_names_another_evaluation_than_the_usual():
    assert "eval_stats" not in describe.heading(config(), 1)[1]
    assert describe.heading(config("eval_stats=dataset"), 1)[1].endswith("   eval_stats=dataset")

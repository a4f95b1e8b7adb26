"""Everything that one run has in memory: model, optimizer, batches, evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normbench.display import pictures
from normbench.engine import augment, transforms
from normbench.engine.budget import PRETRAINING, Budget, Diverged, Progress
from normbench.engine.capture.captured import same
from normbench.engine.evaluate import Evaluator
from normbench.engine.loader import BlankSteps, Feed, Sampling
from normbench.engine.sampler import Sampler
from normbench.engine.train import Due, StepOptions, TrainStep, fit
from normbench.errors import FileRefused
from normbench.inits._base import InitContext
from normbench.norms._modes import average_running, batch_statistics, calibrate
from normbench.rows import Halt, Row, finite
from normbench.runs import build, checkpoint
from normbench.runs.state import attributes, fitting, in_place, mine, of_others, part_of, random
from normbench.runtime import collectives
from normbench.settings import inputs
from normbench.settings.schema import Config, part

if TYPE_CHECKING:
    from normbench.data._base import Dataset

# Examples from which data-dependent starts are set, where the batch is not larger: the variance of
# two values says nothing, and wn at batch 2 then starts with lengths that end at chance.
CALIBRATION = 64
DRAWN = 64  # images of a batch at most


class Job:
    """The parts of one run, made and joined; `rows` trains.

    It can be kept at each `Halt` among the rows (`state`), and another job of the same config goes
    on from there (`load`) to the same bits.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        feeds = feeds_of(config)
        self.model = empty_model(config)
        self.optimizer = part("optimizer", config.optimizer).bind(self.model)
        norm = build.norm(config)
        self._agree()
        steps = {each.name: getattr(config, each.name) for each in fields(StepOptions)}
        self.train_step = TrainStep(self.model, self.optimizer, norm, StepOptions(**steps))
        self.budget = budget(config)
        self.train = feeds["train"]
        self.evaluator = Evaluator(self.model, self.train_step.cast, norm, feeds, self.budget)
        self.evaluator.facts = facts(config, feeds)
        self.at = Progress()
        self.attributes = attributes(self.model)
        self._kept: Mapping[str, Tensor] = {}  # of a run in the middle of pre-training

    def rows(self) -> Iterator[Row | Halt | Due]:
        """Start from data what asks for it, train, and return every row of the run."""
        config = self.config
        schedule = part("schedule", config.schedule)
        lr = schedule.over(self.budget.steps, config.lr, config.warmup)
        start = self.start()
        return fit(self.train, self.train_step, lr, self.evaluator, self.at, start)

    def state(self, halt: Halt) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return copies of all tensors and the facts from which the run goes on after a halt.

        None where a module keeps something besides parameters, buffers and generators of dropout,
        which no file could bring back. Of several workers, all of which call but in pre-training,
        the first has the tensors of all.
        """
        whole = same(self.attributes, attributes(self.model))
        together = self.at.stage != PRETRAINING  # in which all have the same, and do not talk
        if not (collectives.all_are(whole) if together else whole):
            return None
        parts = {
            "step": self.train_step.sums.state(),
            "noise": self.evaluator.noise.state(),
            "init": halt.state(),
            "random": random(self.config.device),
        }
        named = {f"{part}.{name}": each for part in parts for name, each in parts[part].items()}
        # Copies: flat optimizers make of all parameters views of one tensor.
        tensors = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in {**self._tensors(), **named}.items()
        }
        if together:
            own = (
                "noise.",
                "random.",
                *(f"model.{name}" for name, _ in self.model.named_buffers()),
            )
            tensors |= of_others({k: each for k, each in tensors.items() if k.startswith(own)})
        more = {key: value for key, value in self.evaluator.facts.items() if "pretrain/" in key}
        about = {"stage": self.at.stage, "step": self.at.step, "reached": self.at.reached}
        return tensors, {**about, "facts": more}

    def load(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises: FileRefused if names, shapes or dtypes are not those of this run.
        """
        tensors = mine(tensors)
        fitting(self.config.directory / checkpoint.NAME, tensors, self._tensors())
        self.at.stage, self.at.step, self.at.reached = (
            about[key] for key in ("stage", "step", "reached")
        )
        self.evaluator.facts |= about["facts"]
        if self.at.stage == PRETRAINING:
            self._kept = tensors
        else:
            self._fill(tensors)
        self.train_step.sums.load(part_of(tensors, "step"), self.optimizer.grad.device)
        self.evaluator.noise.load(part_of(tensors, "noise"))
        states = part_of(tensors, "random")
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"])

    def _tensors(self) -> dict[str, Tensor]:
        return in_place(self.model, self.optimizer)

    @torch.no_grad()
    def _fill(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self._tensors().items():
            tensor.copy_(tensors[name])  # in place: flat parameters and recorded steps hold views

    def picture(self) -> bytes:
        """Draw the first batch of training as the model gets it: each channel over its range."""
        x = next(self.train.epoch(0))[0][:DRAWN].float().cpu()
        low, high = x.amin((0, 2, 3), keepdim=True), x.amax((0, 2, 3), keepdim=True)
        pixels = ((x - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
        return pictures.png(pictures.tiles(pixels.permute(0, 2, 3, 1).numpy()))

    def state_sha256(self) -> str:
        """Digest all model and optimizer tensors: name, dtype, shape and bytes, by name."""
        average_running(self.model)
        total = hashlib.sha256()
        tensors: dict[str, Tensor] = {
            **{f"model.{name}": tensor for name, tensor in self.model.state_dict().items()},
            **{f"optimizer.{name}": tensor for name, tensor in self.optimizer.state_dict().items()},
        }
        for name, tensor in sorted(tensors.items()):
            plain = tensor.detach().cpu().contiguous()
            total.update(f"{name}\0{plain.dtype}\0{tuple(plain.shape)}\0".encode())
            total.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()

    def _agree(self) -> None:
        """See to it that all workers train the same, from the same values.

        Raises: FileRefused if they have not the same configuration and data.
        """
        if collectives.world_size() == 1:
            return
        config = self.config
        own = hashlib.sha256(f"{config.sha256} {config.seed} {config.digest}".encode())
        unlike = collectives.unlike_first(own.hexdigest(), config.device)
        if unlike:
            who = f"worker {unlike[0]}" if len(unlike) == 1 else f"workers {unlike}"
            why = f"{who} had another configuration or other data than worker 0"
            raise FileRefused(str(config.directory), why, "the same command and data everywhere")
        collectives.from_first([self.optimizer.params, *self.model.buffers()])

    def start(self) -> Iterator[Row | Halt]:
        """Let the norm set itself from training images, then the initializer, which may train.

        Raises: Diverged, after its row, if a number is not finite.
        """
        config, facts = self.config, self.evaluator.facts
        # By an iid batch, whatever the order: runs that differ in it start from the same weights.
        order = Sampler().batches(self.train.labels, config.batch, config.seed, 0).flatten()
        first = order[: max(config.batch, CALIBRATION)].to(self.train.device)
        images = self.train.gather(first)[0]
        with batch_statistics(self.model):  # these examples are one set, however batches are cut
            if self._kept:
                self._fill(self._kept)
            elif not build.init(config).settled:
                calibrate(self.model, images)
            context = InitContext(
                gather=lambda index: self.train.gather(index)[0],
                count=len(self.train),
                first=images,
                norm=self.train_step.norm,
                cast=self.train_step.cast,
                seed=config.seed,
                log_every=config.log_every,
                halts=self.at.halts,
                kept=part_of(self._kept, "init"),
            )
            for row in build.init(config).calibrate(self.model, context):
                yield row
                if isinstance(row, Halt):
                    continue
                facts |= {"pretrain/steps": row.step, "pretrain/examples": row.examples}
                for quantity, value in row.values.items():
                    if finite(value) is None:
                        raise Diverged(row.step, quantity, facts)
        collectives.from_first([self.optimizer.params])


def empty_model(config: Config) -> nn.Module:
    """Build the model of a run on its device, with initial weights."""
    model = build.model(config, config.shape, config.classes)
    return model.to(config.device).to(memory_format=build.memory_format(config))


def feeds_of(config: Config) -> dict[str, Feed]:
    """Make what a run takes its images from: `train`, `val`, and unless it is of tuning, tests."""
    data, device = build.data(config), torch.device(config.device)
    how = build.scaling(config), device, build.memory_format(config)
    blanks = BlankSteps(config.blank_steps, config.step_rows)
    train = Feed(data.train, *how, blanks).for_training(_sampling(config, data, device))
    feeds = {"train": train, "val": Feed(data.val, *how, blanks)}
    if config.tuning:
        return feeds
    test = Feed(build.data(config.tested).test, *how, blanks)
    return {**feeds, "test": test, **_tests(config, test)}


def facts(config: Config, feeds: Mapping[str, Feed]) -> dict[str, float]:
    """Return what holds for a whole run.

    These are the examples of a step, of one worker's forward, and behind one batch statistic, and
    accuracy and loss of guessing on the validation and the test images.
    """
    judged = {name: feeds[name] for name in ("val", "test") if name in feeds}
    return {
        "batch/global": config.batch,
        "batch/worker": config.worker_batch,
        "batch/statistics": config.stat_batch,
        **{f"chance/{name}": feed.chance for name, feed in judged.items()},
        **{f"chance/{name}_loss": feed.chance_loss for name, feed in judged.items()},
    }


def _sampling(config: Config, data: Dataset, device: torch.device) -> Sampling:
    """Say how training images come in batches, and how they are augmented."""
    sampler = Sampler(part("order", config.order), config.reshuffle)
    kinds = inputs.augmentations(config.augment)
    change = augment.Augment(kinds, data.shape, data.mean, device) if kinds else None
    return Sampling(sampler, change, config.batch, config.accumulate, config.seed)


def _tests(config: Config, feed: Feed) -> dict[str, Feed]:
    """The test images once more for each shift, number of blank steps and domain, by name."""
    feeds = [feed.with_shift(transforms.Shift(*inputs.read_shift(word))) for word in config.shifts]
    feeds += [feed.with_pad_steps(steps) for steps in config.test_blank_steps]
    if config.mix != "none":
        second = transforms.inverted_half(feed.labels)
        feeds += [feed.only(~second), feed.only(second)]
    return dict(zip(config.tests, feeds, strict=True))


def budget(config: Config) -> Budget:
    """Say how long a run trains, and what is due when."""
    assert config.steps
    return Budget(
        steps=config.steps,
        batch=config.batch,
        accumulate=config.accumulate,
        steps_per_epoch=config.steps_per_epoch,
        log_every=config.log_every,
        eval_steps=config.eval_steps,
        seed=config.seed,
        stat_batch=config.stat_batch,
        eval_stats=config.eval_stats,
        diagnose=config.diagnose,
        target=config.target,
        capture=config.capture,
    )

"""The one training loop: seeded, resumable, bounded in time."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evo_robust.data.images import Images, batches
from evo_robust.files import DamagedFile, read_tensors, write_tensors
from evo_robust.inference.checks import check_logits, check_trainable, checked_images, highest_label, known_good
from evo_robust.parts.base import UserError, digest, seed_from
from evo_robust.spaces.base import Architecture
from evo_robust.spaces.ops import fit_normalization
from evo_robust.spaces.supernet import Supernet
from evo_robust.training.average import WeightAverage
from evo_robust.training.beside import Choice, Companion
from evo_robust.training.epochs import EpochLog, expect, logs_of
from evo_robust.training.recipes import Recipe
from evo_robust.training.together import Group

Paths = Callable[[int], Iterator[Sequence[Architecture]]]
"""Gives, for an epoch counted from 0, the architectures of each step in turn; endless."""


# Steps between two checks of the loss: each check waits for the device.
_LOOK_EVERY = 50


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


class TimeLimit(RuntimeError):
    """The deadline passed before training ended."""


def train(
    model: nn.Module,
    images: Images,
    recipe: Recipe,
    epochs: int,
    *,
    seed: int,
    deadline: float | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
    paths: Paths | None = None,
    until: int | None = None,
    companion: Companion | None = None,
    choice: Choice | None = None,
    group: Group | None = None,
) -> list[EpochLog]:
    """Train ``model`` in place and leave it in eval mode.

    The result depends only on the arguments and the number of threads. Torch's global generators, which dropout uses,
    are seeded inside and restored afterwards. A last batch of a single image is left out, since batch normalisation
    needs two.

    Args:
        model: network from images in [0,1] to logits; its ``Normalize`` layers are fitted to ``images``.
        images: training images, at least 2; they may lie on another device than the model.
        recipe: loss, optimiser and augmentation (none where ``recipe.augment`` is None).
        epochs: passes over the images, >= 0.
        seed: seed of batches, augmentation, attacks and dropout, in [0, 2**63).
        deadline: ``time.monotonic()`` value after which training stops.
        checkpoint: file written after each epoch. Where it exists, training resumes from it, and the result is the
            same to the bit as without interruption.
        on_epoch: called after each epoch with its figures.
        paths: for a supernet, the architectures of each step. The recipe attacks each of them separately, and the
            step's gradient is the mean of theirs. Weights that none of them uses do not change, neither by momentum nor
            by weight decay. The paths must depend on the epoch only, or a resumed training gives another result.
        until: stop after this many of the epochs. A later call with the same arguments goes on under the same schedule.
            Needs a ``checkpoint``.
        companion: state that changes together with the weights (``paths`` may move a distribution over architectures);
            it is saved in the checkpoint too.
        choice: looks at the network after each epoch, may end the training early, and may choose the weights of an
            earlier epoch. It is saved in the checkpoint too.
        group: the processes that train this network together, each with the same arguments. A last batch with fewer
            than two images for each of them is left out. The first one writes the checkpoint. Not with ``paths``.

    Returns:
        The figures of all epochs so far, including those before an interruption.

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
        TimeLimit: the deadline passed.
        UserError: the checkpoint is damaged or belongs to another training.
        ValueError: fewer than 2 images; a negative number of epochs; paths for a model that is no supernet, or with a
            recipe that averages weights; ``until`` without a checkpoint, or with a ``choice``; a network without
            trainable weights, or without logits ``(n, classes)``; or labels outside the classes.

    Example:
        >>> data, space = Digits(), NSGAPhases(channels=4)
        >>> model = space.build(space.seeds()[0], data.n_classes, data.in_shape)
        >>> logs = train(model, data.load().train, Standard(), epochs=2, seed=0)
        >>> [log.epoch for log in logs]
        [1, 2]
    """
    device = _check_arguments(model, images, recipe, epochs, seed, paths, group)
    if until is not None and (checkpoint is None or choice is not None):
        wrong = "until without one" if checkpoint is None else "until with a choice of weights"
        raise ValueError(f"expected a checkpoint where training stops early, got {wrong}")
    last = epochs if until is None else min(epochs, until)
    with (
        checked_images(model, images, gradient=True, device=device) as images,
        torch.enable_grad(),
        reproducible(device, seed_from(seed, "layers")),
    ):
        model.to(memory_format=torch.channels_last)
        run = _Run(model, images, recipe, seed, paths, choice, group)
        shapes = [(k, list(v.shape)) for k, v in model.state_dict().items()]
        identity = digest(recipe, epochs, seed, len(images), shapes, *([] if choice is None else [choice.identity]))
        identity = identity if group is None else digest(identity, "processes", group.size)
        if checkpoint is not None and checkpoint.exists():
            run.restore(checkpoint, identity, companion)
            if len(run.logs) > epochs:
                raise DamagedFile(checkpoint, f"it was written after {len(run.logs)} epochs, more than {epochs}")
        else:
            fit_normalization(model, images.x)
            run.begin_average()
        model.train()
        try:
            for epoch in range(len(run.logs), last):
                if choice is not None and choice.ended:
                    break
                log = run.epoch(epoch, recipe.lr_at(epoch, epochs), deadline)
                if checkpoint is not None and (group is None or group.rank == 0):
                    run.save(checkpoint, identity, companion)
                if on_epoch is not None:
                    on_epoch(log)
            run.take_chosen()
        finally:
            model.eval()
    return run.logs


def _check_arguments(
    model: nn.Module,
    images: Images,
    recipe: Recipe,
    epochs: int,
    seed: int,
    paths: Paths | None,
    group: Group | None,
) -> torch.device:
    """Refuse arguments that cannot be trained with; returns the model's device."""
    if not isinstance(recipe, Recipe):
        raise ValueError(f"expected a recipe, such as PGDTraining(), got {recipe!r}")
    device = check_trainable(model)
    highest_label(images)
    if not isinstance(epochs, int) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"expected whole numbers, epochs and seed in [0, 2**63), got {epochs!r} and {seed!r}")
    if len(images) < 2 or epochs < 0:
        raise ValueError(f"expected at least 2 images and epochs >= 0, got {len(images)} and {epochs}")
    if paths is not None and not isinstance(model, Supernet):
        raise ValueError(f"expected a supernet where paths are given, got {type(model).__name__}")
    if paths is not None and group is not None:
        raise ValueError("expected one process for a supernet, got a group of several")
    if paths is not None and recipe.ema is not None:
        raise ValueError(f"expected no average of a supernet's weights, got ema={recipe.ema}")
    return device


@contextlib.contextmanager
def reproducible(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators and choose deterministic convolutions; on leaving, restore both."""
    cuda = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(cuda),
        torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,
            benchmark=False,
            deterministic=True,
            allow_tf32=torch.backends.cudnn.allow_tf32,
        ),
    ):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


class _Run:
    """A training in progress: everything that a checkpoint must hold."""

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        recipe: Recipe,
        seed: int,
        paths: Paths | None,
        choice: Choice | None = None,
        group: Group | None = None,
    ) -> None:
        self.model = model
        self.images = images
        self.recipe = recipe
        self.bf16 = recipe.precision == "bf16"
        self.device = next(model.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.parameters, recipe)
        self.logs: list[EpochLog] = []
        self.paths = paths
        self.choice = choice
        self.group = group
        self.seed = seed
        self.own = self.generator  # for attacks; of several processes each has one of its own
        self.average: WeightAverage | None = None
        self._content: str | None = None
        if paths is not None and recipe.momentum > 0:
            # fused SGD cannot mix weights that have momentum with weights that have none yet
            for parameter in self.parameters:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def epoch(self, number: int, lr: float, deadline: float | None) -> EpochLog:
        """One pass over the images."""
        started = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        totals = torch.zeros(2, device=self.device)  # loss and errors, summed on the device: no waiting per step
        seen = steps = 0
        self._own_randomness(number)
        fewest = 2 if self.group is None else 2 * self.group.size
        paths = None if self.paths is None else self.paths(number)
        for x, y in batches(self.images, self.recipe.batch_size, self.generator, self.recipe.augment):
            if len(y) < fewest:
                continue
            if deadline is not None and time.monotonic() > deadline:
                raise TimeLimit(f"time limit reached in epoch {number + 1} of training")
            totals += self._step(x, y, [None] if paths is None else next(paths))
            seen, steps = seen + len(y), steps + 1
            if steps % _LOOK_EVERY == 0:
                _check(totals, number)
        # if the last step ruined the weights, no loss of this epoch shows it
        sound = torch.stack([parameter.detach().isfinite().all() for parameter in self.parameters]).all()
        _check(totals.where(sound, torch.nan), number)
        loss, error = (totals / seen).tolist()
        if self.group is not None:
            self.group.average_statistics(self.model)
        judged = self._judged(number + 1)
        self.logs.append(EpochLog(number + 1, loss, error, lr, round(time.monotonic() - started, 3), judged))
        return self.logs[-1]

    def _own_randomness(self, number: int) -> None:
        """Of several processes, give this one its own random numbers for attacks and dropout in an epoch."""
        if self.group is not None:
            self.own = torch.Generator(self.device).manual_seed(self.group.seed(self.seed, number, "attack"))
            torch.manual_seed(self.group.seed(self.seed, number, "layers"))

    def begin_average(self) -> None:
        """Begin the average of the weights with the present ones, where the recipe wants one."""
        if self.recipe.ema is not None:
            self.average = WeightAverage(self.model, self.recipe.ema)

    def _judged(self, epoch: int) -> float | None:
        """Error on the validation split, of the weights that the network would get now."""
        if self.choice is None:
            return None
        with contextlib.nullcontext() if self.average is None else self.average.instead():
            return self.choice.look(self.model, epoch)

    def take_chosen(self) -> None:
        """Give the network the weights that it ends with: chosen ones, else their average, else the last ones."""
        if self.choice is not None and (chosen := self.choice.chosen()) is not None:
            self.model.load_state_dict(chosen)
        elif self.average is not None:
            self.average.copy_into_model()

    def _step(self, x: Tensor, y: Tensor, paths: Sequence[Architecture]) -> Tensor:
        """One step of SGD; gives loss and errors, float32 ``(2,)``: summed over the batch, averaged over the paths."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(2, device=self.device)
        whole = len(y)
        if self.group is not None:
            x, y = self.group.share(x, y)
        for path in paths:
            if isinstance(self.model, Supernet) and path is not None:
                self.model.choose(path)
            # the images come from bytes, so the recipe and its attack need not check them in every step
            with known_good(x, y), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss, logits = _checked_loss(self.recipe, self.recipe.loss(self.model, x, y, self.own), len(y))
            if not self.model.training:
                raise ValueError(
                    f"{type(self.recipe).__name__}.loss left the network in eval mode: expected train mode"
                )
            if len(y) < whole:  # this process's part of the mean over the whole batch
                loss = loss * (len(y) / whole)
            (loss / len(paths)).backward()
            total += torch.stack((loss.detach() * whole, (logits.argmax(1) != y).sum()))
        if self.group is not None:
            self.group.sum_gradients(self.parameters)
            self.group.sum(total)
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        return total / len(paths)

    def _images(self) -> str:
        """Digest of the training images; computed once, and only where there is a checkpoint."""
        if self._content is None:
            self._content = self.images.content()
        return self._content

    def save(self, path: Path, identity: str, companion: Companion | None) -> None:
        """Write everything that a resumed training needs."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, parameter in enumerate(self.parameters):
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{index}"] = momentum
        tensors["generator"] = self.generator.get_state()
        tensors["layers"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["layers.cuda"] = torch.cuda.get_rng_state(self.device)
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.state().items()}
        for prefix, other in (("companion", companion), ("choice", self.choice)):
            if other is not None:
                tensors |= {f"{prefix}.{name}": value for name, value in other.state().items()}
        logs = [dataclasses.asdict(log) for log in self.logs]
        write_tensors(path, tensors, {"training": identity, "images": self._images(), "logs": logs})

    def restore(self, path: Path, identity: str, companion: Companion | None) -> None:
        """Continue from a checkpoint."""
        tensors, info = read_tensors(path)
        # older checkpoints hold no digest of the images
        if info.get("training") != identity or info.get("images", self._images()) != self._images():
            raise UserError(
                f"{path} belongs to another training (network, recipe, epochs, seed or images differ): "
                "delete it or name another file"
            )
        try:
            self._take(tensors, info, companion)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DamagedFile(path, f"it is not the complete state of a training: {error}") from error

    def _take(self, tensors: dict[str, Tensor], info: dict[str, Any], companion: Companion | None) -> None:
        """Take over a checkpoint's state."""
        self.logs = logs_of(info)
        weights = _below("model", tensors)
        # torch would silently accept numbers of another type
        kinds = {name: tensor.dtype for name, tensor in self.model.state_dict().items()}
        for name, tensor in weights.items():
            expect(tensor.dtype == kinds.get(name, tensor.dtype), f"{name} is {tensor.dtype}, not {kinds.get(name)}")
        self.model.load_state_dict(weights)
        for name, weight in self.model.named_parameters():
            expect(bool(weight.isfinite().all()), f"{name} is not finite")
        for index, parameter in enumerate(self.parameters):
            if f"momentum.{index}" in tensors:
                kept = tensors[f"momentum.{index}"]
                expect(kept.dtype == parameter.dtype and bool(kept.isfinite().all()), f"momentum.{index} is not finite")
                expect(kept.shape == parameter.shape, f"momentum.{index} has the shape {tuple(kept.shape)}")
                buffer = torch.empty_like(parameter).copy_(tensors[f"momentum.{index}"]).detach()
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.begin_average()
        if self.average is not None:
            self.average.restore(_below("average", tensors))
        for prefix, other in (("companion", companion), ("choice", self.choice)):
            if other is not None:
                other.restore(_below(prefix, tensors), len(self.logs))
        self.generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["layers"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["layers.cuda"], self.device)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix`` and a point, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def _checked_loss(recipe: Recipe, found: Any, n: int) -> tuple[Tensor, Tensor]:
    """A recipe's result for ``n`` images, checked: a scalar loss with a gradient, and logits ``(n, n_classes)``.

    Raises:
        ValueError: the recipe returned something else.
    """
    whose = f"{type(recipe).__name__}.loss"
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(f"expected {whose} to return (loss, logits), got {type(found).__name__}")
    loss, logits = found
    if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
        kind = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        cut = " without a gradient" if isinstance(loss, Tensor) and not loss.requires_grad else ""
        raise ValueError(f"expected {whose} to return a mean loss with a gradient, a single number, got {kind}{cut}")
    return loss, check_logits(logits, n)


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.SGD:
    """SGD for a recipe; without ``decay_bn``, vectors (biases, normalisation layers) get no weight decay."""
    spared = [] if recipe.decay_bn else [p for p in parameters if p.ndim < 2]
    rest = parameters if recipe.decay_bn else [p for p in parameters if p.ndim >= 2]
    groups: list[dict[str, Any]] = [
        {"params": rest, "weight_decay": recipe.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=True,
    )


def _check(totals: Tensor, epoch: int) -> None:
    if not bool(totals.isfinite().all()):
        raise TrainingDiverged(f"the training loss became NaN or infinite in epoch {epoch + 1}; try a smaller lr")

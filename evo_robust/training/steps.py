"""A training in progress: its steps and epochs, and what it ends with."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evo_robust.data.images import Images, batches
from evo_robust.inference.checks import check_logits, known_good
from evo_robust.spaces.base import Architecture
from evo_robust.spaces.supernet import Supernet
from evo_robust.training.average import WeightAverage
from evo_robust.training.beside import Choice
from evo_robust.training.epochs import EpochLog
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


class Run:
    """A training in progress: the network, its optimiser and all random numbers."""

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

    @functools.cached_property
    def content(self) -> str:
        """Digest of the training images; computed once, and only where there is a checkpoint."""
        return self.images.content()

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

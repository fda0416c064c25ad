"""Black-box attacks at a level: L0 (a number of pixels) and L∞ (a number of grey steps), by CMA-ES and DE.

After Kotyan & Vargas ("Adversarial robustness assessment", 2019), and Su, Vargas & Sakurai ("One pixel attack", 2017).
Some things differ, so that figures are sound. Values are rounded, not truncated, so that ±1 can be reached at level 1.
Values beyond the bounds stop at them. Only images that the network classifies correctly are attacked, and only they
count as successes. The best image found is classified once more by itself, in float32.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Literal

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.calls import checked
from evo_robust.attacks.level.base import MARGIN, LevelAttack, LevelResult, check_pixels, to_pixels
from evo_robust.attacks.level.encoding import Boxes, Encoding, Pixels, Tone, Values
from evo_robust.attacks.level.network import for_queries
from evo_robust.attacks.level.optimizers import BatchCMAES, BatchDE, BatchOptimizer, BatchSepCMAES
from evo_robust.inference.predictions import classes, eval_mode


@chz.chz
class QueryAttack(LevelAttack, abc.ABC):
    """A black-box attack that minimises the true class's probability within a level.

    Many images are attacked together and share forward passes. An image leaves as soon as a candidate is misclassified,
    and another takes its place. Every image has its own random numbers, so its result depends neither on other images
    nor on ``batch_size`` (except for rounding in the network).
    """

    max_iter: int = chz.field(default=100, doc="largest number of generations per image, ≥ 1 (Kotyan & Vargas: 100)")
    pop_size: int | None = chz.field(default=None, doc="candidates per generation and image; see the optimiser")
    batch_size: int | None = chz.field(default=None, doc="candidates per forward pass; chosen by memory when not given")

    @chz.validate
    def _sensible(self) -> None:
        if self.max_iter < 1:
            raise ValueError(f"expected max_iter >= 1, got {self.max_iter}")
        if self.pop_size is not None and self.pop_size < self._least_pop_size:
            raise ValueError(f"expected pop_size >= {self._least_pop_size}, got {self.pop_size}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"expected batch_size >= 1, got {self.batch_size}")

    @property
    def _raster(self) -> bool:
        """Whether pixels start in raster order; only CMA-ES has a start."""
        return False

    @property
    @abc.abstractmethod
    def _least_pop_size(self) -> int:
        """Smallest population that the optimiser works with."""

    @abc.abstractmethod
    def _default_pop_size(self, n_variables: int) -> int:
        """Population size when none is given."""

    @abc.abstractmethod
    def _optimizer(
        self, encoding: Encoding, boxes: Boxes, pop_size: int, generators: Sequence[torch.Generator]
    ) -> BatchOptimizer:
        """The optimiser for images with these bounds."""

    def perturb_levels(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> LevelResult:
        """See :meth:`LevelAttack.perturb_levels`; it always draws one seed per image from ``generator``."""
        with checked(model, x, y, generator=generator) as (x, y):
            encoding = self._encoding(x)
            pixels = to_pixels(x)
            drawn = torch.randint(2**62, (len(x),), generator=generator, device=generator.device)
            run = _Run(self, encoding, model, pixels, y, drawn.tolist())
            if len(x):
                with eval_mode(model), torch.inference_mode():
                    run.all()
        # tensors made in inference mode cannot be used in training, so return ordinary ones
        return LevelResult(
            run.found.clone().to(torch.float32).div_(255), success=run.success.clone(), queries=run.queries.clone()
        )

    def _encoding(self, x: Tensor) -> Encoding:
        channels, rows, columns = x.shape[1:]
        if self.norm == "linf":
            return Values(self.level, (channels, rows, columns))
        check_pixels(self.level, x)
        return Pixels(self.level, (channels, rows, columns), raster=self._raster)


@chz.chz
class CMAES(QueryAttack):
    """CMA-ES: full covariance for pixels, diagonal for L∞ (3,072 variables on CIFAR-10).

    The default population is 4 + ⌊3 ln d⌋ for d variables, as in Hansen's tutorial and Kotyan & Vargas. Their pixels
    start in the corner with a step of 63/4: ``start="raster", sigma=15.75``. Starting in the middle, with steps by the
    range of each variable, fools far more images for the same queries (LeNet on CIFAR-10, 5 pixels: 83% against 59%).
    """

    sigma: float | None = chz.field(
        default=None,
        doc="initial step of every variable, > 0, in grey steps and pixels; by default an eighth of the image's side "
        "and a quarter of the colour range (l0), or level/4 (linf)",
    )
    start: Literal["middle", "raster"] = chz.field(
        default="middle", doc="where pixels start (l0): in the middle, or the first ones in raster order"
    )

    @chz.validate
    def _positive_sigma(self) -> None:
        if self.sigma is not None and not 0 < self.sigma < math.inf:
            raise ValueError(f"expected sigma > 0 and finite, got {self.sigma}")

    @property
    def _raster(self) -> bool:
        return self.start == "raster"

    @property
    def _least_pop_size(self) -> int:
        return 4

    def _default_pop_size(self, n_variables: int) -> int:
        return 4 + int(3 * math.log(n_variables))

    def _optimizer(
        self, encoding: Encoding, boxes: Boxes, pop_size: int, generators: Sequence[torch.Generator]
    ) -> BatchOptimizer:
        # a step of more than half the range (63/4 on images below 32 rows) would only be reflected
        widest = (boxes.upper - boxes.lower) / 2
        std = encoding.steps(boxes) if self.sigma is None else widest.clamp_max(self.sigma)
        if self.norm == "linf":
            return BatchSepCMAES(boxes, std, pop_size, encoding.inside, generators)
        # double precision, since last bits of matrix products depend on the batch size, and must not move a pixel
        boxes = Boxes(boxes.lower.double(), boxes.upper.double(), boxes.start.double())
        return BatchCMAES(boxes, std.double(), pop_size, encoding.inside, generators)


@chz.chz
class DE(QueryAttack):
    """Differential evolution best1bin, F dithered in (.5, 1), CR 1; 400 members by default.

    The attack on an image ends without success once all members lie within one grey step or pixel. With one pixel that
    takes some 30 generations; with L∞ it never happens within 100.
    """

    @property
    def _least_pop_size(self) -> int:
        return 4

    def _default_pop_size(self, n_variables: int) -> int:
        return 400

    def _optimizer(
        self, encoding: Encoding, boxes: Boxes, pop_size: int, generators: Sequence[torch.Generator]
    ) -> BatchOptimizer:
        return BatchDE(boxes, torch.ones_like(boxes.start), pop_size, encoding.inside, generators)


class _Run:
    """One attack on a set of images: those that wait, those under attack, and the results."""

    def __init__(
        self, attack: QueryAttack, encoding: Encoding, model: nn.Module, pixels: Tensor, y: Tensor, seeds: list[int]
    ) -> None:
        self.attack, self.encoding, self.model = attack, encoding, model
        self.pixels, self.y, self.seeds = pixels, y, seeds
        self.found = pixels.clone()
        self.success = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        self.queries = torch.zeros(len(y), dtype=torch.int64, device=y.device)
        self.pop_size = attack.pop_size or attack._default_pop_size(encoding.n_variables)
        self.batch_size = attack.batch_size or _batch_size(pixels)
        # several passes per generation share the optimiser's overhead, and each is small enough for the caches
        self.slots = max(1, 4 * self.batch_size // self.pop_size)

    def all(self) -> None:
        """Attack every image that the network classifies correctly."""
        queue = self._correct().tolist()[::-1]
        self.tone, self.fast = for_queries(self.model, self.pixels[:8])
        active = torch.empty(0, dtype=torch.int64, device=self.y.device)
        optimizer: BatchOptimizer | None = None
        while queue or len(active):
            # joining copies the state of all images, so wait until an eighth of the places is free
            free = self.slots - len(active)
            if queue and free >= max(1, self.slots // 8):
                fresh = torch.tensor([queue.pop() for _ in range(min(free, len(queue)))], device=self.y.device)
                optimizer = self._admit(optimizer, fresh)
                active = torch.cat([active, fresh])
            if optimizer is None:
                break
            self._generation(optimizer, active)
            spent = self.queries[active] >= self.attack.max_iter * self.pop_size
            going = ~(self.success[active] | spent | optimizer.converged())
            if not going.all():
                index = going.nonzero().squeeze(1)
                optimizer.keep(index)
                active = active[index]

    def _correct(self) -> Tensor:
        logits = self._logits(self.model, self.pixels.float().div_(255))
        return (classes(logits) == self.y).nonzero().squeeze(1)

    def _admit(self, optimizer: BatchOptimizer | None, fresh: Tensor) -> BatchOptimizer:
        generators = [torch.Generator(self.y.device).manual_seed(self.seeds[i]) for i in fresh.tolist()]
        boxes = self.encoding.boxes(self.pixels[fresh])
        # half a step wider on both sides, so that rounding gives every integer the same share
        wide = Boxes(boxes.lower - 0.5, boxes.upper + 0.5, boxes.start)
        new = self.attack._optimizer(self.encoding, wide, self.pop_size, generators)
        if optimizer is None or not len(optimizer):
            return new
        optimizer.join(new)
        return optimizer

    def _generation(self, optimizer: BatchOptimizer, active: Tensor) -> None:
        """Run one generation of all images under attack; marks those that succeeded."""
        lower, upper = optimizer.boxes.lower.unsqueeze(1) + 0.5, optimizer.boxes.upper.unsqueeze(1) - 0.5
        values = torch.clamp(optimizer.ask().round(), lower, upper)
        candidates = self.encoding.render(values, self.pixels[active], self.tone)
        fitness, margin = self._judge(self.fast, candidates, self.y[active])
        self.queries[active] += self.pop_size
        best, which = margin.min(1)
        fooled = (best < -MARGIN).nonzero().squeeze(1)
        if len(fooled):
            self._confirm(values[fooled, which[fooled]].unsqueeze(1), active[fooled])
        optimizer.tell(fitness)

    def _judge(self, model: nn.Module, candidates: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Fitness and margin ``(n, k)`` of candidates ``(n · k, c, h, w)``, which are in the model's input format.

        The fitness is ln p/(1 − p), where p is the true class's probability. It gives the same order as p, but still
        separates candidates where p rounds to 1. The margin is the true logit minus the largest other one.
        """
        logits = self._logits(model, candidates)
        column = y.repeat_interleave(len(candidates) // max(1, len(y))).unsqueeze(1)
        true = logits.gather(1, column).squeeze(1)
        others = logits.scatter(1, column, -torch.inf)
        fitness = (true - others.logsumexp(1)).nan_to_num(nan=torch.inf)
        margin = (true - others.amax(1)).nan_to_num(nan=torch.inf)
        return fitness.view(len(y), -1), margin.view(len(y), -1)

    def _confirm(self, values: Tensor, images: Tensor) -> None:
        """Keep the candidates ``(m, 1, d)`` that still fool the network itself, as uint8 and in their own batch."""
        one = torch.ones(self.encoding.shape[0], device=values.device)
        pixels = self.encoding.render(values, self.pixels[images], Tone(one, 0 * one)).to(torch.uint8)
        _, margin = self._judge(self.model, pixels.float().div_(255), self.y[images])
        sure = margin.squeeze(1) < -MARGIN
        self.found[images[sure]] = pixels[sure]
        self.success[images[sure]] = True

    def _logits(self, model: nn.Module, candidates: Tensor) -> Tensor:
        """Logits of images in equal forward passes of at most ``batch_size``."""
        passes = -(-len(candidates) // self.batch_size)
        return torch.cat([model(part).float() for part in candidates.chunk(passes)])


def _batch_size(pixels: Tensor) -> int:
    """Candidates per forward pass: as many as fit into the caches of a CPU, or into the memory of a GPU."""
    per_image = 4 * pixels[:1].numel()
    if pixels.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(pixels.device)
        # feature maps of our networks take up to some hundred times as much memory as the image
        return max(256, min(16_384, free // (512 * max(1, per_image))))
    return max(64, min(4096, 2**21 // max(1, per_image)))

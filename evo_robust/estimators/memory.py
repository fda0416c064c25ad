"""Training of a noise estimator during a search: from a memory of real noises, each is estimated from the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.gradient import GradientAttack
from evo_robust.data.images import Images, batches
from evo_robust.estimators.base import Estimator, NoiseEstimator
from evo_robust.estimators.learner import MemoryLearner
from evo_robust.estimators.noises import real_noises
from evo_robust.estimators.strengths import REACH, Strengths
from evo_robust.parts.base import Part, Shape, refuse_unless, seed_from
from evo_robust.training.loop import reproducible


@chz.chz
class NoiseTraining(Part):
    """How a noise estimator learns beside the search (Cheng et al., AAAI 2023: Wsr-NAS); defaults are the paper's.

    B is 10 images an epoch, as the paper prints. A memory of 600 then holds the last 60 epochs, so the estimator learns
    from noises of many networks and extra strengths, for 10 attacked images an epoch. The public code takes 10 batches
    of 64 (``batches=10``). There one epoch overwrites the memory, which then holds only the present network.
    """

    memory: int = chz.field(default=600, doc="M_a, images that are remembered with their noises, >= 1")
    samples: int = chz.field(default=10, doc="B, images attacked for the memory in each epoch, drawn at random, >= 2")
    batches: int | None = chz.field(
        default=None, doc="in place of samples so many batches of batch_size, >= 1, such as the public code's 10"
    )
    passes: int = chz.field(default=1, doc="K_a, passes over the memory in each epoch, >= 1")
    batch_size: int = chz.field(default=64, doc="images per step, >= 1")
    lr: float = chz.field(default=5e-4, doc="learning rate of AdamW, > 0")
    weight_decay: float = chz.field(default=1e-4, doc="of AdamW, >= 0")
    reach: float = chz.field(
        default=REACH,
        doc="the extra strength of a batch is drawn from U(0, reach times the largest strength), > 0; the paper's .15 "
        "beside .105 when not given",
    )

    @chz.validate
    def _ranges(self) -> None:
        refuse_unless(
            self,
            *((name, getattr(self, name) >= 1, ">= 1") for name in ("memory", "passes", "batch_size")),
            ("samples", self.samples >= 2, ">= 2 (batch normalisation of a path needs two)"),
            ("batches", self.batches is None or self.batches >= 1, ">= 1, or None"),
            ("lr", 0 < self.lr < math.inf, "> 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, ">= 0"),
            ("reach", 0 < self.reach < math.inf, "> 0"),
            prefix="algorithm.gradient.noises.",
        )

    def drawn(self, images: Images, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """What is attacked in one epoch: B random images in [0,1] and their labels, by ``batch_size`` at most."""
        wanted = self.samples if self.batches is None else self.batches * self.batch_size
        for x, y in batches(images, min(wanted, self.batch_size), generator):
            x, y = x[:wanted], y[:wanted]
            wanted -= len(y)
            if len(y) > 1:  # batch normalisation of a path needs two
                yield x, y
            if wanted == 0:
                return


class NoiseMemory:
    """The last images that were attacked, each with its noises at k strengths, ascending (M_a)."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"expected capacity >= 1, got {capacity}")
        self.capacity = capacity
        self._content: tuple[Tensor, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return 0 if self._content is None else len(self._content[0])

    def push(self, x: Tensor, noises: Tensor, strengths: Tensor) -> None:
        """Remember images; the oldest are forgotten beyond ``capacity``.

        Args:
            x: images ``(n, c, h, w)`` in [0,1].
            noises: ``(k, n, c, h, w)``, k >= 2, in any order.
            strengths: of the noises, L∞, ``(k, n)``, in (0, 1], different for each image.

        Raises:
            ValueError: shapes that do not belong together, or to what is remembered already; strengths out of range.
        """
        k, n = noises.shape[:2]
        if k < 2 or noises.shape[1:] != x.shape or strengths.shape != (k, n):
            raise ValueError(
                "expected images (n, c, h, w), noises (k, n, c, h, w) with k >= 2 and strengths (k, n), got "
                f"{tuple(x.shape)}, {tuple(noises.shape)} and {tuple(strengths.shape)}"
            )
        ascending, order = strengths.t().sort(1)
        if not bool(((ascending > 0) & (ascending <= 1)).all()):
            raise ValueError(f"expected strengths in (0, 1], got {strengths.min():g} to {strengths.max():g}")
        new = x, noises.transpose(0, 1)[torch.arange(n, device=x.device)[:, None], order], ascending
        if self._content is not None and self._content[1].shape[1:] != new[1].shape[1:]:
            raise ValueError(
                f"expected noises {tuple(self._content[1].shape[1:])} of each image, as those in the memory, "
                f"got {tuple(new[1].shape[1:])}"
            )
        old = self._content or tuple(value[:0] for value in new)
        joined = [torch.cat((before, value))[-self.capacity :] for before, value in zip(old, new, strict=True)]
        self._content = (joined[0], joined[1], joined[2])

    def left_out(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """For each image at ``index`` ``(b,)`` one of its noises to estimate, drawn at random, from all the others.

        Returns:
            images ``(b, c, h, w)``, the other noises ``(k − 1, b, c, h, w)`` and their strengths ``(k − 1, b)``,
            the strength ``(1, b)`` and the noise ``(1, b, c, h, w)`` left out.
        """
        if self._content is None:
            raise ValueError("expected images in the memory, got none: push some first")
        x, noises, strengths = (value[index] for value in self._content)
        b, k = strengths.shape
        which = torch.randint(k, (b,), generator=generator, device=generator.device).to(x.device)
        out = which[:, None] == torch.arange(k, device=x.device)
        others = noises[~out].view(b, k - 1, *x.shape[1:]).transpose(0, 1)
        return x, others, strengths[~out].view(b, k - 1).t(), strengths[out][None], noises[out][None]

    def state(self) -> dict[str, Tensor]:
        """Everything that is remembered, by name; empty for an empty memory."""
        return {} if self._content is None else dict(zip(("x", "noises", "strengths"), self._content, strict=True))

    def restore(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Remember what ``state`` gave, and nothing else."""
        values = [tensors[name].to(device) for name in ("x", "noises", "strengths")] if tensors else []
        self._content = (values[0], values[1], values[2]) if values else None


class NoiseLearner(MemoryLearner):
    """A noise estimator under training, with its memory of real noises; see :class:`MemoryLearner`."""

    estimator: NoiseEstimator

    def __init__(
        self,
        kind: Estimator,
        in_shape: Shape,
        strengths: Strengths,
        training: NoiseTraining | None = None,
        *,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        """Set up.

        Args:
            kind: of estimator; one without parameters (:class:`WA`) only has its loss measured.
            in_shape: channels, height and width of the images.
            strengths: of the search; the real ones are remembered, with one more.
            training: settings, the paper's when not given.
            seed: of the weights, the extra strengths, the starts of attacks and the order of the memory, in [0, 2**63).
            device: where estimator and memory are.
        """
        super().__init__("noise", seed, device)
        self.strengths, self.training = strengths, training or NoiseTraining()
        with reproducible(self.device, seed_from(seed, "noise estimator")):
            self.estimator = kind.build(in_shape).to(self.device)
        self.memory = NoiseMemory(self.training.memory)
        weights, settings = list(self.estimator.parameters()), self.training
        self.optimizer = None
        if weights:
            self.optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)

    def __len__(self) -> int:
        """Images in the memory."""
        return len(self.memory)

    def extra_strength(self) -> float:
        """A strength beside the real ones: uniform from 0 to ``reach`` times the largest or 1, never one of them."""
        # beyond the pixel range there is nothing left to change
        largest = min(1.0, self.training.reach * self.strengths.values[-1])
        while True:
            # 1 − u lies in (0, 1]: strength 0 is no attack
            drawn = largest * (1 - torch.rand((), generator=self.generator, device=self.device).item())
            # a copy of a real strength would teach nothing, and their difference, by which we divide, would be zero
            if all(abs(drawn - real) > 1e-3 * largest for real in (0.0, *self.strengths.real)):
                return drawn

    def observe(self, model: nn.Module, x: Tensor, y: Tensor, attack: GradientAttack) -> None:
        """Attack a batch at the real strengths and an extra one, and remember it; see ``real_noises``."""
        strengths = (*self.strengths.real, self.extra_strength())
        noises = real_noises(model, x, y, strengths, attack, self.generator)
        self.memory.push(x, noises, x.new_tensor(strengths)[:, None].expand(-1, len(x)))

    def learn(self) -> float:
        """K_a passes over the memory; mean loss of the last pass (eq. 5: MSE between noise and estimate).

        Each pass sees every image once and leaves out one of its noises, chosen at random.

        Raises:
            ValueError: the memory is empty.
        """
        if len(self.memory) == 0:
            raise ValueError("expected images in the memory, got none: observe some first")
        return self._passes(self.training.passes, self.training.batch_size)

    def epoch(self, model: nn.Module, images: Images, attack: GradientAttack, generator: torch.Generator) -> float:
        """What happens once per epoch of a search: B of the images are observed, then it learns; its loss."""
        for x, y in self.training.drawn(images, generator):
            self.observe(model, x, y, attack)
        return self.learn()

    def _loss(self, index: Tensor) -> Tensor:
        x, noises, strengths, target, label = self.memory.left_out(index, self.generator)
        return (self.estimator(x, noises, strengths, target) - label).square().mean()

    def _remembered(self) -> Mapping[str, Tensor]:
        return self.memory.state()

    def _remember(self, memory: Mapping[str, Tensor]) -> None:
        self.memory.restore(memory, self.device)

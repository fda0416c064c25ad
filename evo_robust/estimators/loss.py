"""Losses of an architecture without measuring them: Wsr-NAS's validation-loss estimator (VLE) and its memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

import chz
import torch
from torch import Tensor, nn

from evo_robust.correlations import Kendall, kendall
from evo_robust.estimators.learner import MemoryLearner
from evo_robust.parts.base import Part, refuse_unless, seed_from
from evo_robust.training.loop import reproducible

_NEAR = 0.9
"""A head whose losses come above this share of its bound gets a higher one."""


@chz.chz
class LossTraining(Part):
    """How losses of architectures are learned during a search (Cheng et al., AAAI 2023: Wsr-NAS).

    A head's loss is bound · sigmoid. The paper's bound is 2 nats for all heads. In its public code that is enough,
    since adversarial losses are divided by the number of images once too often. A true cross-entropy is ln n_classes
    (2.3 for 10 classes) where a network knows nothing, and it grows with the strength without bound. A head that cannot
    exceed 2 ranks all such architectures alike and gives the search no slope, at the very strengths that eq. 10 weights
    most. So a head starts at 2. When a remembered loss comes near its bound, the bound becomes twice the largest of
    them (``grows=False`` is the paper's form).
    """

    memory: int = chz.field(default=100, doc="M_v, architectures that are remembered with their losses, >= 1")
    passes: int = chz.field(default=500, doc="K_v, passes over the memory in each epoch, >= 1")
    batch_size: int = chz.field(default=64, doc="architectures per step, >= 1")
    hidden: int = chz.field(default=16, doc="length of the LSTM's state, >= 1")
    noise: float = chz.field(default=0.01, doc="σ of the Gaussian noise on encodings in training, >= 0")
    lr: float = chz.field(default=1e-3, doc="learning rate of Adam, > 0")
    betas: tuple[float, float] = chz.field(default=(0.5, 0.999), doc="of Adam, each in [0,1)")
    weight_decay: float = chz.field(default=1e-3, doc="L2 penalty of Adam, >= 0")
    bound: float = chz.field(default=2.0, doc="largest loss a head can tell at first, in nats, > 0")
    grows: bool = chz.field(default=True, doc="raise the bound of heads whose losses come near it")

    @chz.validate
    def _ranges(self) -> None:
        counts = ("memory", "passes", "batch_size", "hidden")
        refuse_unless(
            self,
            *((name, getattr(self, name) >= 1, ">= 1") for name in counts),
            ("noise", 0 <= self.noise < math.inf, ">= 0"),
            ("lr", 0 < self.lr < math.inf, "> 0"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "of two numbers in [0,1)"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, ">= 0"),
            ("bound", 0 < self.bound < math.inf, "> 0"),
            prefix="algorithm.gradient.losses.",
        )

    def build(self, operations: int, heads: int) -> LossEstimator:
        """An untrained estimator of ``heads`` losses; its weights come from torch's global generator.

        Args:
            operations: length of an encoding's row.
            heads: losses, >= 1: the natural one and one per strength.
        """
        return LossEstimator(operations, heads, self.hidden, self.bound)


class LossEstimator(nn.Module):
    """LSTM over the rows of an encoding, and one linear head per loss on its last state (eq. 8).

    1,783 parameters with 8 operations, a state of 16 and 7 heads. Differentiable in the encoding.
    """

    bounds: Tensor

    def __init__(self, operations: int, heads: int, hidden: int = 16, bound: float = 2.0) -> None:
        super().__init__()
        if operations < 1 or heads < 1:
            raise ValueError(f"expected operations >= 1 and heads >= 1, got {operations} and {heads}")
        self.lstm = nn.LSTM(operations, hidden, batch_first=True)
        self.heads = nn.Linear(hidden, heads)
        self.register_buffer("bounds", torch.full((heads,), float(bound)))

    def forward(self, encodings: Tensor) -> Tensor:
        """Losses ``(heads,)`` or ``(n, heads)``, in nats, of encodings ``(rows, operations)`` or ``(n, …)``.

        Rows are the edges of the normal cell, then those of the reduction cell; any number of them.

        Raises:
            ValueError: rows of another length, or no rows.
        """
        if encodings.ndim not in (2, 3) or encodings.shape[-1] != self.lstm.input_size or encodings.shape[-2] < 1:
            raise ValueError(
                f"expected encodings (rows, {self.lstm.input_size}) or (n, rows, {self.lstm.input_size}), "
                f"got {tuple(encodings.shape)}"
            )
        batch = encodings if encodings.ndim == 3 else encodings[None]
        # cuDNN's LSTM has no gradient in eval mode
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and self.training):
            _, (state, _) = self.lstm(batch)
        losses: Tensor = self.bounds * self.heads(state[0]).sigmoid()
        return losses if encodings.ndim == 3 else losses[0]

    @torch.no_grad()
    def make_room(self, losses: Tensor) -> None:
        """Raise the bound of every head that losses ``(n, heads)`` come near to twice its largest loss."""
        largest = losses.amax(0)
        self.bounds.copy_(torch.where(largest > _NEAR * self.bounds, 2 * largest, self.bounds))


class LossLearner(MemoryLearner):
    """A loss estimator under training, with its memory of measured architectures; see :class:`MemoryLearner`."""

    estimator: LossEstimator
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        operations: int,
        heads: int,
        training: LossTraining | None = None,
        *,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        """Set up; ``operations`` and ``heads`` as in :meth:`LossTraining.build`, ``seed`` in [0, 2**63)."""
        super().__init__("loss", seed, device)
        self.training = training or LossTraining()
        with reproducible(self.device, seed_from(seed, "loss estimator")):
            self.estimator = self.training.build(operations, heads).to(self.device)
        settings = self.training
        self.optimizer = torch.optim.Adam(
            self.estimator.parameters(),
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.encodings: Tensor | None = None
        self.losses = torch.empty(0, heads, device=self.device)

    def __len__(self) -> int:
        """Architectures in the memory."""
        return len(self.losses)

    def push(self, encoding: Tensor, losses: Tensor) -> None:
        """Remember an architecture; the oldest is forgotten beyond ``memory``.

        New losses of an architecture that is remembered already replace the old ones, which were those of other
        weights, or the same.

        Args:
            encoding: ``(rows, operations)``.
            losses: measured ones ``(heads,)``, in nats, means per image.

        Raises:
            ValueError: another shape, or losses that are negative or not finite.
        """
        encoding, losses = encoding.detach().to(self.losses), losses.detach().to(self.losses)
        if losses.shape != self.losses.shape[1:]:
            raise ValueError(f"expected {self.losses.shape[1]} losses, got {tuple(losses.shape)}")
        if not bool((losses.isfinite() & (losses >= 0)).all()):
            raise ValueError(f"expected finite losses >= 0, got {losses.tolist()}")
        rows = encoding.shape[:1] if self.encodings is None else self.encodings.shape[1:2]
        wanted = (*rows, self.estimator.lstm.input_size)
        if encoding.shape != wanted:
            raise ValueError(f"expected an encoding {wanted}, got {tuple(encoding.shape)}")
        before = encoding.new_empty((0, *encoding.shape)) if self.encodings is None else self.encodings
        others = (before != encoding).flatten(1).any(1)
        kept = self.training.memory
        self.encodings = torch.cat((before[others], encoding[None]))[-kept:]
        self.losses = torch.cat((self.losses[others], losses[None]))[-kept:]

    def learn(self) -> float:
        """K_v passes over the memory; mean loss of the last pass (eq. 9: MSE summed over the heads).

        Raises:
            ValueError: the memory is empty.
        """
        if self.encodings is None:
            raise ValueError("expected architectures in the memory, got none: push some first")
        if self.training.grows:
            self.estimator.make_room(self.losses)
        self.estimator.train()
        return self._passes(self.training.passes, self.training.batch_size)

    def _loss(self, index: Tensor) -> Tensor:
        assert self.encodings is not None
        given = self.encodings[index]
        noise = torch.randn(given.shape, generator=self.generator, device=self.device)
        difference = self.estimator(given + self.training.noise * noise) - self.losses[index]
        return difference.square().mean(0).sum()

    def _remembered(self) -> Mapping[str, Tensor]:
        return {} if self.encodings is None else {"encodings": self.encodings, "losses": self.losses}

    def _remember(self, memory: Mapping[str, Tensor]) -> None:
        self.encodings = memory["encodings"].to(self.device) if memory else None
        self.losses = memory["losses"].to(self.device) if memory else self.losses[:0]


@torch.no_grad()
def ranking(estimator: LossEstimator, encodings: Tensor, losses: Tensor) -> tuple[Kendall, ...]:
    """How well the estimator ranks architectures: Kendall's τ of each head.

    Args:
        estimator: trained.
        encodings: of architectures that it has not learned from, ``(n, rows, operations)``.
        losses: their measured losses ``(n, heads)``.

    Raises:
        ValueError: not as many losses as there are architectures and heads.
    """
    expected = (len(encodings), len(estimator.bounds))
    if losses.shape != expected:
        raise ValueError(f"expected losses {expected}, got {tuple(losses.shape)}")
    estimates = estimator(encodings).cpu().numpy()
    return tuple(kendall(estimates[:, head], losses[:, head].cpu().numpy()) for head in range(expected[1]))

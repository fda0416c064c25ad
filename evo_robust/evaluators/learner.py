"""What learns beside weights that are trained with the search, and what it sees of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from evo_robust.data.images import Images
from evo_robust.spaces.base import SearchSpace
from evo_robust.spaces.supernet import Path as NetworkPath
from evo_robust.spaces.supernet import Supernet


@dataclasses.dataclass
class CoTraining:
    """Shared weights during training, as a learner sees them.

    Attributes:
        space: the search space.
        supernet: the network whose weights are trained.
        images: training images for what is learned beside the weights; the weights have not seen them.
        warmup: epochs before anything is learned beside the weights.
        seed: of the search.
    """

    space: SearchSpace
    supernet: Supernet
    images: Images
    warmup: int
    seed: int


class Learner(Protocol):
    """What is learned beside the weights: a distribution over architectures, estimators. All randomness is its own."""

    @property
    def reserve(self) -> float:
        """Part of the training images, in [0,1), that it learns from, where the evaluator leaves that to it."""

    def paths(self, training: CoTraining, epoch: int) -> Iterator[Sequence[NetworkPath]]:
        """What the supernet is in each step of an epoch, counted from 0; endless. May learn between the steps."""

    def learn(self, training: CoTraining | None, epochs: int) -> None:
        """Learn at the end of a generation's training, after its ``epochs`` epochs, those of the warm-up not counted.

        There are none where the schedule was over.

        Where no weights are trained with the search there is no ``training``, and ``epochs`` is 1.
        """

    def state(self) -> dict[str, Tensor]:
        """All that was learned, by name."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take what ``state`` returned."""

    def replay(self, state: dict[str, Tensor]) -> None:
        """Take of what ``state`` returned in an earlier generation what draws depend on; the rest may be missing."""

    def shared(self) -> dict[str, Tensor]:
        """What candidates are measured with beside the weights; its names are no weights' names."""

    def figures(self) -> dict[str, float]:
        """What a reader wants to see of a generation; always the same names."""

    def caution(self) -> str | None:
        """One line that a reader of a generation's figures must know; None as a rule."""

"""The interface between weights trained during a search and what is learned with them (distribution, estimators)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from evo_robust.data.images import Images
from evo_robust.spaces.base import SearchSpace
from evo_robust.spaces.supernet import Supernet
from evo_robust.spaces.supernet import SupernetPath as NetworkPath


@dataclasses.dataclass
class CoTraining:
    """The training of shared weights, as a learner sees it.

    Attributes:
        space: the search space.
        supernet: the network whose weights are trained.
        images: training images for the learner only; the weights are not trained on them.
        warmup: number of epochs before the learner starts.
        seed: the search's seed.
    """

    space: SearchSpace
    supernet: Supernet
    images: Images
    warmup: int
    seed: int


class Learner(Protocol):
    """Learns a distribution over architectures, or estimators, while weights train. It has its own random numbers."""

    @property
    def reserve(self) -> float:
        """Share of the training images, in [0,1), that it learns from; used where the evaluator sets none."""

    def paths(self, training: CoTraining, epoch: int) -> Iterator[Sequence[NetworkPath]]:
        """The supernet's paths for each step of an epoch, counted from 0; endless. It may learn between steps."""

    def learn(self, training: CoTraining | None, epochs: int) -> None:
        """Learn at the end of a generation's training.

        Args:
            training: the training; None where no weights are trained during the search.
            epochs: epochs of this generation, without those of the warm-up. 0 where the schedule was over already; 1
                where no weights are trained.
        """

    def state(self) -> dict[str, Tensor]:
        """The whole state: everything learned so far, by name."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what ``state`` returned."""

    def replay(self, state: dict[str, Tensor]) -> None:
        """Restore what draws depend on, from the ``state`` of an earlier generation; the rest may be missing."""

    def shared(self) -> dict[str, Tensor]:
        """Further tensors that candidates are measured with; their names differ from those of weights."""

    def figures(self) -> dict[str, float]:
        """Figures of a generation for its reader; the names are always the same."""

    def caution(self) -> str | None:
        """A warning about a generation's figures, in one line; usually None."""

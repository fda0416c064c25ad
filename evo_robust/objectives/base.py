"""Objectives, and the context and candidate that they measure."""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import chz
import torch
from torch import Tensor, nn

from evo_robust.data.base import DataSet
from evo_robust.data.images import Images, Splits
from evo_robust.files import mapped_tensors
from evo_robust.inference.predictions import correct_mask
from evo_robust.parts.base import Part, seed_from
from evo_robust.parts.facts import Fact
from evo_robust.progress import Say, silent
from evo_robust.spaces.base import Architecture, SearchSpace

if TYPE_CHECKING:
    from evo_robust.workers import Staff


@dataclasses.dataclass(frozen=True)
class Context:
    """The settings of a running search, the same for all its candidates.

    Attributes:
        space: the search space.
        data: the data set (a description; ``data.load()`` gives the images).
        seed: seed of all random numbers of candidates: the problem's, or one made from it and the evaluator's seed.
        device: torch device name, ``cpu``, ``cuda`` or ``cuda:1``.
        workers: number of candidates that this machine evaluates at a time.
        staff: workers of a cluster that evaluate candidates; None where this machine does.
        cache: folder for files that later runs reuse (adversarial sets, supernets, decoded images).
        recorded: objectives that are measured and recorded, but not searched for.
        reported: objectives that are measured only on the final front.
        keep: folder for candidates' weights, which ``reported`` needs; None where no weights are kept.
        folder: the run folder, for state that a resumed search needs; None when a search keeps no record.
        say: called with each line of progress text.
        shared_from: kind of device, ``cpu`` or ``cuda``, on which an earlier search trained the shared weights that are
            needed again; when not given, they are trained on ``device``.
        weights: file with the present shared weights, where they are trained during the search.
        measured_under: fingerprints of the rows that are already in the run folder's ledger.
    """

    space: SearchSpace
    data: DataSet
    seed: int
    device: str
    workers: int
    cache: Path
    recorded: tuple[Objective, ...] = ()
    reported: tuple[Objective, ...] = ()
    keep: Path | None = None
    folder: Path | None = None
    say: Say = silent
    shared_from: str | None = None
    weights: Path | None = None
    measured_under: frozenset[str] = frozenset()
    staff: Staff | None = None


@dataclasses.dataclass
class Candidate:
    """One architecture under evaluation.

    Attributes:
        context: the search's settings.
        architecture: the canonical architecture.
        text: its notation.
        seed: the candidate's seed, from the context's seed and the architecture only.
        splits: training, validation and test images on the device.
        model: the network with weights, in eval mode; None while only cheap objectives are measured. Set by ``use``.
        figures: extra figures to be recorded, JSON values by name.
    """

    context: Context
    architecture: Architecture
    text: str
    seed: int
    splits: Splits
    model: nn.Module | None = None
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    _correct: Tensor | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def use(self, model: nn.Module) -> None:
        """Make ``model``, with its present weights, the network to be measured."""
        # what the former weights classified no longer holds, even if the module is the same
        self.model, self._correct = model, None

    def generator(self, purpose: str) -> torch.Generator:
        """Random generator on the candidate's device, seeded by the candidate's seed and ``purpose`` only."""
        generator = torch.Generator(device=self.context.device)
        return generator.manual_seed(seed_from(self.seed, purpose))

    def network(self) -> nn.Module:
        """The trained network.

        Raises:
            ValueError: there are no weights yet: the objective should say ``needs_weights``.
        """
        if self.model is None:
            raise ValueError("expected a trained network, got a candidate before training")
        return self.model

    def shared(self) -> Mapping[str, Tensor]:
        """Tensors that the search trains for all its candidates, by name; empty where there are none."""
        return {} if self.context.weights is None else mapped_tensors(self.context.weights)

    def validation(self, limit: int | None = None) -> Images:
        """The first ``limit`` validation images, or all. The first k images have the class proportions of all."""
        return self.splits.val if limit is None else self.splits.val.take(slice(limit))

    def correct(self, limit: int | None = None) -> Tensor:
        """Which of the first ``limit`` validation images (or all) the network classifies correctly, bool ``(n,)``.

        They are computed once for all objectives.
        """
        images = self.validation(limit)
        if self._correct is None or len(self._correct) < len(images):
            self._correct = correct_mask(self.network(), images)
        return self._correct[: len(images)]


@chz.chz
class Objective(Part, abc.ABC):
    """A number to be minimised."""

    needs_weights: ClassVar[bool] = True
    """Whether it measures a trained network; False for figures of the architecture alone, which cost no training."""

    is_clean_error: ClassVar[bool] = False
    """Whether its value is the share in [0, 1] of validation images that are misclassified without an attack."""

    label: str | None = chz.field(default=None, doc="column name; the class's own name when not given")

    @property
    def name(self) -> str:
        """Column name: the label, or the class name in snake case."""
        if self.label is not None:
            return self.label
        # a capital letter begins a word after a small letter or before one: FSPDistance is fsp_distance
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(self).__name__).lower()

    @property
    def unit(self) -> str:
        """Unit of the value, empty by default; ``fraction`` means a share in [0, 1], shown in percent."""
        return ""

    @property
    def short_unit(self) -> str:
        """The unit in a short form for axes and columns."""
        return self.unit

    @property
    def reads(self) -> frozenset[Fact]:
        """Facts that the value depends on, besides weights, where another part provides them."""
        return frozenset()

    @property
    def attacked(self) -> str:
        """The attack in words, such as ``white-box, PGD-20 on each network itself at L∞ ε 0.05``; empty for none."""
        return ""

    def prepare(self, context: Context) -> None:  # noqa: B027 (most objectives need nothing)
        """Build what all candidates share, such as cached files: once, in the main process."""

    def builds(self, context: Context) -> Sequence[Path]:
        """Files of the cache that ``prepare`` makes where they are missing."""
        return ()

    def check(self, data: DataSet) -> None:  # noqa: B027
        """Raise ``ValueError`` where the objective cannot be measured on ``data``; called before any writing."""

    def state(self, context: Context) -> str:
        """Digest of the built files that the value depends on; valid after ``prepare``."""
        return ""

    def former_states(self, context: Context) -> Sequence[str]:
        """Values of ``state`` for the same files in earlier versions, so that their runs can be resumed."""
        return ()

    def caution(self, shared: Mapping[str, Tensor]) -> str | None:
        """A warning for readers of its values, in one line; usually None.

        Args:
            shared: tensors that the search has trained for its candidates so far, by name.
        """
        return None

    @abc.abstractmethod
    def measure(self, candidate: Candidate) -> float:
        """The objective's value in its ``unit``, a finite float. It may add to ``candidate.figures``.

        If it raises an error or returns no finite number, this candidate fails, and the search goes on. It must not
        change weights, mode or images.

        Example:
            >>> def measure(self, candidate):
            ...     images = candidate.validation(100)
            ...     with torch.no_grad():
            ...         logits = candidate.network()(images.floats())
            ...     return float((logits.argmax(1) != images.y).float().mean())
        """

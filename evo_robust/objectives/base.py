"""What an objective measures and what it is given to measure it."""

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
    """Where a search runs: the same for all its candidates.

    Attributes:
        space: the search space.
        data: the data set (a description; ``data.load()`` gives the images).
        seed: the seed from which every candidate's randomness comes: the problem's, or one that follows from it and the
            evaluator's.
        device: torch device name, ``cpu``, ``cuda`` or ``cuda:1``.
        workers: how many candidates are evaluated at a time on this machine.
        staff: workers of a cluster that evaluate candidates instead; None where this machine does.
        cache: folder for things that later runs reuse (adversarial sets, resized images).
        recorded: what is measured beside the objectives and kept in the record alone.
        reported: what is measured on the final front alone.
        keep: folder where candidates' weights are kept for that; None where nobody needs them.
        folder: the run folder, for state that a resume needs; None when a search keeps no record.
        say: takes one line of progress text.
        shared_from: kind of device, ``cpu`` or ``cuda``, that weights which candidates share (a supernet) were trained
            on, where those of an earlier search are wanted; ``device`` trains them when not given.
        weights: file of the weights that candidates share at present, where those are trained with the search.
        measured_under: fingerprints of the rows that the run folder's ledger holds already.
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
        context: where the search runs.
        architecture: the canonical architecture.
        text: its notation.
        seed: depends on the context's seed and the architecture alone.
        splits: training, validation and test images on the device.
        model: the network with weights, in eval mode; None while only cheap objectives are asked. Set by ``use``.
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
        """From now on ``model`` is the network, with the weights it has now."""
        # the same module with other weights classifies otherwise
        self.model, self._correct = model, None

    def generator(self, purpose: str) -> torch.Generator:
        """Random generator on the candidate's device that depends on seed and purpose alone."""
        generator = torch.Generator(device=self.context.device)
        return generator.manual_seed(seed_from(self.seed, purpose))

    def network(self) -> nn.Module:
        """The trained network.

        Raises:
            ValueError: an objective that needs weights was asked before there are any.
        """
        if self.model is None:
            raise ValueError("expected a trained network, got a candidate before training")
        return self.model

    def shared(self) -> Mapping[str, Tensor]:
        """Tensors that a search under way trains for all its candidates, by name; none elsewhere."""
        return {} if self.context.weights is None else mapped_tensors(self.context.weights)

    def validation(self, limit: int | None = None) -> Images:
        """The first ``limit`` validation images, all when not given; any beginning has the class proportions of all."""
        return self.splits.val if limit is None else self.splits.val.take(slice(limit))

    def correct(self, limit: int | None = None) -> Tensor:
        """Which of the first ``limit`` validation images (all when not given) the network gets right, bool ``(n,)``.

        One pass serves every objective that asks.
        """
        images = self.validation(limit)
        if self._correct is None or len(self._correct) < len(images):
            self._correct = correct_mask(self.network(), images)
        return self._correct[: len(images)]


@chz.chz
class Objective(Part, abc.ABC):
    """A number to be minimised."""

    needs_weights: ClassVar[bool] = True

    label: str | None = chz.field(default=None, doc="column name; the class's own name when not given")

    @property
    def name(self) -> str:
        """Column name: the label, or the class name in snake case."""
        if self.label is not None:
            return self.label
        # a capital begins a word after a small letter, or before one: FSPDistance is fsp_distance
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(self).__name__).lower()

    @property
    def unit(self) -> str:
        """Unit of the value: none of its own; ``fraction`` is a share in [0, 1], which people read in percent."""
        return ""

    @property
    def short_unit(self) -> str:
        """The unit as axes and columns show it."""
        return self.unit

    @property
    def reads(self) -> frozenset[Fact]:
        """Facts that its value depends on where a part provides them, beside weights."""
        return frozenset()

    @property
    def attacked(self) -> str:
        """What it attacks and how, in words such as ``white-box by PGD (20 steps) at L∞ 0.05``; empty for no attack."""
        return ""

    def prepare(self, context: Context) -> None:  # noqa: B027 (most objectives need nothing)
        """Build, once and in the main process, what all candidates share (cached files)."""

    def builds(self, context: Context) -> Sequence[Path]:
        """Files of the cache that ``prepare`` makes where they are not there yet."""
        return ()

    def check(self, data: DataSet) -> None:  # noqa: B027
        """Raise ``ValueError`` where the objective cannot be measured on ``data``; before anything is written."""

    def state(self, context: Context) -> str:
        """Digest of what the value depends on beside settings and data (built files), once ``prepare`` is over."""
        return ""

    def former_states(self, context: Context) -> Sequence[str]:
        """What ``state`` of the same files may have been in earlier versions, so that their records go on."""
        return ()

    def caution(self, shared: Mapping[str, Tensor]) -> str | None:
        """One line that a reader of its values must know, given what a search has learned so far; None as a rule.

        Args:
            shared: tensors that the search has trained for its candidates, by name.
        """
        return None

    @abc.abstractmethod
    def measure(self, candidate: Candidate) -> float:
        """The objective's value in its ``unit``, a finite float; may add to ``candidate.figures``.

        Whatever it raises, and a value that is no finite number, makes this candidate a failure; the search goes on. It
        leaves weights, mode and images as they are.
        """

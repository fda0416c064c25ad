"""Co-training: a supernet trains during the search, together with a distribution over architectures.

RACL (Dong et al., 2020) and Wsr-NAS (Cheng et al., AAAI 2023) take turns: they train a supernet's weights on one half
of the training images, and a distribution over architectures on the other. Here a generation of the search begins
with some epochs of that. Then its architectures are measured, and the survivors of the last generation once more.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import chz
from torch import Tensor, nn

from evo_robust.data.base import DataSet
from evo_robust.device import fixed_threads
from evo_robust.evaluators.base import Evaluation
from evo_robust.evaluators.learner import CoTraining, Learner
from evo_robust.evaluators.one_shot import OneShot
from evo_robust.evaluators.pool import PoolSession
from evo_robust.files import DamagedFile, read_tensors, stored_checksum, write_csv, write_tensors
from evo_robust.objectives.base import Context, Objective
from evo_robust.objectives.constraints import Constraint
from evo_robust.parts.base import UserError, digest, refuse_unless, seed_from
from evo_robust.parts.facts import CO_TRAINED_WEIGHTS, CO_TRAINING, DISTRIBUTION, Fact
from evo_robust.spaces.base import Architecture, SearchSpace
from evo_robust.spaces.supernet import Supernet
from evo_robust.training.learning_curve import LearningCurve
from evo_robust.training.loop import train
from evo_robust.training.steps import TrainingDiverged
from evo_robust.training.supernet_training import initial_supernet

FOLDER = "co_training"


DRAWS = "distribution."
"""Prefix of those tensors in a learner's state that draws depend on."""


@chz.chz
class CoTrained(OneShot):
    """Each candidate inherits the weights of a supernet that is trained generation after generation.

    ``supernet`` gives recipe, threads, seed, and the epochs of the whole schedule, over which the learning rate falls.
    The algorithm chooses the paths, so ``supernet.sampling`` is not used. All figures of a generation are measured with
    that generation's weights. Only the weights of the last generation are kept.
    """

    version: ClassVar[int] = 4
    told: ClassVar[tuple[str, ...]] = ("epochs", *OneShot.told)

    warmup: int = chz.field(default=0, doc="epochs on random paths before the first generation, >= 0")
    epochs: int = chz.field(default=1, doc="epochs of training per generation, >= 0")
    share: float | None = chz.field(
        default=0.5,
        doc="share of the training images that weights are trained on, in (0,1); the rest is for the search. None: all "
        "that the search does not need (it needs half for a supernet's loss, a twentieth for learned noise "
        "estimators, else nothing)",
    )

    @chz.validate
    def _co_training(self) -> None:
        refuse_unless(
            self,
            ("warmup", 0 <= self.warmup <= self.supernet.epochs, f"in 0..{self.supernet.epochs} (supernet.epochs)"),
            ("epochs", self.epochs >= 0, ">= 0"),
            ("share", self.share is None or 0 < self.share < 1, "in (0,1), or None"),
            prefix="evaluator.",
        )

    @property
    def provides(self) -> frozenset[Fact]:
        """See :attr:`Part.provides`."""
        return super().provides | {CO_TRAINED_WEIGHTS}

    @property
    def needs(self) -> frozenset[Fact]:
        """See :attr:`Part.needs`."""
        return super().needs | {CO_TRAINING}

    def check(self, space: SearchSpace, data: DataSet) -> None:
        """See :meth:`Evaluator.check`: the space must have a supernet of mixed operations."""
        super().check(space, data)
        if space.mixture_shape is None:
            raise ValueError(
                f"expected a space whose operations can be mixed, such as DARTS, got {type(space).__name__}"
            )

    def trains_in(self, generation: int) -> bool:
        """See :meth:`Evaluator.trains_in`: True until the schedule is over."""
        return self.epochs_at(generation) > self.epochs_at(generation - 1)

    def epochs_at(self, generation: int) -> int:
        """Number of epochs trained before a generation, counted from 1, is measured."""
        return min(self.supernet.epochs, self.warmup + generation * self.epochs)

    def cut(self, n: int, reserve: float) -> int:
        """How many of ``n`` training images train weights, given the share that the search learns from."""
        if self.share is None and reserve == 0:
            return n
        share = 1 - reserve if self.share is None else self.share
        return min(max(2, round(share * n)), n - 2)

    def builds(self, context: Context) -> Sequence[Path]:
        """See :meth:`Evaluator.builds`: none, since all is in the run folder."""
        return ()

    def network_again(
        self, context: Context, architecture: Architecture, generation: int, folder: Path
    ) -> tuple[nn.Module, str]:
        """See :meth:`Evaluator.network_again`: only weights of the last generation are kept."""
        context = dataclasses.replace(context, weights=kept_weights(folder, generation))
        return super().network_again(context, architecture, generation, folder)

    def prepare(self, context: Context) -> None:
        """Do nothing: weights are trained when a generation begins."""

    def weights_file(self, context: Context) -> Path:
        """See :meth:`OneShot.weights_file`."""
        if context.weights is None:
            raise UserError("this evaluator's weights are trained during a search: expected a search under way")
        return context.weights

    def state(self, context: Context) -> str:
        """Digest of the present weights; empty before there are any."""
        return "" if context.weights is None else stored_checksum(context.weights)

    def start(
        self, context: Context, objectives: Sequence[Objective], constraints: Sequence[Constraint]
    ) -> CoTrainedSession:
        """See :meth:`Evaluator.start`."""
        return CoTrainedSession(self, self.seeded(context), tuple(objectives), tuple(constraints))


class CoTrainedSession(PoolSession):
    """Candidates of one search, measured with weights that ``advance`` trains.

    The folder ``co_training`` holds ``checkpoint.safetensors`` (the present training), the last generation's weights,
    and what the learner had learned by each generation. A resumed search takes past generations from there.
    """

    trains = True

    def __init__(
        self,
        evaluator: CoTrained,
        context: Context,
        objectives: tuple[Objective, ...],
        constraints: tuple[Constraint, ...],
    ) -> None:
        super().__init__(evaluator, context, objectives, constraints)
        self.evaluator, self.say = evaluator, context.say
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if context.folder is None:
            self._temporary = tempfile.TemporaryDirectory()
            self.folder = Path(self._temporary.name)
        else:
            self.folder = context.folder / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self._settings = self.fingerprint
        self._supernet: Supernet | None = None
        self._told: dict[int, Mapping[str, float | None]] = {}
        self._constraints = constraints
        self._cautions: set[str] = set()

    def _goes_on(self, context: Context, fingerprint: str) -> bool:
        """Whether the files of the run folder's first generation were made under this fingerprint."""
        first = None if context.folder is None else context.folder / FOLDER / "generation-0001.safetensors"
        if first is None or not first.is_file():
            return False
        try:
            return read_tensors(first)[1].get("settings") == fingerprint
        except DamagedFile as damaged:
            raise damaged.advising(_again(first.parent)) from None

    def close(self) -> None:
        """See :meth:`Session.close`."""
        super().close()
        if self._temporary:
            self._temporary.cleanup()

    def advance(self, generation: int, learner: Learner) -> None:
        """Train the weights of a generation, counted from 1, or load those that an earlier process trained.

        Raises:
            UserError: training diverged, or a file of the folder is damaged or belongs to another search.
        """
        try:
            self._advance(generation, learner)
        except DamagedFile as damaged:
            raise damaged.advising(_again(self.folder)) from None

    def _advance(self, generation: int, learner: Learner) -> None:
        learned = self.folder / f"generation-{generation:04d}.safetensors"
        weights = self.folder / f"weights-{generation:04d}.safetensors"
        earlier = learned.is_file()
        if not earlier:
            self._train(generation, learner, weights)
            figures = {name: value if math.isfinite(value) else None for name, value in learner.figures().items()}
            about = {"settings": self._settings, "weights": stored_checksum(weights), "figures": figures}
            write_tensors(learned, learner.state(), about | {"whole": True})
            self._shrink(self.folder / f"generation-{generation - 1:04d}.safetensors")
        state, info = read_tensors(learned)
        if info.get("settings") != self._settings:
            raise UserError(f"{learned} belongs to another search: choose another out=, or the same settings")
        if earlier and weights.is_file():
            _verify(weights, info["weights"])
        _restore(learner, learned, state, whole=info["whole"])
        self._tell(generation, info["figures"])
        self.fingerprint = digest(self._settings, info["weights"])
        context = dataclasses.replace(self.job.context, weights=weights)
        # constraints without limits: those of the gates came from other weights
        self.job = dataclasses.replace(self.job, context=context, constraints=self._constraints)
        self._warn(learner)
        for old in self.folder.glob("weights-*.safetensors"):
            if old.name < weights.name:
                old.unlink()

    def evaluate(self, architectures: Sequence[Architecture]) -> Iterator[tuple[int, Evaluation]]:
        """See :meth:`Session.evaluate`; first measures the limits of gates with the present weights."""
        weights = self.job.context.weights
        if architectures and weights is not None and not weights.is_file():
            raise UserError(f"{weights} is missing; {_again(self.folder)}")
        if architectures and any(gate.at_most is None for gate in self.job.gates):
            self._find_limits(dataclasses.replace(self.job.context, say=self.say))
        yield from super().evaluate(architectures)

    def _find_limits(self, context: Context) -> None:
        """Give every gate its limit, once there are weights to inherit."""
        if context.weights is not None:
            super()._find_limits(context)

    def _warn(self, learner: Learner) -> None:
        """Print the warnings about a generation's figures, each only once."""
        shared = learner.shared()
        measured = (*self.job.objectives, *(c.of for c in self.job.constraints), *self.job.context.recorded)
        for line in (learner.caution(), *(objective.caution(shared) for objective in measured)):
            if line is not None and line not in self._cautions:
                self._cautions.add(line)
                self.say(line)

    def _shrink(self, file: Path) -> None:
        """Reduce a past generation's file to what a replay needs; optimisers and memories are in the next file."""
        if file.is_file():
            state, info = read_tensors(file)
            kept = {name: tensor for name, tensor in state.items() if name.startswith(DRAWS)}
            write_tensors(file, kept, info | {"whole": False})

    def _tell(self, generation: int, figures: Mapping[str, float | None]) -> None:
        """Add a line to ``co_training.csv`` in the run folder."""
        folder = self.job.context.folder
        self._told[generation] = figures
        if folder is not None:
            # by name, since generations trained by an earlier version of this package may have fewer figures
            told = {number: [known.get(name) for name in figures] for number, known in self._told.items()}
            cells = {number: ["" if v is None else f"{v:.6g}" for v in values] for number, values in told.items()}
            rows = [[number, self.evaluator.epochs_at(number), *values] for number, values in cells.items()]
            write_csv(folder / f"{FOLDER}.csv", ["generation", "epochs", *figures], rows)

    def _train(self, generation: int, learner: Learner, file: Path) -> None:
        evaluator, context = self.evaluator, self.job.context
        first, last = (evaluator.epochs_at(g) if g else 0 for g in (generation - 1, generation))
        if generation > 1 and evaluator.epochs_at(generation - 2) < first == last == evaluator.supernet.epochs:
            self.say(
                f"the schedule (evaluator.supernet.epochs={last}) is over: from generation {generation} on "
                "the weights stay as they are"
            )
        images = context.data.on(context.device).train
        cut = evaluator.cut(len(images), learner.reserve)
        training = CoTraining(
            context.space, self._model(), images.take(slice(cut, None)), evaluator.warmup, context.seed
        )
        checkpoint = self.folder / "checkpoint.safetensors"
        curve = LearningCurve(
            context.folder or self.folder, evaluator.supernet.epochs, self.say, checkpoint, "supernet_"
        )
        if not first <= len(curve.logs) <= last:
            raise UserError(
                f"{checkpoint}: expected training after {first} to {last} epochs for generation {generation}, got "
                f"{len(curve.logs)}: a file of that folder is missing or older; {_again(self.folder)}"
            )
        try:
            with fixed_threads(evaluator.supernet.threads):
                train(
                    training.supernet,
                    images.take(slice(cut)),
                    evaluator.supernet.recipe.for_data(context.data),
                    evaluator.supernet.epochs,
                    seed=seed_from(evaluator.supernet.seed, "training"),
                    checkpoint=checkpoint,
                    on_epoch=curve.add,
                    paths=lambda epoch: learner.paths(training, epoch),
                    until=last,
                    companion=_Since(learner, first),
                )
                learner.learn(training, max(0, last - max(first, evaluator.warmup)))
        except TrainingDiverged as reason:
            lr = evaluator.supernet.recipe.lr
            raise UserError(f"the supernet cannot be trained with recipe.lr={lr}: {reason}") from None
        if curve.logs:
            curve.draw(evaluator.supernet.recipe, context.space, context.data, "paths of the search's distribution")
        measured = [*self.job.objectives, *(c.of for c in self.job.constraints), *context.recorded]
        shared = learner.shared()
        if not any(DISTRIBUTION in objective.reads for objective in measured):
            # where weights did not change, candidates keep their figures even if the distribution moved
            shared = {name: tensor for name, tensor in shared.items() if not name.startswith(DRAWS)}
        write_tensors(file, {**training.supernet.state_dict(), **shared}, {"generation": generation})

    def _model(self) -> Supernet:
        if self._supernet is None:
            context = self.job.context
            self._supernet = initial_supernet(self.evaluator.supernet, context.space, context.data).to(context.device)
        return self._supernet


def _again(folder: Path) -> str:
    """Advice where files of a co-training are lost. They are useful only together, so all are made again."""
    return (
        f"delete the folder {folder} and run the search again: the weights are trained again, and what was measured "
        "with them stays in the record"
    )


def _verify(weights: Path, wanted: str) -> None:
    """Raise ``DamagedFile`` where a file does not hold the weights that candidates were measured with."""
    read_tensors(weights)
    if stored_checksum(weights) != wanted:
        raise DamagedFile(weights, "other weights than those of its generation")


def _restore(learner: Learner, file: Path, state: dict[str, Tensor], *, whole: bool) -> None:
    """Restore a learner from a file: all of its state, or for a past generation what its replay needs."""
    try:
        # a new search reads its state back from the file too, so a resumed one starts from exactly the same state
        (learner.restore if whole else learner.replay)(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise DamagedFile(file, f"its state of the distribution or estimators is incomplete: {error}") from error


def kept_weights(folder: Path, generation: int) -> Path:
    """The file of the weights that a generation of the run in ``folder`` was measured with.

    Raises:
        UserError: these weights are not kept (only the last generation's are), or a file is damaged.
    """
    own = folder / FOLDER
    learned = own / f"generation-{generation:04d}.safetensors"
    if not learned.is_file():
        raise UserError(f"{own} has no file of generation {generation}: its weights cannot be made again")
    try:
        wanted = read_tensors(learned)[1].get("weights")
        kept = sorted(own.glob("weights-*.safetensors"))
        for file in kept:
            if stored_checksum(file) == wanted:
                read_tensors(file)
                return file
    except DamagedFile as damaged:
        raise damaged.advising(_again(own)) from None
    raise UserError(
        f"the weights of generation {generation} are gone: only those of the last generation are kept "
        f"({', '.join(file.name for file in kept) or 'none'}). Pick from the front, or give weights=false"
    )


@dataclasses.dataclass
class _Since:
    """Keeps a learner's state in the checkpoint of a generation that began after ``first`` epochs."""

    learner: Learner
    first: int

    def state(self) -> dict[str, Tensor]:
        """See :class:`evo_robust.training.loop.Companion`."""
        return self.learner.state()

    def restore(self, state: dict[str, Tensor], epochs: int) -> None:
        """See :class:`Companion`; a state from the generation's begin is skipped, since the learner has it already."""
        if epochs > self.first:
            self.learner.restore(state)

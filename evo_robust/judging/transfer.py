"""Black box by transfer: adversarial images are made on some networks and judge others, which the attack never saw."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from evo_robust.attacks.base import Norm, Threat
from evo_robust.attacks.curve import attacked_together
from evo_robust.attacks.fast import Precision, for_attack
from evo_robust.attacks.gradient import GradientAttack
from evo_robust.data.images import Images
from evo_robust.inference.predictions import classes, eval_mode
from evo_robust.judging.judgement import Figure, Kinship, Transfer, Verdict
from evo_robust.judging.levels import repeatable
from evo_robust.judging.named import KINDS
from evo_robust.judging.store import Kept, Store
from evo_robust.judging.subjects import Subject
from evo_robust.judging.trials import Trial
from evo_robust.judging.weights import identity, structure
from evo_robust.parts.base import Fraction, UserError, digest, dotted, seed_from
from evo_robust.progress import Say, duration

TRANSFER = "transfer"
"""What stands before a trial's name where its images were made on another network."""

CLEAN = "no attack"
"""What tables and pictures of transfers call the images themselves."""

CHUNK = 512
"""Images made between two writes. It decides random numbers, so it never changes."""

Pairs = list[tuple[Subject, list[Subject]]]
"""Sources, each with the networks that its images judge."""


@dataclasses.dataclass(frozen=True)
class Ground:
    """What all networks are judged on, and where that is kept.

    Attributes:
        images: test images on the device that judges.
        content: their digest.
        data: name of their data set.
        seed: of all random numbers, >= 0.
        precision: in which attacks search; the networks that are judged run in float32.
        store: where the answers are kept.
    """

    images: Images
    content: str
    data: str
    seed: int
    precision: Precision
    store: Store


@dataclasses.dataclass(frozen=True)
class _Party:
    """A network that takes part, in eval mode on the images' device; ``network`` and ``layers`` are digests of it."""

    subject: Subject
    model: nn.Module
    network: str
    layers: str

    def to(self, target: _Party) -> Kinship:
        """What it is to the network that its images judge."""
        if self.network == target.network:
            return "same"
        return "copy" if self.layers == target.layers else "other"


def check_transferable(trials: Sequence[Trial]) -> None:
    """Refuse trials that make no images for other networks.

    Black-box attacks and those that look for the closest image end at the boundary of the network that they look at.
    Only a gradient attack that goes on to its last step, whether the image is broken or not, makes images for others.

    Raises:
        UserError: naming the trial and what was expected.
    """
    for trial in trials:
        odd = next((type(a).__name__ for a in trial.attacks if not isinstance(a, GradientAttack)), None)
        if odd is not None or not trial.attacks:
            fit = ", ".join(name for name, kind in KINDS.items() if issubclass(kind.cls, GradientAttack))
            raise UserError(
                f"attacks={trial.name}: {odd or trial.name} makes no images for other networks. Expected attacks by "
                f"gradients with sources= ({fit}); judge with the others apart, without sources="
            )


def pairs_of(sources: Sequence[Subject], targets: Sequence[Subject], copies: bool) -> Pairs:
    """Each source with the networks that its images judge: all, or with ``copies`` those of the same layers.

    Raises:
        UserError: with ``copies``, a network has no copy among the sources.
    """
    if not copies:
        return [(source, list(targets)) for source in sources]
    marks = {id(subject): _marks(subject) for subject in [*sources, *targets]}
    pairs: Pairs = []
    for source in sources:
        layers, network = marks[id(source)]
        alike = [t for t in targets if marks[id(t)][0] == layers and marks[id(t)][1] != network]
        pairs.append((source, alike))
    for target in targets:
        if not any(other is target for _, alike in pairs for other in alike):
            told = ", ".join(
                f"{s.name} ({'same weights' if marks[id(s)] == marks[id(target)] else 'other layers'})" for s in sources
            )
            raise UserError(
                f"copies=yes: {target.name} has no copy among the sources. Expected a network with the same layers and "
                f"other weights, such as retrain makes with another seed=; got {told}"
            )
    return [(source, alike) for source, alike in pairs if alike]


def _marks(subject: Subject) -> tuple[str, str]:
    """Digests of a network's layers and of its weights; a name for weights that would have to be trained first."""
    if subject.fresh is not None:
        return structure(subject.fresh()), subject.key
    network = subject.make()
    return structure(network), identity(network)


def transfers(
    pairs: Pairs, trials: Sequence[Trial], ground: Ground, load: Callable[[Subject], nn.Module], say: Say
) -> list[Transfer]:
    """Accuracy of each target on the images that each trial makes on each source.

    All test images count, as in the papers: each of them is attacked on the source to the last step, even where the
    source was wrong before; the target's accuracy is the share that it classifies right then. Each strength is an
    attack of its own. Of a trial of several attacks an image counts as right where the target is right on all of its
    images. Images are made once for all targets, and are not kept; answers are, a batch at a time.

    Args:
        pairs: see :func:`pairs_of`.
        trials: see :func:`check_transferable`.
        ground: the images that judge.
        load: gives a network with its weights, on the CPU.
        say: called with each line of progress text.

    Returns:
        Attack by attack and strength by strength, each source with all its targets.

    Raises:
        UserError: a source has no gradients.
    """
    parties: dict[int, _Party] = {}

    def party(subject: Subject) -> _Party:
        if id(subject) not in parties:
            model = load(subject).cpu().eval()
            marks = identity(model), structure(model)
            parties[id(subject)] = _Party(subject, model.to(ground.images.x.device), *marks)
        return parties[id(subject)]

    found = []
    for number, (subject, others) in enumerate(pairs, 1):
        say(f"images made on {subject.name}: {number} of {len(pairs)}, from {subject.origin}")
        source, targets = party(subject), [party(other) for other in others]
        maker = _Maker(source, ground)
        for trial in trials:
            for eps in trial.eps:
                figures = _figures(maker, targets, trial, eps, ground, say)
                found += [
                    Transfer(subject.name, subject.origin, subject.zoo, t.subject.name, source.to(t), figure)
                    for t, figure in zip(targets, figures, strict=True)
                ]
    return [transfer for cells in by_column(found).values() for transfer in cells]


class _Maker:
    """Makes adversarial images on one network."""

    def __init__(self, source: _Party, ground: Ground) -> None:
        self.source, self.ground = source, ground
        self.size = attacked_together(ground.images)
        self.fast: nn.Module | None = None

    def make(self, attack: GradientAttack, norm: Norm, eps: float, part: Images, seed: int) -> Tensor:
        """Adversarial images ``(n, c, h, w)``: the attack's last iterates, or what it chooses among its iterates."""
        if self.fast is None:  # only where something is left to be made
            sample = self.ground.images.floats(slice(self.size if self.ground.precision == "auto" else 16))
            self.fast = for_attack(self.source.model, sample, self.ground.precision).eval()
        generator = torch.Generator(part.x.device).manual_seed(seed)
        threat = Threat(norm=norm, eps=Fraction(eps))
        made = []
        for x, y in zip(part.floats().split(self.size), part.y.split(self.size), strict=True):
            try:
                made.append(attack.perturb(self.fast, x, y, threat, generator, keep_going=True))
            except ValueError as error:
                raise UserError(f"sources={self.source.subject.origin}: {error}") from None
        return torch.cat(made)


def _figures(
    maker: _Maker, targets: Sequence[_Party], trial: Trial, eps: float, ground: Ground, say: Say
) -> list[Figure]:
    """Every target's accuracy on the images of one trial at one strength."""
    rights = [torch.ones(len(ground.images), dtype=torch.bool) for _ in targets]
    seconds = [0.0 for _ in targets]
    for attack in trial.attacks:
        assert isinstance(attack, GradientAttack)  # check_transferable has looked
        for k, kept in enumerate(_answers(maker, targets, attack, trial, eps, ground, say)):
            rights[k] &= kept.level > 0
            seconds[k] += kept.seconds
    column = trial.column(eps)
    figures = [
        Figure(trial.name, column, trial.norm, eps, int(right.sum()), len(right), spent)
        for right, spent in zip(rights, seconds, strict=True)
    ]
    shares = ", ".join(f"{t.subject.name} {100 * f.accuracy:.2f} %" for t, f in zip(targets, figures, strict=True))
    say(f"  {column}: {shares} ({duration(sum(seconds))})")
    return figures


def _answers(
    maker: _Maker,
    targets: Sequence[_Party],
    attack: GradientAttack,
    trial: Trial,
    eps: float,
    ground: Ground,
    say: Say,
) -> list[Kept]:
    """What each target says to the images of one attack: level 1 where it is right, 0 where it is wrong.

    Batches that all targets have answered are not made again.
    """
    norm: Norm = "l2" if trial.norm == "l2" else "linf"
    what = [type(attack).__name__, dotted(attack, identity=True)]
    rest = [ground.content, what, norm, eps, ground.seed, ground.precision]
    keys = [digest([TRANSFER, maker.source.network, target.network, *rest], length=20) for target in targets]
    answers = [ground.store.get(key) for key in keys]
    n, last = len(ground.images), time.monotonic()
    for begin in range(0, n, CHUNK):
        lacking = [k for k, kept in enumerate(answers) if len(kept.level) <= begin]
        if not lacking:
            continue
        began = time.perf_counter()
        part = ground.images.take(slice(begin, begin + CHUNK))
        seed = seed_from(ground.seed, [*what, begin])
        with repeatable(seed, part.x.device):
            images = maker.make(attack, norm, eps, part, seed)
        share = (time.perf_counter() - began) / len(lacking)
        for k in lacking:
            began = time.perf_counter()
            with repeatable(seed, part.x.device):
                right = _right(targets[k].model, images, part.y, maker.size)
            level = torch.cat((answers[k].level, right.long().cpu()))
            answers[k] = Kept(level, answers[k].seconds + share + time.perf_counter() - began)
            ground.store.put(keys[k], answers[k], _about(maker.source, targets[k], attack, trial, eps, ground))
        if time.monotonic() - last > 10:
            last = time.monotonic()
            say(f"  {trial.column(eps)}: {min(begin + CHUNK, n):,} of {n:,} images")
    return answers


def _about(
    source: _Party, target: _Party, attack: GradientAttack, trial: Trial, eps: float, ground: Ground
) -> dict[str, object]:
    """What a file of answers says of itself."""
    return {
        "network": target.subject.name,
        "origin": target.subject.origin,
        "made_on": source.subject.origin,
        "data": ground.data,
        "attacks": [type(attack).__name__],
        "norm": trial.norm,
        "eps": [eps],
        "images": len(ground.images),
    }


@torch.no_grad()
def _right(model: nn.Module, images: Tensor, y: Tensor, size: int) -> Tensor:
    """Which of these images a network classifies right, bool ``(n,)``."""
    with eval_mode(model):
        return torch.cat([classes(model(x)) for x in images.split(size)]) == y


def with_lowest(verdicts: Sequence[Verdict], found: Sequence[Transfer]) -> list[Verdict]:
    """The verdicts, each with its lowest accuracy under every trial and strength over all other networks' images.

    A network's images for itself are white-box, and do not count.
    """
    return [
        dataclasses.replace(verdict, figures=(*verdict.figures, *_lowest(verdict.name, found))) for verdict in verdicts
    ]


def _lowest(target: str, found: Sequence[Transfer]) -> list[Figure]:
    """The figures that :func:`with_lowest` adds for one network."""
    lowest: dict[str, Figure] = {}
    for transfer in found:
        figure = transfer.figure
        if transfer.target == target and transfer.kinship != "same":
            before = lowest.get(figure.column, figure)
            lowest[figure.column] = min(before, figure, key=lambda f: f.right)
    return [
        dataclasses.replace(figure, trial=f"{TRANSFER} {figure.trial}", column=f"{TRANSFER} {column}")
        for column, figure in lowest.items()
    ]


def by_column(found: Sequence[Transfer]) -> dict[str, list[Transfer]]:
    """The transfers of each attack and strength, by its name as the head of a column."""
    columns: dict[str, list[Transfer]] = {}
    for transfer in found:
        columns.setdefault(transfer.figure.column, []).append(transfer)
    return columns


def as_matrices(found: Sequence[Transfer]) -> bool:
    """Whether a matrix of sources and targets shows them best: several sources, each of which judges every target."""
    pairs = {(transfer.source, transfer.target) for transfer in found}
    sources, targets = {source for source, _ in pairs}, {target for _, target in pairs}
    return len(sources) > 1 and len(pairs) == len(sources) * len(targets)

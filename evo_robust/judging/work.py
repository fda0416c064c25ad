"""Judges networks in a folder: whatever was judged there before is not judged again."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import joblib
import torch
from torch import Tensor, nn

from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.attacks.base import Norm, Threat, check_eps
from evo_robust.attacks.fast import Precision
from evo_robust.attacks.level.base import LevelAttack
from evo_robust.data.base import DataSet
from evo_robust.data.images import Images
from evo_robust.device import choose_device
from evo_robust.files import DamagedFile, FolderLock, cache_folder, make_folder, set_aside, write_json, write_tensors
from evo_robust.inference.predictions import correct_mask, eval_mode
from evo_robust.judging.judgement import Figure, Judgement, Verdict, figures_of_trial, worst_cases
from evo_robust.judging.levels import Judged, clean, has_gradient, levels, possible
from evo_robust.judging.named import SAMPLES
from evo_robust.judging.own import own_code
from evo_robust.judging.signs import signs_of, with_transferred
from evo_robust.judging.store import Kept, Store
from evo_robust.judging.subjects import Subject
from evo_robust.judging.transfer import Ground, check_transferable, pairs_of, transfers, with_lowest
from evo_robust.judging.trials import Trial
from evo_robust.judging.weights import fitted, identity
from evo_robust.objectives.cost import count_flops, count_params
from evo_robust.parts.base import Fraction, UserError
from evo_robust.parts.strict_json import read_json
from evo_robust.progress import Say, duration, silent

RESULT_FILE = "judgement.json"
JUDGE_FOLDER = "judge"
"""Where the judgement of a search lies in its folder."""

SCHEMA = 1
LEVELS_FOLDER = "levels"
WEIGHTS_FOLDER = "weights"


@dataclasses.dataclass(frozen=True)
class Judging:
    """What is judged how.

    Attributes:
        subjects: the networks.
        data: the data set whose test images judge them.
        trials: what is done to each of them.
        images: how many of the test images; None for all.
        seed: of all random numbers, >= 0.
        precision: in which gradient attacks search; what counts is confirmed in float32.
        adversarial_set: of the trial ``adversarial-set``; None for the class's own settings.
        sources: networks whose adversarial images judge the others too, see :mod:`evo_robust.judging.transfer`.
        copies: whether each network is judged by images of its own copies alone: the same layers, other weights.
        signs: whether to look for signs of masked gradients, see :func:`evo_robust.judging.signs.signs_of`.
    """

    subjects: tuple[Subject, ...]
    data: DataSet
    trials: tuple[Trial, ...]
    images: int | None = None
    seed: int = 0
    precision: Precision = "float32"
    adversarial_set: AdversarialSet | None = None
    sources: tuple[Subject, ...] = ()
    copies: bool = False
    signs: bool = True

    @property
    def everybody(self) -> list[Subject]:
        """All networks that take part, each once."""
        return list({id(subject): subject for subject in (*self.subjects, *self.sources)}.values())


def judge(judging: Judging, folder: Path, *, device: str = "auto", command: str = "", say: Say = silent) -> Judgement:
    """Judge networks; an interrupted judgement goes on where it stopped, and ends with the same figures.

    Args:
        judging: what is judged how.
        folder: where everything is kept; made when absent.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        command: the command line, for the record.
        say: called with each line of progress text.

    Raises:
        UserError: a network does not fit the images, a trial does not fit them, or device, data or folder cannot be
            used.
    """
    device = choose_device(device)
    _check(judging)
    splits = judging.data.load()
    test = splits.test if judging.images is None else splits.test.take(slice(judging.images))
    content = test.content()
    for subject in judging.everybody:
        if subject.fresh is None:  # a network that does not fit is told before hours go into the others
            _check_network(subject.make(), subject, test, judging.data.n_classes)
    pairs = pairs_of(judging.sources, judging.subjects, judging.copies)
    make_folder(folder)
    with FolderLock(folder):
        _announce(judging, folder, say)
        verdicts = []
        for number, subject in enumerate(judging.subjects, 1):
            say(f"{subject.name}: {number} of {len(judging.subjects)}, from {subject.origin}")
            model = _network(subject, folder, say)
            verdicts.append(_verdict(judging, subject, model, test.to(device), content, folder, device, say))
        store = Store(folder / LEVELS_FOLDER, say)
        ground = Ground(test.to(device), content, judging.data.name, judging.seed, judging.precision, store)
        crossed = transfers(pairs, judging.trials, ground, lambda subject: _network(subject, folder, say), say)
        verdicts = with_lowest(verdicts, crossed)
        if judging.signs:
            verdicts = [with_transferred(verdict, judging.trials) for verdict in verdicts]
        judgement = Judgement(judging.data.name, len(test), judging.seed, tuple(verdicts), tuple(crossed))
        write_json(folder / RESULT_FILE, {"schema": SCHEMA, "command": command, **judgement.to_json()})
    return judgement


def read_judgement(folder: Path) -> Judgement:
    """The judgement that was last made in a folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / RESULT_FILE
    content = read_json(path, f"a judgement of schema {SCHEMA}")
    if content.get("schema") != SCHEMA:
        raise UserError(f"{path}: expected a judgement of schema {SCHEMA}, got {content.get('schema')!r}")
    try:
        return Judgement.from_json(content)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def _check(judging: Judging) -> None:
    """Refuse networks and trials that do not fit the images, before anything is made."""
    data = judging.data
    if judging.images is not None and judging.images < 1:
        raise UserError(f"expected images >= 1, got {judging.images}")
    if judging.seed < 0:
        raise UserError(f"expected seed >= 0, got {judging.seed}")
    if judging.sources:
        check_transferable(judging.trials)
    elif judging.copies:
        raise UserError("expected sources= with copies=yes: on which networks are images to be made?")
    for subject in judging.everybody:
        for what, own, theirs in (
            ("shape of images", subject.in_shape, data.in_shape),
            ("number of classes", subject.n_classes, data.n_classes),
        ):
            if own is not None and own != theirs:
                raise UserError(f"{subject.name} does not fit data={data.name}: its {what} is {own}, theirs {theirs}")
    for trial in judging.trials:
        for attack in trial.attacks:
            try:
                if isinstance(attack, LevelAttack):
                    _check_levels(trial, data)
                else:
                    for eps in trial.eps:
                        norm: Norm = "l2" if trial.norm == "l2" else "linf"
                        check_eps(eps, norm, data.in_shape)
                        attack.check(Threat(norm=norm, eps=Fraction(eps)), data.in_shape)
            except ValueError as error:
                raise UserError(f"attacks={trial.name}: {error}") from None


def _check_levels(trial: Trial, data: DataSet) -> None:
    """Raise ``ValueError`` for more pixels than an image has, or more grey steps than there are."""
    pixels = data.in_shape[1] * data.in_shape[2]
    most = pixels if trial.norm == "l0" else 255
    if max(trial.eps) > most:
        unit = "pixels of the image" if trial.norm == "l0" else "grey steps"
        raise ValueError(f"expected level <= {most} {unit}, got {max(trial.eps):.0f}")


def _weights_file(subject: Subject, folder: Path) -> Path:
    """Where weights that were made again are kept."""
    return folder / WEIGHTS_FOLDER / f"{subject.key}.safetensors"


def _announce(judging: Judging, folder: Path, say: Say) -> None:
    """Say which networks have to be made again, and what that cost in the search."""
    absent = [s for s in judging.everybody if s.fresh is not None and not _weights_file(s, folder).is_file()]
    if absent:
        took = duration(sum(subject.seconds for subject in absent))
        many = f"{len(absent)} networks have" if len(absent) > 1 else "1 network has"
        say(f"{many} no stored weights: they are made again as in the search, which took {took} there, and are kept")


def _network(subject: Subject, folder: Path, say: Say) -> nn.Module:
    """The network with its weights; those that were trained again are kept for the next judgement."""
    if subject.fresh is None:
        return subject.make()
    path = _weights_file(subject, folder)
    if path.is_file():
        try:
            return fitted(subject.fresh(), path, f"the network of {subject.origin}")
        except DamagedFile as error:
            say(set_aside(error))
    say("  making its weights again, as in the search …")
    began = time.monotonic()
    model = subject.make()
    make_folder(path.parent)
    write_tensors(path, model.state_dict())
    say(f"  made in {duration(time.monotonic() - began)}; kept for the next time")
    return model


def _verdict(
    judging: Judging,
    subject: Subject,
    model: nn.Module,
    test: Images,
    content: str,
    folder: Path,
    device: str,
    say: Say,
) -> Verdict:
    """All figures of one network."""
    model = model.cpu().eval()
    params, flops = count_params(model), _flops(model, judging.data)
    network = identity(model)
    model = model.to(device)
    store = Store(folder / LEVELS_FOLDER, say)
    told = {"network": subject.name, "origin": subject.origin, "data": judging.data.name}
    judged = Judged(model, network, test, content, judging.seed, judging.precision, store, told)
    gradient = has_gradient(model, test)
    seen = _under_trials(judging, judged, device, say, gradient=gradient)
    return Verdict(
        *(subject.name, subject.origin, subject.recipe, subject.seed, subject.zoo),
        *(params, flops, tuple(seen.figures), seen.means),
        searched=dict(subject.searched),
        group=subject.group,
        search_hours=subject.search_hours,
        searched_on=subject.searched_on,
        repeats=subject.repeats,
        signs=signs_of(judged, seen.found, gradient=gradient, say=say) if judging.signs else None,
        without=tuple(seen.without),
    )


@dataclasses.dataclass
class _Seen:
    """What the trials found of one network.

    Attributes:
        figures: accuracies; the clean one first, the worst cases last.
        means: mean accuracy over strengths, by trial, where the trial asks for it.
        found: trials, and the level of every image under them.
        without: columns of attacks that cannot be made, since the network has no gradient.
    """

    figures: list[Figure]
    means: dict[str, float] = dataclasses.field(default_factory=dict)
    found: list[tuple[Trial, Tensor]] = dataclasses.field(default_factory=list)
    without: list[str] = dataclasses.field(default_factory=list)


def _under_trials(judging: Judging, judged: Judged, device: str, say: Say, *, gradient: bool) -> _Seen:
    """One network under every trial; ``gradient`` says whether it has one with respect to its images."""
    known, n = clean(judged), len(judged.images)
    right = int((known.level == 0).sum())
    seen = _Seen([Figure("clean", "clean", "", None, right, n, known.seconds)])
    say(f"  clean: {100 * right / n:.2f} % of {n:,} test images")
    for trial in judging.trials:
        if trial.samples:
            seen.figures.append(_on_samples(judging, judged.model, device, say))
            continue
        whole, trial = trial, possible(trial, gradient=gradient)
        if trial.attacks != whole.attacks:
            seen.without += map(whole.column, whole.eps)
            rest = f"; of its attacks, {trial.name} can" if trial.attacks else ""
            say(f"  {whole.name}: cannot be made, since the network has no gradient{rest}")
            told = [*judging.trials, *(other for other, _ in seen.found)]
            if not trial.attacks or any(map(trial.same_as, told)):
                continue
        kept = levels(judged, trial, _Progress(trial, n, say))
        mine = figures_of_trial(trial, kept.level, kept.seconds)
        if trial.mean:
            seen.means[trial.name] = sum(figure.accuracy for figure in mine) / len(mine)
        shares = ", ".join(f"{100 * f.accuracy:.2f} % at {f.strength}" for f in mine)
        say(f"  {trial.name}: {shares} ({duration(kept.seconds)})")
        seen.figures += mine
        seen.found.append((trial, kept.level))
    seen.figures += worst_cases(seen.found)
    return seen


class _Progress:
    """Says how far a long trial is, at most every ten seconds."""

    def __init__(self, trial: Trial, n: int, say: Say) -> None:
        self.trial, self.n, self.say, self.last = trial, n, say, time.monotonic()

    def __call__(self, done: int, kept: Kept) -> None:
        now = time.monotonic()
        if done < self.n and now - self.last > 10:
            self.last = now
            left = int((kept.level > 0).sum())
            self.say(f"  {self.trial.name}: {done:,} of {self.n:,} images, {100 * left / done:.1f} % still right")


def _flops(model: nn.Module, data: DataSet) -> float | None:
    try:
        return count_flops(model, data.in_shape, "thop")
    except (RuntimeError, ValueError, TypeError):  # a network of one's own may have layers that thop does not know
        return None


@torch.no_grad()
def _check_network(model: nn.Module, subject: Subject, test: Images, n_classes: int) -> None:
    """Refuse a network whose answers to the first images are no finite logits, one for each class.

    Raises:
        UserError: naming the network and what was wrong.
    """
    first, told = test.take(slice(min(len(test), 16))), f"{subject.name} ({subject.origin})"
    try:
        with own_code(f"{told}: expected logits for images {tuple(first.x.shape)}"):
            correct_mask(model, first)
            with eval_mode(model):
                logits = model(first.floats())
    except UserError as error:
        if isinstance(error.__cause__, ValueError):
            raise UserError(f"{told}: {error.__cause__}") from None
        raise
    if logits.shape[1] != n_classes:
        raise UserError(f"{told}: expected {n_classes} logits, one for each class, got {logits.shape[1]}")
    if not bool(logits.isfinite().all()):
        raise UserError(f"{told}: expected finite logits, got NaN or infinity")


def _on_samples(judging: Judging, model: nn.Module, device: str, say: Say) -> Figure:
    """Accuracy on the adversarial images that were made of test images, for other networks."""
    settings = judging.adversarial_set or AdversarialSet()
    made = settings.build_or_load(judging.data, cache_folder(), device, joblib.cpu_count(), say)
    began = time.perf_counter()
    right = int(correct_mask(model, made.judge.to(device)).sum())
    say(f"  {SAMPLES}: {100 * right / len(made.judge):.2f} % of {len(made.judge):,} images")
    return Figure(SAMPLES, SAMPLES, "", None, right, len(made.judge), time.perf_counter() - began)

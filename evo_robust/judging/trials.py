"""What a judge does to a network: attacks by name, such as ``pgd-20:step=2/255``, and sets of them by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from evo_robust.attacks.base import Attack, Norm
from evo_robust.attacks.gradient import MIFGSM, PGD, IterativeAttack
from evo_robust.attacks.level.attack import CMAES
from evo_robust.attacks.level.base import LevelAttack
from evo_robust.attacks.level.sigma_zero import SigmaZero
from evo_robust.attacks.minimum.carlini_wagner import CarliniWagner
from evo_robust.judging.named import KINDS, SAMPLES, SETS, SETS_ON, TrialNorm
from evo_robust.judging.typed_attack import attack_of, norm_of, read_attack, says_yes, strengths_of
from evo_robust.parts.base import UserError


@dataclasses.dataclass(frozen=True)
class Trial:
    """Attacks that follow each other. Each gets the images that the ones before have left unbroken.

    Attributes:
        name: what tables call it, such as ``PGD-20`` or ``compact``.
        attacks: one or more, in this order; none for a set of adversarial images that exists already.
        norm: of the balls; ``l0`` counts pixels.
        eps: strengths, ascending: radii in units of the pixel range 0..1, or numbers of pixels (l0), or grey steps
            of 255 (a level attack in linf).
        mean: whether tables show the mean over the strengths too, as Wsr-NAS's "Avg. Rob.".
        samples: whether it stands for the adversarial set's images, which are there already.
    """

    name: str
    attacks: tuple[Attack | LevelAttack, ...]
    norm: TrialNorm
    eps: tuple[float, ...]
    mean: bool = False
    samples: bool = False

    def same_as(self, other: Trial) -> bool:
        """Whether both do the same to a network, whatever they are called."""
        return dataclasses.replace(self, name="", mean=False) == dataclasses.replace(other, name="", mean=False)

    def overlaps(self, other: Trial) -> bool:
        """Whether both tell the same column: a strength of the same attack, or the mean over its strengths."""
        twice = not {*self.eps}.isdisjoint(other.eps) or (self.mean and other.mean)
        return (self.attacks, self.norm) == (other.attacks, other.norm) and twice

    @property
    def levels(self) -> bool:
        """Whether its strengths are whole numbers of pixels or grey steps."""
        return any(isinstance(attack, LevelAttack) for attack in self.attacks)

    def ball(self, eps: float) -> tuple[TrialNorm, float]:
        """Norm and radius at one of its strengths: grey steps are 255ths of the pixel range, pixels stay pixels."""
        return self.norm, eps / 255 if self.levels and self.norm == "linf" else eps

    def column(self, eps: float) -> str:
        """Its name at one of its strengths, as the head of a column."""
        return f"{self.name} {shown(eps, self.norm, self.levels)}"


def shown(eps: float, norm: TrialNorm | str, levels: bool) -> str:
    """A strength for people: pixels, 255ths where it is a whole number of them, such as ``8/255``, else a number."""
    if levels:
        return f"{eps:.0f} px" if norm == "l0" else f"{eps:.0f}/255"
    steps = 255 * eps
    whole = steps > 0.5 and abs(steps - round(steps)) < 1e-6 and abs(100 * eps - round(100 * eps)) > 1e-6
    # seven digits tell apart all strengths that are distinct in float32
    short = f"{eps:.4g}"
    return f"{round(steps)}/255" if whole else short if float(short) == eps else f"{eps:.7g}"


def trials(
    text: str,
    eps: Sequence[float],
    steps: Sequence[int],
    step: str | None,
    norm: Norm,
    *,
    n_classes: int = 10,
    data: str = "",
    eps_l2: Sequence[float] | None = None,
) -> list[Trial]:
    """The trials that ``attacks=text`` names: attacks and sets, with commas; ``+`` joins attacks to one worst case.

    What two sets share is done once, with its mean where one of them asks for it. Trials that differ in their
    settings alone have these in their names.

    Args:
        text: such as ``compact,pgd-20:step=2/255,square+fmn``. Settings follow a name with colons: ``eps=`` (with
            further strengths behind it, ``eps=.03:.1``), ``norm=``, ``mean=yes``, and the fields of the attack.
        eps: radii for attacks that name none, ascending, in units of the pixel range 0..1.
        steps: numbers of steps for attacks that name none: each gives a trial; none for the attack's usual one.
        step: step length for attacks that name none, such as ``2/255`` or ``eps/10``; None for the attack's own.
        norm: for attacks that name none.
        n_classes: number of classes; an attack aims at no more wrong classes than there are.
        data: name of the data set, for which a paper may have a set of its own, see :data:`SETS_ON`.
        eps_l2: the same as ``eps`` for attacks in l2; ``eps`` itself when not given.

    Raises:
        UserError: nothing is named, an attack or setting is unknown, or a trial is named twice.

    Example:
        >>> [trial.name for trial in trials("pgd-20,fgsm", (8 / 255,), (), None, "linf")]
        ['PGD-20', 'FGSM']
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"attacks={text}: expected names such as {', '.join([*SETS, *KINDS])}")
    found: list[Trial] = []
    settings: list[str] = []
    free = takes_step = False
    for name in names:
        _refuse_twice(name)
        head, colon, rest = name.partition(":")
        parts = _without_sets(SETS_ON.get((head.lower(), data), head) + colon + rest)
        for part, label in parts:
            free |= _free(part)
            takes_step |= _takes_step(part)
            for trial in _of(part, label, {"linf": eps, "l2": eps_l2 or eps}, steps, step, norm, n_classes):
                known = next((k for k, other in enumerate(found) if trial.same_as(other)), None)
                if known is None:
                    if any(trial.overlaps(other) for other in found):
                        raise UserError(
                            f"attacks={text}: expected all strengths of {trial.name} at once, got them in parts"
                        )
                    found.append(trial)
                    settings.append(_settings(part))
                elif trial.mean != found[known].mean:  # one of the two asks for the mean too
                    found[known] = dataclasses.replace(found[known], mean=True)
                elif label is None and len(parts) == 1:
                    raise UserError(f"attacks={text}: expected different attacks, got {trial.name} twice")
    if steps and not free:
        raise UserError(
            f"steps={','.join(map(str, steps))} has no effect on attacks={text}: expected an attack without a number "
            "of steps that takes one, such as pgd"
        )
    if step is not None and not takes_step:
        raise UserError(
            f"step={step} has no effect on attacks={text}: expected an attack in small steps without a step of its "
            "own, such as pgd-20"
        )
    return _apart(found, settings)


def _refuse_twice(text: str) -> None:
    """Refuse a setting that is typed twice for one attack, of which one would be lost."""
    for piece in text.split("+"):
        name, *rest = piece.split(":")
        keys = [key.strip() for key, equals, _ in (part.partition("=") for part in rest) if equals]
        if twice := [key for k, key in enumerate(keys) if key in keys[:k]]:
            raise UserError(f"attacks={text}: {twice[0]} is given twice")
        kind, dash, number = name.strip().lower().rpartition("-")
        if dash and number.isdecimal() and kind in KINDS and KINDS[kind].steps in keys:
            raise UserError(f"attacks={text}: expected {kind}-{number} or {KINDS[kind].steps}=, got both")


def _settings(text: str) -> str:
    """The settings of an attack that its name in tables does not tell, such as ``step=2/255``."""
    given = (
        [part for name in text.split("+") for part in read_attack(name, text)[2].items()]
        if text.lower() != SAMPLES
        else []
    )
    return ", ".join(f"{key}={','.join(values)}" for key, values in given if key not in ("eps", "norm", "mean"))


def _apart(found: Sequence[Trial], settings: Sequence[str]) -> list[Trial]:
    """The trials with a name for each attack: where two share one, settings stand behind it, or else numbers."""
    told: dict[str, list[tuple[object, ...]]] = {}
    for trial in found:
        told.setdefault(trial.name, []).append(trial.attacks)
    named = []
    for trial, words in zip(found, settings, strict=True):
        several = len(set(told[trial.name])) > 1
        named.append(dataclasses.replace(trial, name=f"{trial.name} ({words})") if several and words else trial)
    known: dict[str, list[tuple[object, ...]]] = {}
    for k, trial in enumerate(named):
        others = known.setdefault(trial.name, [])
        if trial.attacks not in others:
            others.append(trial.attacks)
        if number := others.index(trial.attacks):
            named[k] = dataclasses.replace(trial, name=f"{trial.name} ({number + 1})")
    return named


def _without_sets(text: str) -> list[tuple[str, str | None]]:
    """The attacks that a name stands for, as texts, each with its label where a set has given it one.

    Settings behind a set take the place of those of its attacks.
    """
    pieces = text.split("+")
    wholes = [SETS.get(piece.partition(":")[0].strip().lower()) for piece in pieces]
    if all(whole is None for whole in wholes):
        return [(text, None)]
    if len(pieces) > 1 and (several := [p for p, whole in zip(pieces, wholes, strict=True) if whole and "," in whole]):
        raise UserError(f"attacks={text}: {several[0]} is several attacks, which do not join: expected it by itself")
    each, labels = [], []
    for piece, whole in zip(pieces, wholes, strict=True):
        name, colon, settings = piece.strip().partition(":")
        labels.append(name.lower())
        each.append(re.sub(r"(?=[,+]|$)", colon + settings, whole) if whole else piece.strip())
    joined = "+".join(each)
    label = "+".join(labels) if "," not in joined else None
    # images that are there already take no settings
    return [(SAMPLES if part.startswith(SAMPLES) else part, label) for part in joined.split(",")]


def _of(
    text: str,
    label: str | None,
    eps: Mapping[str, Sequence[float]],
    steps: Sequence[int],
    step: str | None,
    norm: Norm,
    n_classes: int,
) -> list[Trial]:
    """The trials of one name, or of several that ``+`` joins: one for each number of steps."""
    if text.lower() == SAMPLES:
        return [Trial(SAMPLES, (), "linf", (), samples=True)]
    pieces = text.split("+")
    each = [read_attack(part, text) for part in pieces]
    found = []
    for many in steps if steps and _free(text) else (None,):
        parts, strengths, mean = [], [], False
        norms: list[TrialNorm] = []
        for kind, number, given in each:
            own = dict(given)
            strengths.append(own.pop("eps", None))
            norms.append(norm_of(kind, ":".join(own.pop("norm", [KINDS[kind].norm or norm]))))
            mean |= says_yes(text, own.pop("mean", ["no"]))
            parts.append(attack_of(text, kind, many if number is None else number, own, step, n_classes))
        if twice := [name for k, name in enumerate(pieces) if each[k] in each[:k]]:
            raise UserError(f"attacks={text}: expected different attacks joined by +, got {twice[0]} twice")
        own_eps = [texts for texts in strengths if texts is not None]
        if len(set(norms)) > 1 or len({tuple(texts) for texts in own_eps}) > 1:
            raise UserError(f"attacks={text}: expected one norm and the same strengths for attacks that + joins")
        free_eps = eps["l2" if norms[0] == "l2" else "linf"]
        values = strengths_of(text, own_eps[0] if own_eps else None, free_eps, parts, norms[0])
        name = named_after(parts, norms[0], label)
        # of few classes, two attacks of a set may be the same
        found.append(Trial(name, tuple(dict.fromkeys(parts)), norms[0], values, mean))
    return found


def _free(text: str) -> bool:
    """Whether one of the attacks that ``+`` joins takes a number of steps and has none."""
    if text.strip().lower() == SAMPLES:
        return False
    each = [read_attack(part, text) for part in text.split("+")]
    return any(number is None and (field := KINDS[kind].steps) and field not in own for kind, number, own in each)


def _takes_step(text: str) -> bool:
    """Whether one of the attacks that ``+`` joins goes in steps whose length it does not name."""
    if text.strip().lower() == SAMPLES:
        return False
    each = [read_attack(part, text) for part in text.split("+")]
    return any(
        issubclass(KINDS[kind].cls, IterativeAttack) and {"step", "step_ratio"}.isdisjoint(own) for kind, _, own in each
    )


_NAMES: dict[type, str] = {CMAES: "CMA-ES", SigmaZero: "σ-zero", CarliniWagner: "C&W"}


def named_after(attacks: Sequence[Attack | LevelAttack], norm: TrialNorm, label: str | None = None) -> str:
    """What tables call several attacks that are one worst case: their names, or a label instead."""
    return (label or "+".join(map(_words, attacks))) + (" l2" if norm == "l2" else "")


def _words(part: Attack | LevelAttack) -> str:
    """What tables call an attack."""
    if isinstance(part, LevelAttack):
        return f"{_NAMES.get(type(part), type(part).__name__)} {'L0' if part.norm == 'l0' else 'L∞'}"
    if isinstance(part, CarliniWagner):
        return _NAMES[CarliniWagner]
    if isinstance(part, PGD) and part.loss == "margin":
        return f"C&W-{part.steps}"
    return "MIM-" + part.words.rpartition("-")[2] if isinstance(part, MIFGSM) else part.words

"""One attack as users type it, such as ``pgd-20:step=2/255:eps=.03:.1``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import chz

from evo_robust.attacks.auto import APGD
from evo_robust.attacks.base import Attack
from evo_robust.attacks.curve import check_strengths
from evo_robust.attacks.gradient import GradientAttack, IterativeAttack
from evo_robust.attacks.level.base import LevelAttack
from evo_robust.attacks.losses import NEEDED_CLASSES
from evo_robust.judging.named import KINDS, LEVELS, SAMPLES, SETS, TrialNorm
from evo_robust.parts.base import Fraction, UserError, nearest
from evo_robust.parts.making import make

Given = dict[str, list[str]]
"""Settings behind a name, each with its values."""


def read_attack(part: str, text: str) -> tuple[str, int | None, Given]:
    """Kind, number and settings of a part of a text such as ``pgd-20:step=2/255:eps=.03:.1``.

    Raises:
        UserError: no attack has this name, or takes such a number, or a setting has no value.

    Example:
        >>> read_attack("pgd-20:eps=.03:.1", "pgd-20:eps=.03:.1")
        ('pgd', 20, {'eps': ['.03', '.1']})
    """
    name, *rest = part.strip().split(":")
    found = re.fullmatch(r"(.+?)(?:-(\d+))?", name.strip().lower())
    kind, number = (found[1], found[2]) if found else (name, None)
    if kind not in KINDS and f"{kind}-{number}" in KINDS:  # a name that ends in a number
        kind, number = f"{kind}-{number}", None
    if kind not in KINDS:
        raise UserError(f"attacks={text}: {_unknown(name.strip().lower(), kind)}")
    if number is not None and KINDS[kind].steps is None:
        raise UserError(f"attacks={text}: expected {kind} without a number, since its steps are fixed")
    given: Given = {}
    for setting in rest:
        key, equals, value = setting.partition("=")
        if equals:
            given[key.strip()] = [value]
        elif given:
            given[list(given)[-1]].append(setting)
        else:
            raise UserError(f"attacks={text}: expected {kind}:KEY=VALUE, such as {kind}:eps=8/255, got {setting!r}")
    return kind, int(number) if number is not None else None, given


def _unknown(name: str, kind: str) -> str:
    """What is wrong with a name that no attack has."""
    if name == SAMPLES:
        return f"{SAMPLES} has images of its own: expected it without settings and without +"
    if not name:
        return "expected a name on each side of +"
    if re.fullmatch(r"[\d./]+", name):
        return f"unknown attack {name!r}: expected strengths behind colons, such as fgsm:eps=.1:.2"
    return f"unknown attack {kind!r}: {nearest(kind, [*KINDS, *SETS, SAMPLES])}"


def attack_of(
    text: str, kind: str, number: int | None, given: Given, step: str | None, n_classes: int
) -> Attack | LevelAttack:
    """The attack of a kind with these settings.

    Args:
        text: what was typed, for messages.
        kind: its name in :data:`KINDS`.
        number: of steps; None where none stands behind the name.
        given: its settings, without ``eps``, ``norm`` and ``mean``.
        step: step length where the settings have none, such as ``2/255`` or ``eps/10``.
        n_classes: number of classes of the images.

    Raises:
        UserError: there is no such setting, its value is wrong, or there are too few classes.
    """
    known = KINDS[kind]
    if n_classes < known.classes:
        raise UserError(f"attacks={kind}: expected {known.classes} classes or more, got {n_classes}; try compact")
    base = dict(known.usual)
    if n_classes < NEEDED_CLASSES.get(str(base.get("loss")), 0):
        base["loss"] = "margin"
    fields = {key: ",".join(values) for key, values in given.items()}
    if number is not None and known.steps is not None:
        fields.setdefault(known.steps, str(number))
    if odd := [key for key in fields if key not in chz.chz_fields(known.cls)]:
        own = ["eps", "norm", "mean", *chz.chz_fields(known.cls)]
        raise UserError(f"attacks={text}: {kind} has no setting {odd[0]!r}: {nearest(odd[0], own)}")
    iterative = issubclass(known.cls, IterativeAttack)
    if "step" not in fields and "step_ratio" not in fields and step is not None and iterative:
        fields["step"] = step
    if iterative and (relative := _relative(fields.get("step", ""))) is not None:
        del fields["step"]
        base["step_ratio"] = relative
    cls: type[Any] = known.cls
    try:
        made: Attack | LevelAttack = make(cls, fields, base, f"attacks={kind}")
    except UserError as error:
        more = ", or a multiple such as eps/10" if str(error).startswith("step=") else ""
        raise UserError(f"attacks={text}: {error}{more}") from None
    if isinstance(made, GradientAttack) and n_classes < (least := NEEDED_CLASSES.get(made.loss, 0)):
        raise UserError(
            f"attacks={text}: expected {least} classes or more for loss={made.loss}, got {n_classes}; "
            "loss=margin serves any number"
        )
    if isinstance(made, APGD) and "restarts" in known.usual:  # one start for each class aimed at
        made = chz.replace(made, restarts=min(made.restarts, n_classes - 1))
    return made


def says_yes(text: str, words: Sequence[str]) -> bool:
    """Whether ``mean=`` asks for the mean over strengths.

    Raises:
        UserError: it says neither yes nor no.
    """
    if words not in (["yes"], ["no"]):
        raise UserError(f"attacks={text}: expected mean=yes or mean=no, got mean={':'.join(words)}")
    return words == ["yes"]


def norm_of(kind: str, text: str) -> TrialNorm:
    """The norm of that name.

    Raises:
        UserError: the kind of attack does not know it.
    """
    known: tuple[TrialNorm, ...] = ("linf", "l2")
    if (only := KINDS[kind].norm) is not None:
        known = (only,)
    for norm in known:
        if norm == text:
            return norm
    raise UserError(f"attacks={kind}:norm={text}: expected {' or '.join(known)}")


def _relative(step: str) -> float | None:
    """The multiple of ε in a text such as ``eps/10`` or ``2.5*eps/20``; None where it names no ε."""
    found = re.fullmatch(r"\s*(?:([\d.]+)\s*\*\s*)?eps\s*(?:/\s*([\d.]+))?\s*", step)
    if found is None:
        return None
    try:
        return float(found[1] or 1) / float(found[2] or 1)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"step={step}: expected a number such as 2/255, or a multiple such as eps/10") from None


def strengths_of(
    text: str,
    own: Sequence[str] | None,
    eps: Sequence[float],
    parts: Sequence[Attack | LevelAttack],
    norm: str,
) -> tuple[float, ...]:
    """The strengths of a trial: its own, else those of all; levels where its attacks have levels.

    Raises:
        UserError: they are out of range or do not ascend, or attacks at levels meet attacks in balls.
    """
    levels = [isinstance(part, LevelAttack) for part in parts]
    if any(levels) and not all(levels):
        raise UserError(f"attacks={text}: attacks at levels do not join with attacks in balls")
    try:
        values = [float(Fraction.read(value)) for value in own] if own is not None else None
        if not any(levels):
            return check_strengths(eps if values is None else values, "l2" if norm == "l2" else "linf")
        found = LEVELS if values is None else tuple(sorted(values))
        if any(not value.is_integer() or value < 1 for value in found):
            raise ValueError(f"expected eps as whole numbers of pixels or grey steps, got {found}")
        if len({*found}) < len(found):
            raise ValueError(f"expected distinct eps, got one twice in {found}")
        return tuple(found)
    except ValueError as error:
        raise UserError(f"attacks={text}: {error}") from None

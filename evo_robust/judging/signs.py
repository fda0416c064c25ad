"""Signs that a network's gradients mislead attacks, as sentences (Athalye et al., 2018; Carlini et al., 2019).

Athalye, Carlini & Wagner, Obfuscated Gradients Give a False Sense of Security; Carlini et al., On Evaluating
Adversarial Robustness. A network with such a sign may be easier to fool than its figures say.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence

import chz
import torch
from scipy.special import bdtrc, ndtr
from torch import Tensor

from evo_robust.attacks.auto import APGD
from evo_robust.attacks.gradient import FGSM, GradientAttack, IterativeAttack
from evo_robust.judging.intervals import wilson
from evo_robust.judging.judgement import WORST, Figure, Verdict
from evo_robust.judging.levels import Judged, needs_gradient
from evo_robust.judging.probes import TINY, Ball, Probes, probe
from evo_robust.judging.transfer import TRANSFER
from evo_robust.judging.trials import Trial, shown
from evo_robust.progress import Say, duration, silent

CHANCE = 0.001
"""How likely chance alone may make one of two equal attacks look stronger; about ten pairs are compared."""

FEW = 0.01
"""Share of images that may behave oddly in a sound network; a sign is surely more than that."""

Found = Sequence[tuple[Trial, Tensor]]
"""Trials, and the level of each of the first m test images under them, int64 ``(m,)``."""


def signs_of(judged: Judged, found: Found, *, gradient: bool, say: Say = silent) -> tuple[str, ...]:
    """Signs of masked gradients in a network, a sentence or two each; none where it shows no sign.

    Args:
        judged: the network and the images that judge it.
        found: the levels of all of them under the trials that were made.
        gradient: whether the network has a gradient with respect to its images.
        say: called with a line of progress text.
    """
    began = time.monotonic()
    seen = probe(judged, _ball(trial for trial, _ in found), gradient=gradient)
    signs = tuple(sentences(seen, found, gradient=gradient))
    took = duration(time.monotonic() - began)
    say(f"  signs of masked gradients on {len(seen.right)} images: {len(signs) or 'none'} ({took})")
    return signs


def _ball(trials: Iterable[Trial]) -> Ball:
    """The widest ball that the trials attack in; where they have none, the usual one."""
    balls = [(trial.norm, max(trial.eps)) for trial in trials if trial.attacks and not trial.levels]
    for norm in ("linf", "l2"):
        if radii := [radius for own, radius in balls if own == norm]:
            return Ball("l2" if norm == "l2" else "linf", max(radii))
    return Ball("linf", 8 / 255)


def sentences(seen: Probes, found: Found, *, gradient: bool) -> Iterator[str]:
    """The signs in what was seen on some images, and in the levels ``found`` of all images."""
    right = int(seen.right.sum())
    if right == 0:
        return
    if not gradient:
        yield (
            "No gradient flows from the logits back to the images: gradient attacks cannot be made, and the other "
            "figures may be far too high. Attack it with square or level attacks, or with images crafted on a network "
            "that is like it."
        )
    yield from _random(seen)
    yield from _flat(seen, right) if gradient else ()
    yield from _constant(seen, right)
    together = [*seen.found, *found]
    yield from _black_box(together)
    if gradient:
        yield from _unbounded(seen, right)
        yield from _more_steps(together)
        yield from _not_risen(seen, right)


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} images ({100 * part / whole:.0f} %)"


def _many(part: int, whole: int) -> bool:
    """Whether a part of the images is surely more than a few."""
    return wilson(part, whole)[0] > FEW


def _random(seen: Probes) -> Iterator[str]:
    differ, moved, n = int(seen.masks["random"].sum()), int(seen.masks["moved"].sum()), len(seen.right)
    if _many(differ, n):
        yield (
            f"Two passes over the same images give different logits at {_share(differ, n)}, and another class at "
            f"{moved}: the network draws random numbers. Attacks that trust one pass are too weak; average the "
            "gradient over several passes, or fix what is random."
        )


def _flat(seen: Probes, right: int) -> Iterator[str]:
    zero, flat, deep, odd = (int((seen.masks[name] & seen.right).sum()) for name in ("zero", "flat", "deep", "odd"))
    if _many(zero, right):
        if flat <= zero // 2:
            why = (
                f"With smaller logits it is zero at {flat}: the logits are so large that the loss saturates. Attack it "
                "with losses that the size of logits does not change (apgd-dlr, apgd-t), or with square"
            )
        elif deep <= zero // 2:
            why = (
                f"In float64 it is zero at {deep}: something inside the network, such as a sharp softmax, leaves less "
                "of it than float32 can hold. Judge the network without that part, or by square or level attacks"
            )
        else:
            why = (
                f"In float64 and with smaller logits it still is at {deep}: a step, a rounding or a sharp softmax "
                "inside the network is flat. Attack it with square or level attacks"
            )
        yield (
            f"The gradient of the cross-entropy is exactly zero at {_share(zero, right)} that are classified "
            f"correctly, so that gradient attacks stand still there. {why}."
        )
    if _many(odd, right):
        yield (
            f"The gradient is not finite at {_share(odd, right)} that are classified correctly: gradient attacks "
            "leave such pixels alone. Look for a division by zero or an overflow inside the network, and attack it "
            "with square or level attacks."
        )


def _constant(seen: Probes, right: int) -> Iterator[str]:
    same = int((seen.masks["constant"] & seen.right).sum())
    if _many(same, right):
        yield (
            f"All logits stay the same to the last bit at {_share(same, right)} when every pixel changes by about "
            f"{TINY:g}: images or logits are rounded inside the network. Gradients say little then; attack it with "
            "square or level attacks."
        )


def _unbounded(seen: Probes, right: int) -> Iterator[str]:
    assert seen.unbounded is not None  # there is a gradient
    left = int((seen.unbounded > 0).sum())
    # a network that gives all images one class may give it everywhere
    if seen.several and _many(left, right):
        where = "eps=1" if seen.ball.norm == "linf" else "the images' diagonal as eps"
        yield (
            f"With {where}, where every image may become any other, gradient attacks still fail at "
            f"{_share(left, right)}. Each of them must fall there, since the network knows other classes: gradients "
            "lead nowhere. Attack it with square or level attacks."
        )


def _not_risen(seen: Probes, right: int) -> Iterator[str]:
    stuck = int((seen.right & ~seen.masks["risen"]).sum())
    if wilson(stuck, right)[0] > 10 * FEW:
        yield (
            f"The loss under PGD-5 does not rise from eps={_radius(seen.ball, 4)} to eps={_radius(seen.ball)} at "
            f"{_share(stuck, right)}: gradients do not point to where the network errs. Attack it with square or "
            "level attacks."
        )


def _radius(ball: Ball, part: int = 1) -> str:
    return shown(ball.eps / part, ball.norm, levels=False)


def _black_box(found: Found) -> Iterator[str]:
    """Images that only a black-box attack breaks, against all gradient attacks in the same ball together."""
    best: list[tuple[int, str]] = []
    for ball, masks in _by_ball(found).items():
        whites = [(trial, broken) for trial, broken in masks if all(map(needs_gradient, trial.attacks))]
        for trial, broken in masks:
            # no gradient says which few pixels are best, so that in L0 a stronger black box is no sign
            if ball[0] == "l0" or not whites or any(map(needs_gradient, trial.attacks)):
                continue
            n = max(min(len(mask), len(broken)) for _, mask in whites)
            mine = broken[:n]
            theirs = torch.stack([mask[:n] for _, mask in whites if len(mask) >= n]).any(0)
            only, others = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
            if _stronger(only, others):
                names = ", ".join(dict.fromkeys(t.name for t, mask in whites if len(mask) >= n))
                best.append(
                    (
                        only - others,
                        f"Without any gradient, {trial.name} breaks {_share(only, n)} at {_named(ball)} that these "
                        f"leave ({names}), and leaves {others} that they break: the gradients mislead. Trust no "
                        "figure of a gradient attack; run square or level attacks for longer.",
                    )
                )
    yield from _first(best)


def _more_steps(found: Found) -> Iterator[str]:
    """Images that few steps break and many do not."""
    best: list[tuple[int, str]] = []
    for ball, masks in _by_ball(found).items():
        for (few, one), (many, other) in itertools.permutations(masks, 2):
            if len(one) != len(other) or not _same_but_steps(few, many, ball[1]):
                continue
            only, others = int((one & ~other).sum()), int((other & ~one).sum())
            if _stronger(only, others):
                single = isinstance(few.attacks[0], FGSM)
                what = "One step is stronger than many" if single else "Accuracy rises with the number of steps"
                best.append(
                    (
                        only - others,
                        f"{what}: {few.name} breaks {_share(only, len(one))} at {_named(ball)} that {many.name} "
                        f"leaves, and leaves {others} that {many.name} breaks. Following the gradient leads astray; "
                        "attack it with more random starts, and with square or level attacks.",
                    )
                )
    yield from _first(best)


def with_transferred(verdict: Verdict, trials: Sequence[Trial]) -> Verdict:
    """The verdict, with a sign where images of other networks break more than all its gradient attacks together.

    Transfers count all images, and are known as figures alone; so two shares are compared, not pairs of images. Black
    boxes say nothing of gradients: they count only where they are joined to a gradient attack in one trial.

    Args:
        verdict: a network's figures, those on images of other networks among them.
        trials: what was done to it.
    """
    found = []
    for figure in verdict.figures:
        if not figure.trial.startswith(f"{TRANSFER} "):
            continue
        same = [f for f in verdict.figures if (f.norm, f.eps) == (figure.norm, figure.eps)]
        whites, whose = _by_gradients(same, trials)
        white = min(whites, key=lambda f: f.right, default=None)
        if white is not None and _lower(figure, white):
            found.append(
                (
                    white.right - figure.right,
                    f"Images made on another network ({figure.column.removeprefix(f'{TRANSFER} ')}) leave "
                    f"{100 * figure.accuracy:.1f} % right, fewer than {whose} ({white.column}: "
                    f"{100 * white.accuracy:.1f} %): the gradients mislead. Trust no figure of a gradient attack; run "
                    "square or level attacks.",
                )
            )
    return dataclasses.replace(verdict, signs=(*(verdict.signs or ()), *_first(found)))


def _by_gradients(same: Sequence[Figure], trials: Sequence[Trial]) -> tuple[list[Figure], str]:
    """Figures of one ball that gradients on the network itself have made, and in words whose they are.

    Where every gradient attack is joined to a black box, the figures are those of both.
    """
    needs = {trial.name: [needs_gradient(attack) for attack in trial.attacks] for trial in trials if trial.attacks}
    here = [f for f in same if f.trial in needs]
    pure = [f for f in here if all(needs[f.trial])]
    if pure and len(pure) == len(here):  # then their pointwise worst case is of gradients alone
        pure += [f for f in same if f.trial == WORST]
    if pure:
        return pure, "its own gradients do"
    return [f for f in here if any(needs[f.trial])], "its own gradients and black-box attacks on it together do"


def _lower(one: Figure, other: Figure) -> bool:
    """Whether an accuracy surely is below another one on as many images (two shares, one-sided)."""
    pooled = (one.right + other.right) / (one.n + other.n)
    spread = (pooled * (1 - pooled) * (1 / one.n + 1 / other.n)) ** 0.5
    return spread > 0 and float(ndtr((one.accuracy - other.accuracy) / spread)) < CHANCE


def _first(best: Sequence[tuple[int, str]]) -> Iterator[str]:
    """The clearest case of one kind, which is enough."""
    if best:
        yield max(best)[1]


def _stronger(only: int, others: int) -> bool:
    """Whether one attack surely is stronger, where each alone breaks that many images (McNemar's exact test)."""
    return only > others and float(bdtrc(only - 1, only + others, 0.5)) < CHANCE


def _by_ball(found: Found) -> dict[tuple[str, float], list[tuple[Trial, Tensor]]]:
    """Trials with the images that they break, bool ``(m,)``, by :meth:`Trial.ball`."""
    balls: dict[tuple[str, float], list[tuple[Trial, Tensor]]] = {}
    for trial, level in found:
        for k, eps in enumerate(trial.eps):
            # without attack they are misclassified in every ball
            balls.setdefault(trial.ball(eps), []).append((trial, level <= k))
    return balls


def _named(ball: tuple[str, float]) -> str:
    norm, radius = ball
    return f"{shown(radius, norm, levels=norm == 'l0')}{' l2' if norm == 'l2' else ''}"


def _same_but_steps(few: Trial, many: Trial, eps: float) -> bool:
    """Whether two trials differ in their number of steps alone, and the longer one can cross the ball."""
    if len(few.attacks) != 1 or len(many.attacks) != 1:
        return False
    one, other = few.attacks[0], many.attacks[0]
    if not isinstance(other, (IterativeAttack, APGD)) or not _crosses(other, eps):
        return False
    if isinstance(one, FGSM):
        return one.loss == other.loss and other.steps > 4
    return type(one) is type(other) and one.steps < other.steps and chz.replace(one, steps=other.steps) == other


def _crosses(attack: GradientAttack, eps: float) -> bool:
    """Whether an attack's steps together are as long as the ball is wide, so that no step is missing for success."""
    budget = attack.budget(eps)
    return budget.steps * budget.step >= 2 * eps

"""One network under one trial: the smallest strength that breaks each image."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from evo_robust.attacks.base import Attack, Norm
from evo_robust.attacks.curve import robust_curve
from evo_robust.attacks.fast import Precision
from evo_robust.attacks.gradient import GradientAttack
from evo_robust.attacks.level.base import LevelAttack
from evo_robust.data.images import Images
from evo_robust.inference.checks import slope
from evo_robust.inference.predictions import correct_mask, eval_mode, undisturbed
from evo_robust.judging.store import Kept, Store
from evo_robust.judging.trials import Trial, named_after
from evo_robust.parts.base import digest, dotted, seed_from

GRADIENT_CHUNK = 512
"""Images that a gradient attack gets between two writes."""

QUERY_CHUNK = 128
"""The same of other attacks, which are slower. Both decide random numbers, so they never change."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """A network, the images that judge it, and where its judgements are kept.

    Attributes:
        model: the network in eval mode, on the images' device.
        network: digest of its layers and weights.
        images: test images on that device.
        content: their digest.
        seed: of all random numbers.
        precision: in which gradient attacks search.
        store: where judgements are kept.
        told: what each file says of its network and images, JSON values by name.
    """

    model: nn.Module
    network: str
    images: Images
    content: str
    seed: int
    precision: Precision
    store: Store
    told: dict[str, Any]

    def key(self, attacks: tuple[Attack | LevelAttack, ...], trial: Trial) -> str:
        """The name under which a judgement is kept: all that decides its figures, and nothing else."""
        parts = [[type(attack).__name__, dotted(attack, identity=True)] for attack in attacks]
        # where a clean image is right does not depend on seed, norm or precision
        rest = [trial.norm, list(trial.eps), self.seed, self.precision] if attacks else []
        return digest([self.network, self.content, parts, *rest], length=20)


@contextlib.contextmanager
def repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, a network that draws random numbers of torch draws the same ones each time; outside, nothing changes."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield


def clean(judged: Judged) -> Kept:
    """Which images the network misclassifies without attack: -1, else 0."""
    key = judged.key((), _NOTHING)
    kept = judged.store.get(key)
    if len(kept.level) == len(judged.images):
        return kept
    began = time.perf_counter()
    with repeatable(0, judged.images.x.device):
        right = correct_mask(judged.model, judged.images)
    kept = Kept(right.long().cpu() - 1, time.perf_counter() - began)
    judged.store.put(key, kept, {**judged.told, "attacks": []})
    return kept


_NOTHING = Trial("clean", (), "linf", ())


def needs_gradient(attack: Attack | LevelAttack) -> bool:
    """Whether an attack can do nothing with a network that has no gradient."""
    return attack.access == "white-box"


def has_gradient(model: nn.Module, images: Images) -> bool:
    """Whether a gradient flows from a network's logits back to its images, be it zero."""
    with eval_mode(model), undisturbed(model), torch.enable_grad():
        x = images.floats(slice(2)).requires_grad_()
        total = model(x).sum()
        try:
            slope(total, x)
        except (ValueError, RuntimeError):  # cut off; or an operation inside that has no derivative
            return False
    return True


def possible(trial: Trial, *, gradient: bool) -> Trial:
    """The trial with those of its attacks that can be made on a network with or without a gradient; maybe none.

    Where only some can be made, it is called after these: they are not the worst case that its name promises.
    """
    left = tuple(a for a in trial.attacks if gradient or not needs_gradient(a))
    if left in ((), trial.attacks):
        return dataclasses.replace(trial, attacks=left)
    return dataclasses.replace(trial, attacks=left, name=named_after(left, trial.norm))


def levels(judged: Judged, trial: Trial, progress: Callable[[int, Kept], None]) -> Kept:
    """The level of every image under all attacks of a trial, each on what the ones before have left unbroken.

    It goes on from what is kept, and ends with the same levels as if it had never been interrupted. What the first
    attacks of a trial have found is kept on its own, and serves every trial that begins with them.

    Args:
        judged: the network and its images.
        trial: what is done to them.
        progress: called with the number of images done and what is known of them.
    """
    known = clean(judged)
    level = torch.where(known.level < 0, -1, len(trial.eps))
    seconds = 0.0
    for place in range(len(trial.attacks)):
        found = _after(judged, trial, place, level, progress)
        level, seconds = found.level, seconds + found.seconds
    return Kept(level, seconds)


def _after(judged: Judged, trial: Trial, place: int, before: Tensor, progress: Callable[[int, Kept], None]) -> Kept:
    """The levels after the attack at ``place``, from those before it."""
    attack = trial.attacks[place]
    key = judged.key(trial.attacks[: place + 1], trial)
    chunk = GRADIENT_CHUNK if isinstance(attack, GradientAttack) else QUERY_CHUNK
    kept = judged.store.get(key)
    told = {
        **judged.told,
        "attacks": [type(a).__name__ for a in trial.attacks[: place + 1]],
        "norm": trial.norm,
        "eps": list(trial.eps),
        "images": len(judged.images),
    }
    while (done := len(kept.level)) < len(judged.images):
        began = time.perf_counter()
        part = slice(done, done + chunk)
        seed = seed_from(judged.seed, [type(attack).__name__, dotted(attack, identity=True), done])
        with repeatable(seed, judged.images.x.device):
            found = _under(judged, attack, trial, judged.images.take(part), before[part], seed).cpu()
        kept = Kept(torch.cat((kept.level, found)), kept.seconds + time.perf_counter() - began)
        judged.store.put(key, kept, told)
        progress(len(kept.level), kept)
    return kept


def _under(
    judged: Judged, attack: Attack | LevelAttack, trial: Trial, images: Images, before: Tensor, seed: int
) -> Tensor:
    """The levels of some images under one attack, where ``before`` ``(n,)`` are those that are known."""
    before = before.to(images.y.device)
    generator = torch.Generator(images.x.device).manual_seed(seed)
    if isinstance(attack, LevelAttack):
        return _at_levels(judged.model, attack, trial, images, before, generator)
    norm: Norm = "l2" if trial.norm == "l2" else "linf"
    return robust_curve(
        *(judged.model, images, attack, trial.eps, norm),
        generator=generator,
        precision=judged.precision,
        known=before,
    ).level


def _at_levels(
    model: nn.Module, attack: LevelAttack, trial: Trial, images: Images, before: Tensor, generator: torch.Generator
) -> Tensor:
    """The same for an attack at levels of pixels or grey steps, smallest first, on survivors only."""
    levels = [int(strength) for strength in trial.eps]
    return attack.ladder(model, images.floats(), images.y, levels, generator, known=before).reached

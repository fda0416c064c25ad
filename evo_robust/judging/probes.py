"""Short looks at a network's gradients and outputs: what signs of masked gradients are told from."""

from __future__ import annotations

import copy
import dataclasses
import math

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from evo_robust.attacks.base import Norm, widest
from evo_robust.attacks.curve import robust_curve
from evo_robust.attacks.gradient import FGSM, PGD
from evo_robust.attacks.square import Square
from evo_robust.data.images import Images
from evo_robust.inference.checks import slope
from evo_robust.inference.predictions import classes, eval_mode, undisturbed
from evo_robust.judging.levels import Judged, clean, levels, repeatable
from evo_robust.judging.trials import Trial
from evo_robust.parts.base import digest, seed_from

SAMPLE = 200
"""Most images that are looked at: the first ones, whose class proportions are those of all."""

TINY = 1e-4
"""A change of pixels that every network with smooth outputs notices, a fortieth of a grey step."""

NOISE = 1e-4
"""Differences of two passes below this share of the largest logit are rounding on some devices."""

_PART = 50
"""Images in one pass; a graph of large networks must fit into memory."""


@dataclasses.dataclass(frozen=True)
class Ball:
    """A norm and a radius in units of the pixel range 0..1."""

    norm: Norm
    eps: float


@dataclasses.dataclass(frozen=True)
class Probes:
    """What was seen on the first m test images.

    Attributes:
        ball: in which the short attacks were made.
        right: images that the network classifies correctly, bool ``(m,)``.
        masks: what else is true of each image, bool ``(m,)`` by name: ``random``: two passes give different logits;
            ``moved``: two passes give different classes; ``constant``: tiny changes of pixels leave all logits as they
            are. With a gradient also ``zero``: that of the cross-entropy is zero everywhere; ``flat``: it still is
            with small logits; ``deep``: it still is in float64; ``odd``: it is not finite; ``risen``: PGD's loss in
            the ball is higher than in one of a quarter of its radius.
        several: whether the network gives the images more than one class.
        found: levels of short attacks.
        unbounded: levels of gradient attacks that may reach every image of the pixel range; None without gradient.
    """

    ball: Ball
    right: Tensor
    masks: dict[str, Tensor]
    several: bool
    found: tuple[tuple[Trial, Tensor], ...]
    unbounded: Tensor | None


def probe(judged: Judged, ball: Ball, *, gradient: bool) -> Probes:
    """Look at a network on the first test images; what was looked at before is not looked at again.

    Args:
        judged: the network, and all images that judge it.
        ball: in which short attacks are made, about as long as PGD with 100 steps together.
        gradient: whether the network has a gradient with respect to its images.
    """
    images = judged.images.take(slice(SAMPLE))
    sample = dataclasses.replace(judged, images=images, content=images.content())
    right = clean(sample).level == 0
    masks = _masks(sample, ball, right, gradient)
    found = []
    for trial in _attacks(ball, images, gradient):
        level = levels(sample, trial, lambda done, kept: None).level
        # squares in the cube inside an L2 ball are an attack in that ball
        found.append((dataclasses.replace(trial, norm=ball.norm, eps=(ball.eps,)), level))
    unbounded = found.pop()[1] if gradient else None
    several = bool(masks.pop("several").any())
    return Probes(ball, right, masks, several, tuple(found), unbounded)


def _attacks(ball: Ball, images: Images, gradient: bool) -> list[Trial]:
    """A black-box attack; with a gradient one step, 5 and 20 steps too, and an unbounded attack as the last one."""
    # in L2 the squares stay in the cube inside the ball
    side = ball.eps if ball.norm == "linf" else ball.eps / math.sqrt(math.prod(images.x.shape[1:]))
    found = [Trial("Square-100", (Square(queries=100),), "linf", (min(side, 1.0),))]
    if not gradient:
        return found
    for attack in (FGSM(), PGD(steps=5), PGD(steps=20)):
        found.append(Trial(attack.words, (attack,), ball.norm, (ball.eps,)))
    far = widest(ball.norm, images.x.shape[1:])
    return [*found, Trial("unbounded", (PGD(steps=20), PGD(steps=20, loss="margin")), ball.norm, (far,))]


def _masks(judged: Judged, ball: Ball, right: Tensor, gradient: bool) -> dict[str, Tensor]:
    """The masks of :class:`Probes`, and ``several`` among them; gradients are taken where the network is ``right``."""
    key = digest(["probe", judged.network, judged.content, judged.seed, ball.norm, ball.eps], length=20)
    kept = judged.store.masks(key)
    if kept is not None:
        return kept
    device, seed = judged.images.x.device, seed_from(judged.seed, ["probe"])
    generator = torch.Generator(device).manual_seed(seed)
    with eval_mode(judged.model), undisturbed(judged.model), repeatable(seed, device):
        masks = _outputs(judged.model, judged.images, generator)
        chosen = right.nonzero().squeeze(1).to(judged.images.y.device)
        if gradient and len(chosen):
            images = judged.images.take(chosen)
            seen = _gradients(judged.model, images) | {"risen": _risen(judged.model, images, ball, generator)}
            masks |= {name: _spread(mask, chosen, len(right)) for name, mask in seen.items()}
    judged.store.put_masks(key, masks, {**judged.told, "probe": list(masks), "images": len(judged.images)})
    return {name: mask.cpu() for name, mask in masks.items()}


@torch.no_grad()
def _outputs(model: nn.Module, images: Images, generator: torch.Generator) -> dict[str, Tensor]:
    """What two passes, and one over images that are changed by next to nothing, say of the outputs."""
    once, again, near = [], [], []
    for part in _parts(images):
        x = part.floats()
        once.append(model(x).float())
        again.append(model(x).float())
        # towards grey, so that no pixel is held at the end of its range
        size = TINY * (1 + torch.rand(x.shape, generator=generator, device=generator.device).to(x)) / 2
        near.append(model(torch.where(x > 0.5, x - size, x + size)).float())
    one, two, three = torch.cat(once), torch.cat(again), torch.cat(near)
    apart = (one - two).abs().amax(1)
    first = classes(one)
    return {
        "random": ~(apart <= NOISE * one.abs().amax()),
        "moved": first != classes(two),
        "constant": (one == three).all(1),
        "several": first != first[0],
    }


def _spread(mask: Tensor, chosen: Tensor, n: int) -> Tensor:
    """A mask of the chosen images as one of all n images, False elsewhere."""
    return torch.zeros(n, dtype=torch.bool, device=mask.device).index_put_((chosen,), mask)


def _gradients(model: nn.Module, images: Images) -> dict[str, Tensor]:
    """Where the gradient of the cross-entropy is zero or not finite; and where it is zero, what else was tried."""
    gradients = torch.cat([_gradient(model, part.floats(), part.y) for part in _parts(images)]).flatten(1)
    zero = (gradients == 0).all(1)
    found = {"zero": zero, "odd": ~gradients.isfinite().all(1), "flat": zero.clone(), "deep": zero.clone()}
    if zero.any():
        stuck = images.take(zero)
        wide = _in_float64(model, images)
        flat = [_gradient(model, part.floats(), part.y, small=True) for part in _parts(stuck)]
        deep = [_gradient(wide, part.floats().double(), part.y, small=True) for part in _parts(stuck)] if wide else flat
        for name, still in (("flat", flat), ("deep", deep)):
            found[name][zero] = (torch.cat(still) == 0).flatten(1).all(1)
    return found


def _parts(images: Images) -> list[Images]:
    return [images.take(slice(begin, begin + _PART)) for begin in range(0, len(images), _PART)]


def _gradient(model: nn.Module, x: Tensor, y: Tensor, *, small: bool = False) -> Tensor:
    """The cross-entropy's gradient at images; ``small`` divides the logits of each image by the largest of them."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        if small:
            logits = logits / logits.detach().abs().amax(1, keepdim=True).clamp_min(1e-30)
        return slope(F.cross_entropy(logits, y, reduction="sum"), x)


def _in_float64(model: nn.Module, images: Images) -> nn.Module | None:
    """A copy that computes in float64; None where the network's own code does not allow it."""
    try:
        wide = copy.deepcopy(model).double()
        with torch.no_grad():
            logits = wide(images.floats(slice(1)).double())
    except (RuntimeError, TypeError, ValueError):
        return None
    return wide if logits.dtype == torch.float64 else None


def _risen(model: nn.Module, images: Images, ball: Ball, generator: torch.Generator) -> Tensor:
    """Where PGD ends with a higher loss in the ball than in one of a quarter of its radius.

    The loss is the logarithm of how likely all wrong classes are over the true one. It rises with the cross-entropy,
    but does not saturate.
    """
    strengths = (ball.eps / 4, ball.eps)
    curve = robust_curve(
        *(model, images, PGD(steps=5), strengths, ball.norm), generator=generator, keep_going=True, keep_images=True
    )
    assert curve.images is not None  # asked for
    near, far = (_odds(model, curve.images[k], images.y) for k in (0, -1))
    return far > near


@torch.no_grad()
def _odds(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    logits = torch.cat([model(part) for part in x.split(_PART)]).double()
    true = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], -torch.inf).logsumexp(1) - true

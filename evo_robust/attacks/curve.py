"""Robustness at many strengths in one pass: clean images first, then ascending strengths on survivors only."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from evo_robust.attacks.ball import project
from evo_robust.attacks.base import Attack, Norm, Threat, check_eps, widest
from evo_robust.attacks.calls import check_inside
from evo_robust.attacks.cascade import Cascade, CascadeResult
from evo_robust.attacks.fast import Precision, for_attack
from evo_robust.attacks.gradient import GradientAttack
from evo_robust.attacks.minimum.base import MinimumNormAttack
from evo_robust.data.images import Images
from evo_robust.inference.checks import check_generator, checked_images, known_good
from evo_robust.inference.predictions import classes, correct_mask, eval_mode, undisturbed
from evo_robust.parts.base import Fraction


@dataclasses.dataclass(frozen=True)
class RobustCurve:
    """A network's errors at ascending strengths.

    Attributes:
        eps: the strengths, in units of the pixel range 0..1.
        error: fraction of all images that are misclassified at each strength, with or without attack.
        clean_error: fraction misclassified without attack.
        n: number of images.
        seconds: wall-clock time.
        level: index of the smallest strength that breaks each image, ``(n,)``: -1 where it is misclassified without
            attack, k = len(eps) where no strength breaks it.
        losses: cross-entropy at the last iterate of every strength, ``(k, n)`` in nats; None without ``keep_going``.
        images: adversarial images in [0,1], if asked for: ``(n, c, h, w)``. For each image, this is what broke it at
            the smallest strength; the last iterate of an unbroken image; or the image itself, if misclassified without
            attack. With ``keep_going``, the last iterates of every strength, ``(k, n, c, h, w)``.
    """

    eps: tuple[float, ...]
    error: tuple[float, ...]
    clean_error: float
    n: int
    seconds: float
    level: Tensor
    losses: Tensor | None = None
    images: Tensor | None = None


def check_strengths(
    eps: Iterable[float], norm: Norm = "linf", shape: Sequence[int] | None = None, *, name: str = "eps"
) -> tuple[float, ...]:
    """The strengths as floats, each checked by :func:`check_eps`.

    Raises:
        ValueError: there are none, one is refused, two are equal, or they do not ascend; the message names them.
    """
    if isinstance(eps, str) or not isinstance(eps, Iterable):
        raise ValueError(f"expected {name} to be a sequence of numbers such as (8/255, 0.1), got {eps!r}")
    values = tuple(check_eps(e, norm, shape, name=name) for e in eps)
    if not values:
        raise ValueError(f"expected at least one {name}, such as 8/255, got none")
    for before, after in itertools.pairwise(values):
        if math.isclose(before, after, rel_tol=1e-6):  # float32 can hardly tell them apart
            raise ValueError(f"expected distinct {name} in ascending order, got {before:g} twice in {values}")
        if before > after:
            raise ValueError(f"expected distinct {name} in ascending order, got {after:g} after {before:g} in {values}")
    return values


def attacked_together(images: Images) -> int:
    """Batch size of an attack. On a CPU, few large images fit into the caches, while small ones need large batches."""
    if images.x.device.type != "cpu":
        return 1024
    height, width = images.x.shape[-2:]
    return max(128, min(1024, 128 * 1024 // (height * width)))


def _checked(correct: Tensor, images: Images) -> Tensor:
    """``correct``, checked to be a mask of these images."""
    if correct.shape != images.y.shape or correct.dtype != torch.bool:
        raise ValueError(f"expected bool correct ({len(images)},), got {correct.dtype} {tuple(correct.shape)}")
    return correct


def robust_curve(
    model: nn.Module,
    images: Images,
    attack: Attack,
    eps: Sequence[float],
    norm: Norm = "linf",
    *,
    generator: torch.Generator,
    batch_size: int | None = None,
    precision: Precision = "float32",
    keep_going: bool = False,
    keep_images: bool = False,
    correct: Tensor | None = None,
    known: Tensor | None = None,
) -> RobustCurve:
    """Error of ``model`` in eval mode under one attack at many strengths.

    An image broken at a strength counts as broken at every larger one, since the larger ball contains its adversarial
    image too. The errors are therefore at least as large as those of a separate attack per strength. Attacks use a fast
    copy of the model; then the model itself classifies every image. Model, mode, statistics and gradients do not
    change.

    Args:
        model: network from images in [0,1] to logits, on the images' device.
        images: images to attack.
        attack: a gradient attack handles many images at many strengths together; a minimum-norm attack runs once for
            all strengths; any other runs strength by strength.
        eps: strengths, ascending, in units of the pixel range 0..1.
        norm: norm of the ball.
        generator: source of the random starts; an image's start does not depend on the batch size.
        batch_size: images per batch. By default 1024; on a CPU, as many as have the pixels of 128 images of 32×32, but
            at least 128 and at most 1024.
        precision: precision of the fast copy, see :func:`evo_robust.attacks.fast.for_attack`. float32 is reproducible;
            ``auto`` measures, and may choose differently next time.
        keep_going: attack every image, even if misclassified before, to the last step of every strength, for its loss.
        keep_images: return the adversarial images.
        correct: which images the model classifies correctly, bool ``(n,)``, if known; this saves a pass.
        known: the ``level`` of an earlier attack at the same strengths. Each image is attacked only below the strength
            that broke it; the result is the worst case of both. Not with ``keep_going``, ``keep_images`` or
            ``correct``.

    Raises:
        ValueError: strengths are not positive, distinct and ascending; there are no images; the batch size is below 1;
            ``keep_going`` is set for an attack without gradients; ``correct`` or ``known`` has another length or
            type, or does not go with the other arguments; the network gives no logits ``(n, classes)``, has fewer
            classes than the images, or has no gradient where the attack needs one (use a level attack, CMAES or DE);
            or a user's own attack leaves the ball or [0,1].

    Example:
        >>> curve = robust_curve(model, images, PGD(), (4 / 255, 8 / 255), generator=torch.Generator().manual_seed(0))
        >>> curve.error[0] <= curve.error[1]
        True
    """
    if not isinstance(attack, Attack):
        raise ValueError(f"expected an attack, such as PGD(), got {attack!r}")
    if keep_going and not isinstance(attack, GradientAttack):
        raise ValueError(f"expected a gradient attack for keep_going=True, got {type(attack).__name__}")
    check_generator(generator)
    with checked_images(model, images, gradient=isinstance(attack, GradientAttack)) as images:
        values = check_strengths(eps, norm, images.x.shape[1:])
        size = attacked_together(images) if batch_size is None else batch_size
        if known is not None:
            if keep_going or keep_images or correct is not None:
                raise ValueError("expected known without keep_going, keep_images and correct")
            correct = _checked_level(known, images, len(values)) >= 0
        return _curve(
            *(model, images, attack, values, norm, generator, size, precision, keep_going, keep_images, correct, known)
        )


def _checked_level(known: Tensor, images: Images, k: int) -> Tensor:
    """``known``, checked to be the levels of these images at k strengths."""
    if known.shape != images.y.shape or known.dtype != torch.int64:
        raise ValueError(f"expected int64 known ({len(images)},), got {known.dtype} {tuple(known.shape)}")
    if not bool(((known >= -1) & (known <= k)).all()):
        raise ValueError(f"expected known from -1 to {k}, the number of strengths, got others")
    return known


def _curve(
    model: nn.Module,
    images: Images,
    attack: Attack,
    values: tuple[float, ...],
    norm: Norm,
    generator: torch.Generator,
    batch_size: int,
    precision: Precision,
    keep_going: bool,
    keep_images: bool,
    correct: Tensor | None,
    known: Tensor | None,
) -> RobustCurve:
    """See :func:`robust_curve`, whose arguments have been checked."""
    began = time.perf_counter()
    if correct is not None and isinstance(attack, GradientAttack):
        with torch.no_grad(), eval_mode(model):
            model(images.floats(slice(2)))  # checks the network before it is copied
    correct = _checked(correct, images) if correct is not None else correct_mask(model, images, batch_size)
    indices = torch.arange(len(images), device=images.y.device)
    level = torch.full_like(images.y, len(values)) if known is None else known.to(images.y.device)
    indices = indices if keep_going else indices[correct & (level > 0)]
    with torch.no_grad(), eval_mode(model), undisturbed(model):
        if isinstance(attack, GradientAttack):
            found = _together(
                *(model, images, attack, values, norm, generator, indices, level, batch_size),
                *(precision, keep_going, keep_images),
            )
        elif isinstance(attack, MinimumNormAttack):
            found = _by_distance(model, images, attack, values, norm, generator, indices, level, batch_size)
        else:
            found = _strength_by_strength(*(model, images, attack, values, norm, generator, indices, level, batch_size))
    level = torch.where(correct, found.level, -1)
    errors = [(level < k).double().mean().item() for k in range(len(values) + 1)]
    adversarial = found.images
    if keep_images and not keep_going:
        adversarial = _with_unattacked(images, found.images, correct)
    return RobustCurve(
        eps=values,
        error=tuple(errors[1:]),
        clean_error=errors[0],
        n=len(images),
        seconds=time.perf_counter() - began,
        level=level,
        losses=found.losses,
        images=adversarial if keep_images else None,
    )


def _with_unattacked(images: Images, found: Tensor | None, correct: Tensor) -> Tensor:
    """Adversarial images for all images; an image misclassified without attack stands for itself."""
    result = images.floats()
    if found is not None:
        result[correct] = found[correct]
    return result


def _begun(images: Images, indices: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Levels ``(n,)``, 0 where an image is not attacked; and the images themselves, to be replaced."""
    kept = torch.zeros_like(level)
    kept[indices] = level[indices]
    return kept, images.floats()


def _on_copies(find: Callable[..., Tensor], model: nn.Module, x: Tensor, y: Tensor, *others: object) -> Tensor:
    """What an attack finds; copies, so that one that changes its arguments does not move the ball or the classes.

    All arguments go by position: an attack of one's own may name them otherwise.
    """
    given = x.clone(), y.clone()
    with known_good(*given):
        return find(model, *given, *others)


def _together(
    model: nn.Module,
    images: Images,
    attack: GradientAttack,
    eps: tuple[float, ...],
    norm: Norm,
    generator: torch.Generator,
    indices: Tensor,
    level: Tensor,
    batch_size: int,
    precision: Precision,
    keep_going: bool,
    keep_images: bool,
) -> CascadeResult:
    """A gradient attack on many images at many strengths together."""
    cascade = Cascade(
        attack,
        for_attack(model, images.floats(slice(batch_size if precision == "auto" else 16)), precision),
        *(eps, norm, generator),
        batch_size=batch_size,
        confirm=model,
        keep_going=keep_going,
        images=keep_images,
    )
    return cascade.run_on(lambda part: (images.floats(part), images.y[part]), indices, level)


def _by_distance(
    model: nn.Module,
    images: Images,
    attack: MinimumNormAttack,
    eps: tuple[float, ...],
    norm: Norm,
    generator: torch.Generator,
    indices: Tensor,
    level: Tensor,
    batch_size: int,
) -> CascadeResult:
    """The closest adversarial images once, and at each strength what becomes of them inside the ball."""
    level, found = _begun(images, indices, level)
    for part in indices.split(batch_size):
        x, y = images.floats(part), images.y[part]
        closest = _on_copies(attack.closest, model, x, y, norm, generator)
        check_inside(closest, x, Threat(norm=norm, eps=Fraction(widest(norm, x.shape[1:]))), type(attack).__name__)
        for k, strength in enumerate(eps):
            left = (level[part] > k).nonzero().squeeze(1)
            radius = x.new_full((len(left),), strength)
            inside = x[left] + project(x[left], closest[left] - x[left], radius, norm)
            found[part[left]] = inside
            level[part[left[classes(model(inside)) != y[left]]]] = k
    return CascadeResult(level, images=found)


def _strength_by_strength(
    model: nn.Module,
    images: Images,
    attack: Attack,
    eps: tuple[float, ...],
    norm: Norm,
    generator: torch.Generator,
    indices: Tensor,
    level: Tensor,
    batch_size: int,
) -> CascadeResult:
    """Run any attack on the survivors of each strength, smallest first."""
    level, found = _begun(images, indices, level)
    for k, strength in enumerate(eps):
        indices = indices[level[indices] > k]
        threat = Threat(norm=norm, eps=Fraction(strength))
        for part in indices.split(batch_size):
            x, y = images.floats(part), images.y[part]
            adversarial = _on_copies(attack.perturb, model, x, y, threat, generator)
            check_inside(adversarial, x, threat, type(attack).__name__)
            if any(module.training for module in model.modules()):
                raise ValueError(
                    f"{type(attack).__name__} left the network in train mode: expected it to restore the mode"
                )
            found[part] = adversarial
            level[part[classes(model(adversarial)) != y]] = k
    return CascadeResult(level, images=found)

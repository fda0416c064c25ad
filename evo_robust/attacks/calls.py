"""Checks of an attack's call (network, images, labels, generator, ball) and of its result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from evo_robust.attacks.base import Threat, check_eps
from evo_robust.inference.checks import (
    SLACK,
    check_channels,
    check_generator,
    check_network,
    check_values,
    is_known,
    known_good,
    ordinary,
    ordinary_mode,
    watched,
)


@contextlib.contextmanager
def checked(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator | None,
    threat: Threat | None = None,
    gradient: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Check a call with a network, images and labels; returns images and labels that allow gradients.

    Args:
        model: network from images in [0,1] to logits ``(n, classes)``; its first output is checked.
        x: float images ``(n, c, h, w)`` in [0,1].
        y: int64 class indices ``(n,)``, below the number of classes.
        generator: source of random numbers; None where the call draws none.
        threat: ball around the images; None where there is none.
        gradient: whether gradients will be taken, which weights made in inference mode do not allow.

    Raises:
        ValueError: one of them is wrong; the message says what to do.
    """
    if is_known(x, y):
        yield x, y
        return
    check_network(model, gradient=gradient)
    check_generator(generator)
    highest = check_values(x, y)
    if threat is not None:
        check_threat(threat, x)
    check_channels(model, x.shape[1])
    with ordinary_mode(), watched(model, highest, x.dtype, x.device):
        x, y = ordinary(x), ordinary(y)
        with known_good(x, y):
            yield x, y


def check_threat(threat: object, x: Tensor) -> None:
    """Raise ``ValueError`` where ``threat`` is no :class:`Threat`, or its ball too wide for images ``(n, c, h, w)``."""
    if not isinstance(threat, Threat):
        raise ValueError(f"expected a Threat, such as Threat(norm='linf', eps=8/255), got {threat!r}")
    check_eps(threat.eps, threat.norm, x.shape[1:])


def check_inside(found: object, x: Tensor, threat: Threat, who: str) -> Tensor:
    """An attack's result for images ``x`` ``(n, c, h, w)``, checked to be in the ball around them and in [0,1].

    Raises:
        ValueError: it is not, so that its errors would belong to another threat.
    """
    if not isinstance(found, Tensor) or found.shape != x.shape or found.dtype != x.dtype:
        got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"expected {who} to give {x.dtype} images {tuple(x.shape)}, got {got}")
    if x.numel() == 0:
        return found
    away = (found - x).flatten(1).norm(p=torch.inf if threat.norm == "linf" else 2, dim=1).max()
    low, high, farthest = torch.stack((*found.aminmax(), away)).tolist()
    # written so that NaN is refused too
    if not (low >= -SLACK and high <= 1 + SLACK and farthest <= threat.eps * 1.001 + SLACK):
        raise ValueError(
            f"expected {who} to stay in [0,1] and within {threat.eps:g} ({threat.norm}) of the images, "
            f"got values from {low:g} to {high:g}, up to {farthest:g} away"
        )
    return found

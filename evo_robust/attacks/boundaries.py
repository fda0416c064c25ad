"""How far an image is from the boundaries between its class and others, of the network taken as linear."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from evo_robust.attacks.base import Norm
from evo_robust.inference.checks import slope


def rivals(logits: Tensor, y: Tensor, most: int) -> Tensor:
    """The likeliest wrong classes ``(n, k)``, likeliest first; k is ``most``, or fewer where there are fewer."""
    wrong = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    return wrong[:, : min(most, logits.shape[1] - 1)]


def linearised(
    model: nn.Module, images: Tensor, y: Tensor, others: Tensor, read: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """A network as a linear function, seen from each image. Costs a gradient for each of the k other classes.

    Args:
        model: network from images in [0,1] to logits.
        images: ``(n, c, h, w)`` in [0,1].
        y: true classes ``(n,)``.
        others: classes to look at ``(n, k)``.
        read: what to keep of a slope ``(n, c, h, w)``: the slope itself, or less, since k of them may be large.

    Returns:
        The logits ``(n, n_classes)``; how far each other class is ahead of the true one, ``(n, k)``; and what was read
        of the slope of that, ``(n, k, ...)``.

    Raises:
        ValueError: the network cuts the gradient off.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images)
        ahead = logits.gather(1, others) - logits.gather(1, y[:, None])
        columns = ahead.sum(0).unbind()
        found = [
            read(slope(column, images, retain=k + 1 < len(columns)).nan_to_num(0.0, 0.0, 0.0))
            for k, column in enumerate(columns)
        ]
    return logits.detach(), ahead.detach(), torch.stack(found, 1)


def steepness(slopes: Tensor, norm: Norm) -> Tensor:
    """By how much a step of length 1 raises functions with the slopes ``(..., c, h, w)``: ``(...)``."""
    return torch.linalg.vector_norm(slopes.flatten(-3), ord=1 if norm == "linf" else 2, dim=-1)


def nearest_first(model: nn.Module, x: Tensor, y: Tensor, norm: Norm, most: int) -> Tensor:
    """The likeliest wrong classes ``(n, k)``, those with the nearest boundary first; k is at most ``most``.

    Of an image that only some classes can reach, these are found earlier in this order than by their logits: a class
    whose logit is far behind may still rise fast. Classes whose distance is not finite come last.
    """
    with torch.no_grad():
        others = rivals(model(x), y, most)
    _, ahead, steep = linearised(model, x, y, others, lambda slopes: steepness(slopes, norm))
    distance = (-ahead / steep).nan_to_num(torch.inf, torch.inf)
    return others.gather(1, distance.argsort(dim=1, stable=True))

"""How far an image is from the boundaries between its class and others, of the network taken as linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evo_robust.attacks.base import Norm
from evo_robust.inference.checks import slope


def rivals(logits: Tensor, y: Tensor, most: int) -> Tensor:
    """The likeliest wrong classes ``(n, k)``, likeliest first; k is ``most``, or fewer where there are fewer."""
    wrong = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    return wrong[:, : min(most, logits.shape[1] - 1)]


def linearised(model: nn.Module, images: Tensor, y: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A network as a linear function, seen from each image. Costs a gradient for each of the k other classes.

    Args:
        model: network from images in [0,1] to logits.
        images: ``(n, c, h, w)`` in [0,1].
        y: true classes ``(n,)``.
        others: classes to look at ``(n, k)``.

    Returns:
        The logits ``(n, n_classes)``; how far each other class is ahead of the true one, ``(n, k)``; and the slope of
        that, ``(n, k, c, h, w)``.

    Raises:
        ValueError: the network cuts the gradient off.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images)
        ahead = logits.gather(1, others) - logits.gather(1, y[:, None])
        columns = ahead.sum(0).unbind()
        slopes = [slope(column, images, retain=k + 1 < len(columns)) for k, column in enumerate(columns)]
    return logits.detach(), ahead.detach(), torch.stack(slopes, 1).nan_to_num(0.0, 0.0, 0.0)


def steepness(slopes: Tensor, norm: Norm) -> Tensor:
    """By how much a step of length 1 raises each of the functions with ``slopes`` ``(n, k, c, h, w)``: ``(n, k)``."""
    return torch.linalg.vector_norm(slopes.flatten(2), ord=1 if norm == "linf" else 2, dim=2)


def nearest_first(model: nn.Module, x: Tensor, y: Tensor, norm: Norm, most: int) -> Tensor:
    """The likeliest wrong classes ``(n, k)``, those with the nearest boundary first; k is at most ``most``.

    Of an image that only some classes can reach, these are found earlier in this order than by their logits: a class
    whose logit is far behind may still rise fast. Classes whose distance is not finite come last.
    """
    found = []
    for images, true in zip(x.split(_TOGETHER), y.split(_TOGETHER), strict=True):
        with torch.no_grad():
            others = rivals(model(images), true, most)
        _, ahead, slopes = linearised(model, images, true, others)
        distance = (-ahead / steepness(slopes, norm)).nan_to_num(torch.inf, torch.inf)
        found.append(others.gather(1, distance.argsort(dim=1, stable=True)))
    return torch.cat(found)


_TOGETHER = 128
"""Images whose slopes are held at once: nine classes of 128 CIFAR-10 images take 14 MB."""

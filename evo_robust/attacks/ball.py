"""Geometry of the L∞ and L2 ball inside the pixel range [0,1]: random points, steepest directions, projection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evo_robust.attacks.base import Norm, check_norm


def length(v: Tensor) -> Tensor:
    """Euclidean length of each image-sized row, ``(n, 1, 1, 1)``."""
    return torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True)


def per_image(values: Tensor) -> Tensor:
    """One value per image, ``(n,)``, in a form that multiplies images: ``(n, 1, 1, 1)``."""
    return values.view(-1, 1, 1, 1)


def unit_noise(shape: Sequence[int], norm: Norm, generator: torch.Generator) -> Tensor:
    """Uniform random points ``(n, c, h, w)`` in the unit ball, on the generator's device."""
    if norm == "linf":
        return torch.rand(shape, generator=generator, device=generator.device) * 2 - 1
    check_norm(norm)
    way = torch.randn(shape, generator=generator, device=generator.device)
    radius = torch.rand((shape[0], 1, 1, 1), generator=generator, device=generator.device)
    # the volume of a ball in d dimensions grows with radius^d
    return steepest(way, norm) * radius ** (1 / way[0].numel())


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Point of the unit ball that goes farthest along ``gradient`` ``(n, c, h, w)``; zero where that is zero."""
    if norm == "linf":
        return gradient.sign()
    check_norm(norm)
    # divide by the largest entry first, so that squares of tiny gradients do not become zero
    tiny = torch.finfo(gradient.dtype).tiny
    scaled = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(tiny)
    return scaled / length(scaled).clamp_min(tiny)


def project(x: Tensor, delta: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    """The perturbation ``(n, c, h, w)``, moved into the ball of radius ``eps`` ``(n,)``, with ``x + delta`` in [0,1].

    The pixel range is a box around ``x``. Clipping to it only shortens the perturbation, which stays in the ball.
    """
    radius = per_image(eps)
    if norm == "linf":
        delta = torch.maximum(torch.minimum(delta, radius), -radius)
    else:
        check_norm(norm)
        delta = delta * (radius / length(delta).clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1.0)
    return (x + delta).clamp(0.0, 1.0) - x

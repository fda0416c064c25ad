"""Building blocks shared by the networks of all spaces."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Channel-wise (x − mean)/std inside the network, so that attacks work on images in [0,1].

    Mean and std are buffers, not parameters; ``fit_normalization`` sets them from the training images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, channels, 1, 1), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images, of the same shape as ``x``."""
        return (x - self.mean) / self.std


def fit_normalization(model: nn.Module, images: Tensor) -> None:
    """Set every ``Normalize`` of ``model`` to the channel statistics of uint8 ``images`` ``(n, c, h, w)``."""
    if images.dtype != torch.uint8:
        raise ValueError(f"expected uint8 images (n, c, h, w), got {images.dtype}")
    # a sample suffices: the statistics of 10,000 images are close to those of all
    sample = images[:10_000].to(torch.float32).div(255)
    mean = sample.mean((0, 2, 3), keepdim=True)
    std = sample.std((0, 2, 3), keepdim=True).clamp_min(1e-3)
    for module in model.modules():
        if isinstance(module, Normalize):
            module.mean.copy_(mean)
            module.std.copy_(std)

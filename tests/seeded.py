"""Modules whose weights and statistics are random, and always the same."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from evo_robust.spaces.ops import Normalize


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module in eval mode, with statistics and affine parameters as training may leave them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make().eval()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.05, 2)
                if part.affine:
                    nn.init.normal_(part.weight)  # negative ones too
            if isinstance(part, Normalize):
                part.std.fill_(0.3)
    return module

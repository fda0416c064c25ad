"""Networks to attack: one whose nearest adversarial image is known, and a small convolutional one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evo_robust.data.images import Images
from evo_robust.spaces.ops import Normalize


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """Two classes, logits (0, w·x + b)."""

    def __init__(self, shape: tuple[int, int, int], bias: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape, generator=seeded(1)))
        self.bias = bias

    def score(self, x: Tensor) -> Tensor:
        return (x * self.w).sum((1, 2, 3)) + self.bias

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)
        return torch.stack((torch.zeros_like(score), score), 1)


def linear_problem(low: int = 80, high: int = 176, n: int = 200) -> tuple[Linear, Images]:
    """A linear model and images it classifies correctly, grey enough for the ball not to leave [0,1]."""
    x = torch.randint(low, high, (n, 2, 4, 4), generator=seeded(2), dtype=torch.uint8)
    model = Linear((2, 4, 4))
    model.bias = -model.score(x.float() / 255).median().item()
    y = (model.score(x.float() / 255) > 0).long()
    return model, Images(x, y)


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        Normalize(1),
        nn.Conv2d(1, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 16, 10),
    )

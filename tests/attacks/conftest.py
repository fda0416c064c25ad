"""Digits, and a network trained on attacked ones."""

from __future__ import annotations

import pytest
import torch
from attackable import seeded, small_cnn
from sklearn.datasets import load_digits
from torch import nn

from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import PGD
from evo_robust.data.images import Images
from evo_robust.parts.base import Fraction


@pytest.fixture(scope="session")
def digits() -> Images:
    data = load_digits()
    x = torch.from_numpy(data.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    return Images(x, torch.from_numpy(data.target).long())


@pytest.fixture(scope="session")
def trained(digits: Images) -> nn.Module:
    """A network trained for a few epochs on attacked digits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = small_cnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    generator, attack, threat = seeded(), PGD(steps=2), Threat(eps=Fraction(0.1))
    for _ in range(4):
        for part in torch.randperm(1200, generator=generator).split(60):
            x, y = digits.floats(part), digits.y[part]
            loss = nn.functional.cross_entropy(model(attack.perturb(model, x, y, threat, generator)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@pytest.fixture
def held_out(digits: Images) -> Images:
    return digits.take(slice(1200, 1500))

"""Layers that the learned noise estimators share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PLACES = 3
"""Rows and columns that maps are pooled to where vectors are made of them."""


class RecurrentCell(nn.Module):
    """A plain recurrent cell: what a body makes of an input and the hidden state, joined along their channels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, given: Tensor, hidden: Tensor) -> Tensor:
        """Next hidden state ``(n, d, …)`` after an input ``(n, e, …)``."""
        after: Tensor = self.body(torch.cat((given, hidden), 1))
        return after

    def run(self, inputs: Tensor, start: Tensor, *, backwards: bool = False) -> Tensor:
        """Hidden states ``(k, n, d, …)`` after each of ``inputs`` ``(k, n, e, …)``, in the order of the inputs."""
        states, hidden = [], start
        for given in reversed(inputs.unbind()) if backwards else inputs.unbind():
            hidden = self(given, hidden)
            states.append(hidden)
        return torch.stack(states[::-1] if backwards else states)


class PooledVector(nn.Sequential):
    """Image ``(n, c, h, w)`` of any size → vector ``(n, 9 · channels)``: CPR, conv 5×5 stride 4, pool, ReLU.

    The paper's pool of 2 leaves 3×3 places only for 32×32 pixels. Here each place is the largest value in its field.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        # padding, so that images of fewer than 5 pixels work too
        super().__init__(nn.Conv2d(in_channels, channels, 5, stride=4, padding=2), nn.ReLU(), _Fields())


class _Fields(nn.Module):
    """Largest value in each of 3×3 fields, flat; torch's own adaptive pool does not repeat to the bit on CUDA."""

    def forward(self, maps: Tensor) -> Tensor:
        rows, columns = (_fields(size) for size in maps.shape[-2:])
        return torch.stack([maps[..., r, c].amax((-2, -1)) for r in rows for c in columns], -1).flatten(1)


def _fields(size: int) -> list[slice]:
    return [slice(i * size // PLACES, -(-(i + 1) * size // PLACES)) for i in range(PLACES)]


def convolutions(
    in_channels: int, width: int, out_channels: int, *, depthwise: bool = False, start_at_zero: bool = False
) -> nn.Sequential:
    """Conv 3×3 to ``width`` channels, ReLU, conv 3×3 to ``out_channels``.

    Args:
        in_channels: channels that come in.
        width: channels between the two.
        out_channels: channels that go out.
        depthwise: split the second convolution as Plus's estimator does: 1×1, depthwise 3×3, 1×1. The code's batch
            normalisation is left out, so an estimate does not depend on other images in the batch.
        start_at_zero: the last layer's weights and biases are zero, so that at first it adds nothing.
    """
    layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()]
    if depthwise:
        layers += [
            nn.Conv2d(width, out_channels, 1),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, groups=out_channels),
            nn.Conv2d(out_channels, out_channels, 1),
        ]
    else:
        layers.append(nn.Conv2d(width, out_channels, 3, padding=1))
    last = layers[-1]
    if start_at_zero and isinstance(last, nn.Conv2d) and last.bias is not None:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers)


def dense(given: int, out: int) -> nn.Sequential:
    """Linear layer and ReLU."""
    return nn.Sequential(nn.Linear(given, out), nn.ReLU())


def through(module: nn.Module, values: Tensor) -> Tensor:
    """What a module makes of every ``(d, …)`` in ``(k, n, d, …)``, in one call."""
    out: Tensor = module(values.flatten(0, 1))
    return out.view(*values.shape[:2], *out.shape[1:])


def lengths(sizes: Tensor, noises: Tensor) -> Tensor:
    """Euclidean lengths ``(k, n, 1)`` of noises whose root mean squares ``(k, n)`` are: what strength codes are of."""
    return sizes.unsqueeze(-1) * noises[0, 0].numel() ** 0.5

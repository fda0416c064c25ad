"""How a vector of integers becomes an image within a level: pixels replaced (L0) or values shifted (L∞)."""

from __future__ import annotations

import abc
import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Where the search of ``n`` images starts and how far it may go, all float ``(n, d)``.

    Attributes:
        lower: smallest allowed integer of each variable.
        upper: largest allowed integer of each variable.
        start: the integer that a search begins at.
    """

    lower: Tensor
    upper: Tensor
    start: Tensor


class Encoding(abc.ABC):
    """Variables of a level attack on images ``(c, h, w)``."""

    def __init__(self, level: int, shape: tuple[int, int, int]) -> None:
        self.level = level
        self.shape = shape

    @property
    @abc.abstractmethod
    def n_variables(self) -> int:
        """Number of variables ``d`` of one image."""

    @abc.abstractmethod
    def boxes(self, images: Tensor) -> Boxes:
        """Bounds and start for uint8 images ``(n, c, h, w)``."""

    @abc.abstractmethod
    def render(self, values: Tensor, images: Tensor) -> Tensor:
        """Pixel values 0..255, float ``(n, k, c, h, w)``, of k candidates each: values ``(n, k, d)``, images uint8."""


class Pixels(Encoding):
    """L0: ``level`` pixels, each (row, column, channels…); a pixel named twice keeps its last colour."""

    @property
    def n_variables(self) -> int:
        """(2 + c) per pixel."""
        return self.level * (2 + self.shape[0])

    def boxes(self, images: Tensor) -> Boxes:
        """The whole image; the start is its first pixels in raster order (Kotyan & Vargas)."""
        channels, rows, columns = self.shape
        n, device = len(images), images.device
        top = torch.tensor([rows - 1.0, columns - 1.0] + [255.0] * channels, device=device).repeat(self.level)
        place = torch.arange(self.level, device=device)
        row, column = place // columns, place % columns
        colour = images[:, :, row, column].transpose(1, 2).float()
        where = torch.stack([row, column], 1).float().expand(n, -1, -1)
        start = torch.cat([where, colour], 2).flatten(1)
        upper = top.expand(n, -1)
        return Boxes(lower=torch.zeros_like(upper), upper=upper, start=start)

    def render(self, values: Tensor, images: Tensor) -> Tensor:
        """The images with ``level`` pixels replaced."""
        n, k, _ = values.shape
        canvas = images.float().repeat_interleave(k, dim=0)
        every = torch.arange(n * k, device=values.device)
        for pixel in values.reshape(n * k, self.level, -1).unbind(1):
            row, column = pixel[:, 0].long(), pixel[:, 1].long()
            canvas[every, :, row, column] = pixel[:, 2:]
        return canvas.view(n, k, *self.shape)


class Values(Encoding):
    """L∞: every value of the image, within ± ``level`` of the original and within 0..255."""

    @property
    def n_variables(self) -> int:
        """One per value of the image: c · h · w."""
        channels, rows, columns = self.shape
        return channels * rows * columns

    def boxes(self, images: Tensor) -> Boxes:
        """± level around the image, where the search starts."""
        start = images.flatten(1).float()
        return Boxes(lower=(start - self.level).clamp_min(0), upper=(start + self.level).clamp_max(255), start=start)

    def render(self, values: Tensor, images: Tensor) -> Tensor:
        """The values are the image."""
        return values.view(*values.shape[:2], *self.shape)

"""Turns a vector of integers into an image within a level: pixels replaced (L0) or values shifted (L∞)."""

from __future__ import annotations

import abc
import dataclasses

import torch
from torch import Tensor


def reflect_(u: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Reflect ``u`` at the bounds into [lower, upper], in place; distances are preserved. All shapes broadcast."""
    width = upper - lower
    u.sub_(lower).abs_().remainder_(2 * width)
    return u.sub_(width).abs_().neg_().add_(upper)


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Bounds and starting points of the search for ``n`` images, all float ``(n, d)``.

    Attributes:
        lower: smallest allowed integer of each variable.
        upper: largest allowed integer of each variable.
        start: the integer at which the search begins.
    """

    lower: Tensor
    upper: Tensor
    start: Tensor


class Tone:
    """Maps grey values 0..255 to a network's input: value · scale + shift, with one of each per channel ``(c,)``."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        self.scale, self.shift = scale, shift

    def __call__(self, grey: Tensor) -> Tensor:
        """Input values ``(…, c)``, float, for grey values ``(…, c)``."""
        return torch.addcmul(self.shift, grey.float(), self.scale)


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
    def steps(self, boxes: Boxes) -> Tensor:
        """Default initial standard deviation of each variable, float ``(n, d)``."""

    @abc.abstractmethod
    def inside(self, points: Tensor, boxes: Boxes) -> Tensor:
        """Move points ``(n, k, d)`` beyond the bounds back into them, in place."""

    @abc.abstractmethod
    def render(self, values: Tensor, images: Tensor, tone: Tone) -> Tensor:
        """Images ``(n · k, c, h, w)``, channels-last, of k candidates ``(n, k, d)`` per image, mapped by ``tone``."""


class Pixels(Encoding):
    """L0: ``level`` pixels, each (row, column, channels…); a pixel that is listed twice gets its last colour.

    Args:
        level: number of pixels.
        shape: (c, h, w).
        raster: start at the first pixels in raster order, as Kotyan & Vargas do, instead of in the middle.
    """

    def __init__(self, level: int, shape: tuple[int, int, int], raster: bool = False) -> None:
        super().__init__(level, shape)
        self.raster = raster

    @property
    def n_variables(self) -> int:
        """2 + c variables per pixel."""
        return self.level * (2 + self.shape[0])

    def boxes(self, images: Tensor) -> Boxes:
        """Bounds of the whole image and all colours; the starting point leaves the image unchanged."""
        channels, rows, columns = self.shape
        n, device = len(images), images.device
        top = torch.tensor([rows - 1.0, columns - 1.0] + [255.0] * channels, device=device).repeat(self.level)
        middle = torch.full((self.level,), rows // 2 * columns + columns // 2, device=device)
        place = torch.arange(self.level, device=device) if self.raster else middle
        row, column = place // columns, place % columns
        colour = images[:, :, row, column].transpose(1, 2).float()
        where = torch.stack([row, column], 1).float().expand(n, -1, -1)
        start = torch.cat([where, colour], 2).flatten(1)
        upper = top.expand(n, -1)
        return Boxes(lower=torch.zeros_like(upper), upper=upper, start=start)

    def steps(self, boxes: Boxes) -> Tensor:
        """An eighth of the image's side for positions, a quarter of the range for colours."""
        parts = torch.full((self.level, 2 + self.shape[0]), 1 / 4, device=boxes.start.device)
        parts[:, :2] = 1 / 8
        return (boxes.upper - boxes.lower) * parts.flatten()

    def inside(self, points: Tensor, boxes: Boxes) -> Tensor:
        """Clip colours, since the strongest are at the bounds; reflect positions, or they would crowd the border."""
        parts, lower, upper = (
            t.unflatten(-1, (self.level, -1)) for t in (points, boxes.lower.unsqueeze(1), boxes.upper.unsqueeze(1))
        )
        reflect_(parts[..., :2], lower[..., :2], upper[..., :2])
        torch.clamp(parts[..., 2:], lower[..., 2:], upper[..., 2:], out=parts[..., 2:])
        return points

    def render(self, values: Tensor, images: Tensor, tone: Tone) -> Tensor:
        """The images with ``level`` pixels replaced."""
        # map colours first (a few pixels per candidate, and each image once), then repeat the images
        canvas = tone(images.permute(0, 2, 3, 1)).repeat_interleave(values.shape[1], dim=0)
        every = torch.arange(len(canvas), device=values.device)
        for pixel in values.reshape(len(canvas), self.level, -1).unbind(1):
            row, column = pixel[:, :2].long().unbind(1)
            canvas[every, row, column] = tone(pixel[:, 2:])
        return canvas.permute(0, 3, 1, 2)


class Values(Encoding):
    """L∞: every value of the image, within ± ``level`` of the original and within 0..255."""

    @property
    def n_variables(self) -> int:
        """One variable per value of the image: c · h · w."""
        channels, rows, columns = self.shape
        return channels * rows * columns

    def boxes(self, images: Tensor) -> Boxes:
        """± ``level`` around the image, where the search starts; values are in the order row, column, channel."""
        start = images.permute(0, 2, 3, 1).flatten(1).float()
        return Boxes(lower=(start - self.level).clamp_min(0), upper=(start + self.level).clamp_max(255), start=start)

    def steps(self, boxes: Boxes) -> Tensor:
        """A quarter of the level (Kotyan & Vargas)."""
        return torch.full_like(boxes.start, self.level / 4)

    def inside(self, points: Tensor, boxes: Boxes) -> Tensor:
        """Clip values, since adversarial images lie in the corners."""
        return torch.clamp(points, boxes.lower.unsqueeze(1), boxes.upper.unsqueeze(1), out=points)

    def render(self, values: Tensor, images: Tensor, tone: Tone) -> Tensor:
        """The images made of these values."""
        channels, rows, columns = self.shape
        return tone(values.view(-1, rows, columns, channels)).permute(0, 3, 1, 2)

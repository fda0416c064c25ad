"""Images as uint8 on a device, and batches of them, which are shuffled, augmented and scaled on that device."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

import chz
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evo_robust.parts.base import Part

# Number of values that one pass of augmentation handles; with fewer, calls would take longer than the work itself.
_CHUNK_VALUES = 6_000_000
# Bytes of images hashed at a time, since images in a mapped file need not fit into memory.
_HASHED_AT_ONCE = 1 << 24


@dataclasses.dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        x: uint8 ``(n, c, h, w)``.
        y: int64 ``(n,)``, class indices from 0.
        digest: their digest, where it has been computed already; see ``content``.
    """

    x: Tensor
    y: Tensor
    digest: str | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.x, Tensor) or not isinstance(self.y, Tensor):
            raise ValueError(f"expected two tensors, got {type(self.x).__name__} and {type(self.y).__name__}")
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise ValueError(f"expected uint8 images (n, c, h, w), got {self.x.dtype} {tuple(self.x.shape)}")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise ValueError(f"expected int64 labels ({len(self.x)},), got {self.y.dtype} {tuple(self.y.shape)}")

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: str | torch.device) -> Images:
        """The same images on a device; this object itself where they are on it already."""
        return Images(self.x.to(device), self.y.to(device))

    def content(self) -> str:
        """Digest of pixels and labels in their order, whatever device they are on."""
        if self.digest is not None:
            return self.digest
        total = hashlib.sha256(f"{tuple(self.x.shape)};".encode())
        total.update(self.y.cpu().contiguous().numpy().tobytes())
        step = max(1, _HASHED_AT_ONCE // max(1, self.x[:1].numel()))
        for start in range(0, len(self), step):
            total.update(self.x[start : start + step].cpu().contiguous().numpy().tobytes())
        return total.hexdigest()

    def take(self, indices: Tensor | slice) -> Images:
        """The images at ``indices`` (int64 positions, a boolean mask or a slice), in that order."""
        return Images(self.x[indices], self.y[indices])

    def floats(self, indices: Tensor | slice | None = None) -> Tensor:
        """Float32 images ``(n, c, h, w)`` in [0,1], in channels-last memory; without ``indices``, all images."""
        return _floats(self.x if indices is None else self.x[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Training and validation images for the search, and test images only for the final evaluation.

    The first k images of a split have the class proportions of the whole, so ``val.take(slice(100))`` is a fair sample.
    """

    train: Images
    val: Images
    test: Images

    def to(self, device: str | torch.device) -> Splits:
        """The same splits on a device."""
        return Splits(self.train.to(device), self.val.to(device), self.test.to(device))


@chz.chz
class Augment(Part):
    """Random changes of training images: shifted crop, then mirror image, then cutout (DeVries & Taylor 2017)."""

    crop_padding: int = chz.field(default=4, doc="largest shift in pixels, in each direction; new pixels are black")
    flip: bool = chz.field(default=True, doc="mirror left and right with probability 1/2")
    cutout: int = chz.field(default=0, doc="side of a black square at a random place (cut at the border); 0 for none")

    @chz.validate
    def _not_negative(self) -> None:
        if self.crop_padding < 0 or self.cutout < 0:
            raise ValueError(f"expected crop_padding and cutout >= 0, got {self.crop_padding} and {self.cutout}")

    def apply(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented copies of uint8 images ``(n, c, h, w)``, each with its own random changes; channels-last memory."""
        n, _, h, w = x.shape
        if self.crop_padding or self.flip:
            x = self._shift_and_mirror(x, generator)
        if self.cutout:
            # the centre is anywhere in the image, so squares at the border are smaller
            top = torch.randint(h, (n, 1), generator=generator, device=x.device) - self.cutout // 2
            left = torch.randint(w, (n, 1), generator=generator, device=x.device) - self.cutout // 2
            hole = _within(top, self.cutout, h)[:, :, None] & _within(left, self.cutout, w)[:, None, :]
            x = x.masked_fill(hole[:, None], 0)
        return x

    def _shift_and_mirror(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, c, h, w = x.shape
        pad, device = self.crop_padding, x.device
        padded = F.pad(x, (pad,) * 4).permute(0, 2, 3, 1).reshape(-1, c)
        top, left = torch.randint(2 * pad + 1, (2, n, 1), generator=generator, device=device)
        rows = top + torch.arange(h, device=device)
        columns = torch.arange(w, device=device).expand(n, w)
        if self.flip:
            mirrored = torch.rand((n, 1), generator=generator, device=device) < 0.5
            columns = torch.where(mirrored, w - 1 - columns, columns)
        # gathers whole pixels by their position in the padded stack, in one pass for all images
        image = torch.arange(n, device=device)[:, None] * (h + 2 * pad)
        pixels = (image + rows)[:, :, None] * (w + 2 * pad) + (left + columns)[:, None, :]
        return padded.index_select(0, pixels.reshape(-1)).view(n, h, w, c).permute(0, 3, 1, 2)


def stratified_order(y: np.ndarray, seed: int) -> np.ndarray:
    """A random order of positions in which the first k labels, for any k, have the class proportions of the whole.

    Args:
        y: labels ``(n,)``.
        seed: seed of the order within and between classes.

    Returns:
        int64 ``(n,)``, a permutation.

    Example:
        >>> y = np.array([0, 0, 0, 0, 1, 1])
        >>> np.bincount(y[stratified_order(y, seed=0)[:3]]).tolist()
        [2, 1]
    """
    rng = np.random.default_rng(seed)
    place = np.empty(len(y))
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        # member k of a class is placed at the fraction (k + u)/n, so all classes advance at the same rate
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


def _within(start: Tensor, length: int, size: int) -> Tensor:
    position = torch.arange(size, device=start.device)
    return (position >= start) & (position < start + length)


def _floats(x: Tensor) -> Tensor:
    return x.to(torch.float32, memory_format=torch.channels_last).div_(255)


def batches(
    images: Images,
    batch_size: int,
    generator: torch.Generator | None = None,
    augment: Augment | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over ``images``: float32 ``(b, c, h, w)`` in [0,1], channels-last, and labels ``(b,)``.

    With a generator, images are shuffled; without one, they keep their order. The last batch may be smaller. Batches
    are on the generator's device (copied there where images are elsewhere), and augmented there with that generator.

    Raises:
        ValueError: a batch size below 1, or augmentation without a generator.
    """
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, got {batch_size}")
    if augment is not None and generator is None:
        raise ValueError("expected a generator for random augmentation, got None")
    device = images.x.device if generator is None else generator.device
    order = None
    if generator is not None:
        order = torch.randperm(len(images), generator=generator, device=device).to(images.x.device)
    values = max(1, images.x[:1].numel())
    chunk = batch_size * max(1, _CHUNK_VALUES // (values * batch_size))
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        some = images.take(part if order is None else order[part]).to(device)
        x = some.x if augment is None or generator is None else augment.apply(some.x, generator)
        x = _floats(x)
        yield from zip(x.split(batch_size), some.y.split(batch_size), strict=True)

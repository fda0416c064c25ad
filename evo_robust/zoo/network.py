"""One network of the zoo, described: its name, and what is chosen beside it."""

from __future__ import annotations

import math
import numbers
from typing import Literal

import chz
import torch
from torch import nn

from evo_robust.parts.base import Part, Shape, nearest
from evo_robust.parts.chz_inside import is_default
from evo_robust.parts.plain import read
from evo_robust.spaces.base import LARGEST, SearchSpace
from evo_robust.zoo.denoising import EVERY, put_blocks
from evo_robust.zoo.plan import SMALL_SIDE, Entry, Plan
from evo_robust.zoo.published import GENOTYPES, cell_names, stages_of_space
from evo_robust.zoo.reference import REFERENCES

MIN_SIDE = 8
"""Smallest image side, in pixels."""

MIN_LARGE_SIDE = 32
"""Smallest image side, in pixels, for the stem for large images: it leaves an eighth of the side or less."""

LARGEST_NETWORK = 1_000_000_000
"""Largest number of parameters of a network whose size was chosen: thirty times the papers' largest."""

Stem = Literal["auto", "cifar", "imagenet"]
Denoise = Literal["none", "dot-product", "gaussian", "mean", "median"]

DENOISE_DOC = "filter of the blocks that denoise features: dot-product, gaussian, mean or median; none has no blocks"
AFTER_DOC = "where they are: stages, cells, or several such as stage-1,stage-2 or cell-6,cell-13"

_ENTRIES: dict[str, Entry] = REFERENCES | GENOTYPES


def names() -> tuple[str, ...]:
    """Names that ``build`` knows, sorted."""
    return tuple(sorted(_ENTRIES))


def told(name: str) -> str:
    """What a network of the zoo is, and what can be chosen beside its name, in one line."""
    entry = _ENTRIES[name]
    return f"{entry.words}; {entry.choices()}" if entry.choices() else entry.words


def check_name(name: str) -> None:
    """Raise ``ValueError`` with the nearest name where the zoo has no network ``name``."""
    if name not in _ENTRIES:
        raise ValueError(f"expected the name of a network in the zoo, got {name!r}: {nearest(name, _ENTRIES)}")


@chz.chz
class Network(Part):
    """A network of the zoo, apart from images and weights. ``dotted`` makes JSON values of it.

    Example:
        >>> Network(name="wsr-basic", channels=74, stem="imagenet").text
        'wsr-basic channels=74 stem=imagenet'
    """

    name: str = chz.field(doc="name of a network in the zoo")
    channels: int | None = chz.field(
        default=None,
        doc="channels of its first stage: C of cells, the first phase, growth of DenseNet; those of its name when not "
        "given",
    )
    layers: int | None = chz.field(
        default=None,
        doc="cells of a published network, or depth: 6n+2 of resnet, 6n+4 of densenet and wrn; as named when not given",
    )
    stem: Stem = chz.field(
        default="auto",
        doc="first layers: cifar (one convolution of stride 1), imagenet (7x7 of stride 2 and a pool, or three "
        "convolutions of stride 2), auto (imagenet above 64 pixels)",
    )
    denoise: Denoise = chz.field(default="none", doc=DENOISE_DOC)
    denoise_after: tuple[str, ...] = chz.field(default=EVERY[:1], doc=AFTER_DOC)
    width: float = chz.field(default=1.0, doc="multiplies the number of channels, > 0")

    @chz.validate
    def _possible(self) -> None:
        check_name(self.name)
        entry, depth = _ENTRIES[self.name], _ENTRIES[self.name].depth
        most = LARGEST["layers"]
        for key, refused, expected in (
            ("channels", entry.channels is None, f"no channels= with {self.name}, whose channels are fixed"),
            ("channels", not 1 <= (self.channels or 0) <= LARGEST["channels"], f"channels in 1..{LARGEST['channels']}"),
            ("layers", depth is None, f"no layers= with {self.name}, whose depth is fixed"),
            (
                "layers",
                depth is not None and not (depth.fits(self.layers or 0) and (self.layers or 0) <= most),
                f"layers of {self.name} {depth.words() if depth else ''}, at most {most}",
            ),
        ):
            if refused and getattr(self, key) is not None:
                raise ValueError(f"expected {expected}, got {key}={getattr(self, key)}")
        if self.stem != "auto" and not entry.stems:
            raise ValueError(f"expected no stem= with {self.name}, which begins alike on all images, got {self.stem}")
        check_denoise(self.denoise, self.denoise_after)
        if self.width <= 0:
            raise ValueError(f"expected width > 0, got {self.width}")

    @property
    def text(self) -> str:
        """The name, and whatever was chosen beside it, as it is typed."""
        chosen = {
            name: getattr(self, name)
            for name, field in chz.chz_fields(self).items()
            if name != "name" and not is_default(field, getattr(self, name))
        }
        words = (f"{key}={','.join(v) if isinstance(v, tuple) else v}" for key, v in chosen.items())
        return " ".join((self.name, *words))

    def build(self, n_classes: int, in_shape: Shape) -> nn.Module:
        """Untrained network from images ``(n, *in_shape)`` in [0,1] to logits ``(n, n_classes)``.

        Raises:
            ValueError: it cannot be built for these images.
        """
        _check_images(n_classes, in_shape)
        side, large = min(in_shape[1:]), max(in_shape[1:]) > SMALL_SIDE
        if self.stem != "auto":
            large = self.stem == "imagenet"
            if large and side < MIN_LARGE_SIDE:
                raise ValueError(f"expected images of at least {MIN_LARGE_SIDE} pixels for stem=imagenet, got {side}")
        entry = _ENTRIES[self.name]
        layers = self.layers or (entry.depth.usual if entry.depth else 0)
        plan = Plan(n_classes, in_shape, self.channels or entry.channels or 0, layers, large, self.width)
        if self.channels or self.layers or self.width > 1:
            self._refuse_size(entry, plan)
        network = entry.build(plan)
        if self.denoise != "none":
            places = entry.stages(network), cell_names(network)
            put_blocks(network, self.denoise, self.denoise_after, *places, in_shape)
        return network

    def _refuse_size(self, entry: Entry, plan: Plan) -> None:
        """Refuse a network that is too large for any machine, before it is built."""
        with torch.device("meta"):  # only shapes, which take no memory
            n = sum(parameter.numel() for parameter in entry.build(plan).parameters())
        if n > LARGEST_NETWORK:
            raise ValueError(
                f"expected a network of at most {LARGEST_NETWORK:,} parameters, got {self.text} with {n:,}"
            )


def from_text(text: str) -> Network:
    """The network of a text such as ``wsr-basic channels=74 stem=imagenet``; see :attr:`Network.text`.

    Raises:
        ValueError: the text cannot be read, or the network leaves no such choice.
    """
    name, *words = text.split() or [""]
    values: dict[str, object] = {}
    fields = {key: field for key, field in chz.chz_fields(Network).items() if key != "name"}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in fields or not equals or key in values:
            raise ValueError(f"expected {name} with {', '.join(f'{key}=' for key in fields)}, got {word!r}")
        try:
            values[key] = read(value, fields[key].x_type)
        except ValueError as error:
            raise ValueError(f"{word}: expected {error}") from None
    return Network(name=name.lower(), **values)  # type: ignore[arg-type] # each was read for its field


def denoise_found(
    space: SearchSpace, network: nn.Module, kind: Denoise, after: tuple[str, ...], in_shape: Shape
) -> nn.Module:
    """The network of a search space, changed in place: with blocks that denoise, as those of the zoo.

    Raises:
        ValueError: there is no such place.
    """
    if kind != "none":
        names = {id(module): name for name, module in network.named_modules()}
        cells = [names[id(cell)] for cell in space.cells_of(network)]
        put_blocks(network, kind, after, stages_of_space(network), cells, in_shape)
    return network


def check_denoise(kind: Denoise, after: tuple[str, ...]) -> None:
    """Raise ``ValueError`` where places are given without a filter, or a filter without places."""
    if kind == "none" and after != EVERY[:1]:
        raise ValueError(f"expected denoise=NAME with denoise_after={','.join(after)}, got none")
    if not after:
        raise ValueError("expected denoise_after with at least one place, got none")


def _check_images(n_classes: int, in_shape: Shape) -> None:
    whole = all(isinstance(side, numbers.Integral) for side in in_shape)
    if not whole or len(in_shape) != 3 or in_shape[0] < 1 or min(in_shape[1:]) < MIN_SIDE:
        raise ValueError(f"expected in_shape (channels, height, width), sides >= {MIN_SIDE}, got {in_shape}")
    if not isinstance(n_classes, numbers.Integral) or n_classes < 2:
        raise ValueError(f"expected n_classes >= 2, got {n_classes}")


def build(
    name: str,
    n_classes: int = 10,
    in_shape: Shape = (3, 32, 32),
    *,
    width: float = 1.0,
    channels: int | None = None,
    layers: int | None = None,
    stem: Stem = "auto",
    denoise: Denoise = "none",
    denoise_after: tuple[str, ...] = EVERY[:1],
) -> nn.Module:
    """Untrained network from images ``(n, *in_shape)`` in [0,1] to logits ``(n, n_classes)``; it normalises inside.

    Args:
        name: one of ``names()``.
        n_classes: number of classes, ≥ 2.
        in_shape: channels, height and width of the images, at least 8×8 pixels.
        width: multiplies the number of channels, > 0.
        channels: see :class:`Network`, and so for the other arguments.
        layers: cells or depth.
        stem: first layers.
        denoise: filter of the denoising blocks, or none.
        denoise_after: their places.

    Raises:
        ValueError: the zoo has no such network, or the other arguments are wrong.

    Example:
        >>> sum(p.numel() for p in build("lenet", in_shape=(1, 28, 28)).parameters())
        61706
    """
    check_name(name)
    _check_images(n_classes, in_shape)
    if not 0 < width < math.inf:
        raise ValueError(f"expected width > 0 and finite, got {width}")
    network = Network(
        name=name,
        channels=channels,
        layers=layers,
        stem=stem,
        denoise=denoise,
        denoise_after=denoise_after,
        width=float(width),
    )
    return network.build(n_classes, in_shape)

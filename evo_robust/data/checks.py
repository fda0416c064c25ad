"""Checks that the parts of a data set agree: counts, classes, sizes, and the classes in each split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from evo_robust.data.images import Images, Splits
from evo_robust.parts.base import UserError
from evo_robust.parts.plain import first_of

# Classes that a message names; further ones are only counted.
_NAMED = 5


def check_arrays(what: str, x: np.ndarray, y: np.ndarray, n_classes: int, in_shape: tuple[int, int, int]) -> None:
    """Raise ``ValueError`` where images or labels do not match the description of their data set.

    Args:
        what: name of the part, for the message.
        x: images; expected uint8 ``(n, c, h, w)``.
        y: labels; expected whole numbers ``(n,)`` from 0.
        n_classes: number of classes.
        in_shape: ``(c, h, w)``.
    """
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{what}: expected one whole number per image as labels, got {y.dtype} {y.shape}")
    if x.dtype != np.uint8 or x.shape[1:] != in_shape:
        raise ValueError(f"{what}: expected uint8 images of {_shape(in_shape)}, got {x.dtype} of {_shape(x.shape[1:])}")
    if len(x) != len(y):
        raise ValueError(f"{what}: expected one label per image, got {len(x)} images and {len(y)} labels")
    if len(y) == 0:
        raise ValueError(f"{what}: expected images, got none")
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(f"{what}: expected labels in 0..{n_classes - 1}, got {y.min()}..{y.max()}")
    absent = np.flatnonzero(np.bincount(y, minlength=n_classes) == 0)
    if len(absent):
        raise ValueError(f"{what}: expected images of each of the {n_classes} classes, got none of {_listed(absent)}")


def check_parts(name: str, found: object, n_classes: int, in_shape: tuple[int, int, int]) -> tuple[Images, Images]:
    """Training and test images as a data set's reader returned them, checked against its own description.

    Raises:
        UserError: they do not match it; the message says what was expected.
    """
    if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, Images) for part in found)):
        kinds = [type(part).__name__ for part in found] if isinstance(found, tuple) else type(found).__name__
        raise UserError(f"data={name}: expected its _read to return training and test Images, got {kinds}")
    if n_classes < 2:
        raise UserError(f"data={name}: expected two classes or more, got {n_classes}")
    pool, test = found
    try:
        for what, part in (("training images", pool), ("test images", test)):
            check_arrays(what, part.x.cpu().numpy(), part.y.cpu().numpy(), n_classes, in_shape)
    except ValueError as error:
        raise UserError(f"data={name}, {error}") from None
    return pool, test


class Described(Protocol):
    """What checks need of a data set."""

    @property
    def name(self) -> str:
        """Name of the data set."""

    @property
    def n_classes(self) -> int:
        """Number of classes."""

    @property
    def train_limit(self) -> int | None:
        """Training and validation images used; None for all."""

    @property
    def val_share(self) -> float:
        """Share of them kept for validation."""

    @property
    def test_limit(self) -> int | None:
        """Test images used; None for all."""


def check_splits(data: Described, splits: Splits) -> None:
    """Refuse splits that are useless for training or evaluation.

    Training images must show every class, since a network cannot learn a class that it never sees. Validation and test
    images of a single class are refused too, since a constant answer would be right on all of them. If they only lack
    some classes, as in a quick trial with small limits, ``remarks`` says so.

    Raises:
        UserError: a split is useless; the message names it, its size and the limits.
    """
    absent = _absent(splits.train, data.n_classes)
    if len(splits.train) and len(absent):
        raise UserError(
            f"data={data.name}: the {len(splits.train)} training images show {data.n_classes - len(absent)} of "
            f"{data.n_classes} classes ({_settings(data)}): expected all; take more images"
        )
    for name, part in (("validation", splits.val), ("test", splits.test)):
        if len(part) and len(_absent(part, data.n_classes)) == data.n_classes - 1:
            raise UserError(
                f"data={data.name}: all {len(part)} {name} images are of one class ({_settings(data)}): "
                "expected two classes or more; take more images"
            )


def remarks(data: Described, splits: Splits) -> list[str]:
    """Warnings for readers of figures on these splits: which splits lack classes."""
    return [
        f"warning: the {len(part)} {name} images of {data.name} show {data.n_classes - len(absent)} of "
        f"{data.n_classes} classes ({_settings(data)}): figures say nothing about the others"
        for name, part in (("validation", splits.val), ("test", splits.test))
        if len(part) and len(absent := _absent(part, data.n_classes))
    ]


def _absent(images: Images, n_classes: int) -> torch.Tensor:
    return (images.y.bincount(minlength=n_classes) == 0).nonzero().squeeze(1)


def _settings(data: Described) -> str:
    given = {"train_limit": data.train_limit, "val_share": data.val_share, "test_limit": data.test_limit}
    return ", ".join(f"data.{name}={value}" for name, value in given.items() if value is not None)


def _listed(classes: Sequence[int] | np.ndarray) -> str:
    return first_of([str(one) for one in classes], _NAMED, ", ")


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) if shape else "no pixels"

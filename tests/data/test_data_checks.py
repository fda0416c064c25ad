"""Whether the parts of a data set agree: every disagreement is one clear message."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import chz
import numpy as np
import pytest
import torch

from evo_robust import NSGA2, CleanError, FromScratch, NSGAPhases, Params, Problem, Standard, search
from evo_robust.data.base import DataSet
from evo_robust.data.checks import remarks
from evo_robust.data.images import Augment, Images
from evo_robust.data.sets import MNIST, Digits
from evo_robust.parts.base import UserError
from evo_robust.progress import Silent

Arrays = tuple[torch.Tensor, torch.Tensor]


def images(n: int = 20, shape: tuple[int, ...] = (1, 8, 8), classes: int = 4) -> Arrays:
    return torch.zeros((n, *shape), dtype=torch.uint8), torch.arange(n) % classes


@chz.chz
class Anything(DataSet):
    """Returns whatever a test wants."""

    n_classes = 4
    in_shape = (1, 8, 8)
    default_augment = Augment(crop_padding=0)
    reader: ClassVar[Callable[[], Any]]

    def _read(self, root: Path) -> tuple[Images, Images]:
        return type(self).reader()


def good(n: int = 20, **options: Any) -> Images:
    return Images(*images(n, **options))


def labelled(y: torch.Tensor) -> Images:
    return Images(images(len(y))[0], y)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "size": (lambda: (good(shape=(1, 9, 9)), good()), "training images: expected uint8 images of 1×8×8, got .*1×9×9"),
    "channels": (lambda: (good(), good(shape=(3, 8, 8))), "test images: expected uint8 images of 1×8×8, got .*3×8×8"),
    "classes": (lambda: (good(classes=7), good()), r"training images: expected labels in 0\.\.3, got 0\.\.6"),
    "below 0": (lambda: (good(), labelled(torch.arange(20) % 4 - 1)), r"test images: .*0\.\.3, got -1\.\.2"),
    "absent": (lambda: (good(), good(classes=2)), "test images: expected images of each of the 4 classes.* of 2, 3"),
    "no images": (lambda: (good(0), good()), "training images: expected images, got none"),
    "counts": (lambda: (Images(images(20)[0], images(19)[1]), good()), r"expected int64 labels \(20,\), got .*19"),
    "dtype": (lambda: (Images(images()[0].float(), images()[1]), good()), "expected uint8 images .* got torch.float32"),
    "labels' dtype": (lambda: (Images(images()[0], images()[1].float()), good()), "expected int64 labels"),
    "one part": (lambda: good(), "expected its _read to return training and test Images, got Images"),
    "arrays": (lambda: images(), r"expected its _read .* got \['Tensor', 'Tensor'\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_somebodys_own_reader_returns_is_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, message = WRONG[name]
    monkeypatch.setattr(Anything, "reader", staticmethod(reader), raising=False)
    with pytest.raises(UserError, match=rf"^data=anything.*{message}"):
        Anything().load()


def test_one_class_is_nothing_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Anything, "reader", staticmethod(lambda: (good(classes=1), good(classes=1))), raising=False)
    monkeypatch.setattr(Anything, "n_classes", 1)
    with pytest.raises(UserError, match="data=anything: expected two classes or more, got 1"):
        Anything().load()


def test_splits_that_lack_classes() -> None:
    with pytest.raises(UserError, match=r"the 8 training images show 8 of 10 classes \(data.train_limit=10, data.val_"):
        Digits(train_limit=10).load()
    with pytest.raises(UserError, match=r"all 1 test images are of one class \(.*data.test_limit=1\)"):
        Digits(test_limit=1).load()
    with pytest.raises(UserError, match=r"all 1 validation images are of one class"):
        Digits(val_share=0.0007).load()
    data = Digits(train_limit=40, test_limit=6)
    told = remarks(data, data.load())
    assert [line.partition(" (")[0] for line in told] == [
        "warning: the 8 validation images of digits show 8 of 10 classes",
        "warning: the 6 test images of digits show 6 of 10 classes",
    ]
    assert remarks(Digits(), Digits().load()) == [] == remarks(Digits(val_share=0), Digits(val_share=0).load())


def test_a_search_says_what_its_splits_lack(tmp_path: Path) -> None:
    class Lines(Silent):
        lines: ClassVar[list[str]] = []

        def say(self, text: str) -> None:
            self.lines.append(text)

    problem = Problem(
        space=NSGAPhases(phases=1, nodes=2, channels=2),
        data=Digits(train_limit=40),
        objectives=(CleanError(), Params()),
        evaluator=FromScratch(epochs=0, recipe=Standard()),
        algorithm=NSGA2(pop_size=2, n_gen=1),
    )
    search(problem, tmp_path / "run", device="cpu", workers=1, reporter=Lines())
    assert len([line for line in Lines.lines if "8 validation images of digits show 8 of 10 classes" in line]) == 1


# --- idx files


def idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(struct.pack(">I", n) for n in array.shape)
    path.write_bytes(b"\0\0\x08" + bytes([array.ndim]) + sizes + array.astype(np.uint8).tobytes())


MIXED: dict[str, tuple[str, np.ndarray, str]] = {
    "labels of the other part": ("train-labels-idx1", np.arange(20) % 10, "training images.* 60 images and 20 labels"),
    "more labels": ("t10k-labels-idx1", np.arange(60) % 10, "test images.* 20 images and 60 labels"),
    "labels as images": ("t10k-images-idx3", np.arange(20) % 10, "test images: expected uint8 images of 1×28×28"),
    "images as labels": ("train-labels-idx1", np.zeros((60, 28, 28)), "expected one whole number per image as labels"),
    "letters": ("train-labels-idx1", np.arange(60) % 26 + 1, r"expected labels in 0\.\.9, got 1\.\.26"),
    "larger": ("train-images-idx3", np.zeros((60, 32, 32)), "expected uint8 images of 1×28×28, got uint8 of 1×32×32"),
    "eight classes": ("train-labels-idx1", np.arange(60) % 8, "each of the 10 classes, got none of 8, 9"),
    "nothing": ("train-labels-idx1", np.zeros(0), "60 images and 0 labels"),
}


@pytest.mark.parametrize("name", MIXED)
def test_idx_files_of_different_data_are_refused(name: str, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    for part, n in (("train", 60), ("t10k", 20)):
        idx(raw / f"{part}-images-idx3-ubyte", np.random.default_rng(n).integers(0, 255, (n, 28, 28)))
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(n) % 10)
    assert len(MNIST(root=str(tmp_path), download=False).load().train) == 48
    file, array, message = MIXED[name]
    idx(raw / f"{file}-ubyte", array)
    with pytest.raises(UserError, match=rf"MNIST: no usable data in {raw}: .*{message}"):
        MNIST(root=str(tmp_path), download=False).load()

"""Data sets by name: where their files are, how they are read and checked, and their splits."""

from __future__ import annotations

import abc
import hashlib
from pathlib import Path
from typing import Any, ClassVar

import chz
import numpy as np
import torch

from evo_robust.data.base import DataSet, data_folder
from evo_robust.data.checks import check_arrays
from evo_robust.data.idx import idx_bytes, read_idx
from evo_robust.data.image_folders import LAYOUT, class_names, decoded, stamp_of
from evo_robust.data.images import Augment, Images, stratified_order
from evo_robust.files import cache_folder
from evo_robust.parts.base import UserError

Arrays = tuple[np.ndarray, np.ndarray]
"""Images uint8 ``(n, c, h, w)`` and labels ``(n,)``."""

# Errors that a missing or damaged file may raise, in torchvision, scipy and here.
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError)


def _torchvision(name: str) -> Any:
    """Torchvision's data set class; imported late because that takes as long as importing torch."""
    import torchvision.datasets

    return getattr(torchvision.datasets, name)


def _ordered(arrays: Arrays, seed: int) -> Images:
    x, y = arrays
    order = stratified_order(y, seed)
    return Images(torch.from_numpy(x[order]), torch.from_numpy(y[order].astype(np.int64)))


@chz.chz
class Digits(DataSet):
    """Scikit-learn's 1,797 handwritten digits of 8×8 pixels, in its package; the same 360 are always for tests."""

    n_classes = 10
    in_shape = (1, 8, 8)
    default_augment = Augment(crop_padding=1, flip=False)

    def _read(self, root: Path) -> tuple[Images, Images]:
        from sklearn.datasets import load_digits

        values, labels = load_digits(return_X_y=True)
        x = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, *self.in_shape)
        everything = stratified_order(labels, seed=0)
        test, pool = everything[:360], everything[360:]
        return _ordered((x[pool], labels[pool]), self.split_seed), _ordered((x[test], labels[test]), 0)

    def stamp(self, root: Path) -> object:
        """See :meth:`DataSet.stamp`: they never change."""
        return "embedded in scikit-learn"

    def verified(self, root: Path) -> bool:
        """See :meth:`DataSet.verified`: scikit-learn ships them."""
        return True


@chz.chz
class Published(DataSet):
    """A data set whose files torchvision knows. Files are read as they are, and downloaded where they are missing."""

    title: ClassVar[str]
    folder: ClassVar[str]
    advice: ClassVar[str]

    @property
    @abc.abstractmethod
    def _files(self) -> list[tuple[str, str | None]]:
        """Names of the files in the folder, with their MD5 where it is published."""

    def _read(self, root: Path) -> tuple[Images, Images]:
        try:
            train, test = self._checked(root)
        except _UNREADABLE as error:
            if not self.download:
                raise UserError(self._complaint(root, error)) from None
            train, test = self._fetched(root)
        return _ordered(train, self.split_seed), _ordered(test, 0)

    def stamp(self, root: Path) -> object:
        """See :meth:`DataSet.stamp`: name, size and time of each file."""
        found = []
        for name, _ in self._files:
            for path in (root / self.folder / name, root / self.folder / f"{name}.gz"):
                if path.is_file():
                    about = path.stat()
                    found.append((path.name, about.st_size, about.st_mtime_ns))
        return tuple(found)

    def verified(self, root: Path) -> bool:
        """See :meth:`DataSet.verified`: for most sets torchvision refuses any other files."""
        return True

    def _checked(self, root: Path) -> tuple[Arrays, Arrays]:
        parts = self._arrays(root)
        for what, (x, y) in zip(("training images", "test images"), parts, strict=True):
            check_arrays(what, x, y, self.n_classes, self.in_shape)
        return parts

    @abc.abstractmethod
    def _arrays(self, root: Path) -> tuple[Arrays, Arrays]:
        """Training and test images as published; raises one of ``_UNREADABLE`` where they cannot be read."""

    @abc.abstractmethod
    def _fetch(self, root: Path) -> None:
        """Download into ``root``."""

    def _fetched(self, root: Path) -> tuple[Arrays, Arrays]:
        existing = {folder: folder.is_dir() for folder in (root / self.folder, *(root / self.folder).parents)}
        try:
            self._fetch(root)
            return self._checked(root)
        except _UNREADABLE as error:
            for folder, was_there in existing.items():
                if not was_there and folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(self._complaint(root, error) + f"\n(downloading it failed: {reason})") from None

    def _complaint(self, root: Path, error: Exception) -> str:
        """What is wrong with the files, and what the user can do."""
        from torchvision.datasets.utils import check_integrity

        folder = root / self.folder
        missing, damaged = [], []
        for name, md5 in self._files:
            path = folder / name
            packed = path.with_name(path.name + ".gz")
            if not path.exists() and not packed.exists():
                missing.append(name)
            elif md5 is not None and not check_integrity(str(path), md5):
                damaged.append(name)
        faults = [f"missing: {', '.join(missing)}"] if missing else []
        faults += [f"damaged (wrong checksum): {', '.join(damaged)}"] if damaged else []
        return (
            f"{self.title}: no usable data in {folder}: {'; '.join(faults) or error}.\n"
            f"Put {self.advice} there, or name the folder that holds {self.folder or 'them'} "
            "with data.root=FOLDER or the environment variable EVO_ROBUST_DATA."
        )


@chz.chz
class CIFAR10(Published):
    """CIFAR-10: 50,000 + 10,000 colour images of 32×32 pixels, 10 classes (Krizhevsky 2009)."""

    n_classes = 10
    in_shape = (3, 32, 32)
    default_augment = Augment()
    title = "CIFAR-10"
    folder = "cifar-10-batches-py"
    advice = "the unpacked official Python version (cifar-10-python.tar.gz)"

    @property
    def _files(self) -> list[tuple[str, str | None]]:
        source = _torchvision(type(self).__name__)
        return [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]

    def _arrays(self, root: Path) -> tuple[Arrays, Arrays]:
        return self._part(root, train=True), self._part(root, train=False)

    def _fetch(self, root: Path) -> None:
        self._part(root, train=False, download=True)

    def _part(self, root: Path, train: bool, download: bool = False) -> Arrays:
        source = _torchvision(type(self).__name__)(str(root), train=train, download=download)
        return source.data.transpose(0, 3, 1, 2), np.asarray(source.targets)


@chz.chz
class CIFAR100(CIFAR10):
    """CIFAR-100: as CIFAR-10 with 100 classes."""

    n_classes = 100
    title = "CIFAR-100"
    folder = "cifar-100-python"
    advice = "the unpacked official Python version (cifar-100-python.tar.gz)"


@chz.chz
class SVHN(Published):
    """Street View House Numbers: 73,257 + 26,032 colour digits of 32×32 pixels (Netzer et al. 2011)."""

    n_classes = 10
    in_shape = (3, 32, 32)
    default_augment = Augment(flip=False)
    title = "SVHN"
    folder = ""
    advice = "train_32x32.mat and test_32x32.mat (cropped digits)"

    @property
    def _files(self) -> list[tuple[str, str | None]]:
        return [_torchvision("SVHN").split_list[split][1:] for split in ("train", "test")]

    def _arrays(self, root: Path) -> tuple[Arrays, Arrays]:
        return self._part(root, "train"), self._part(root, "test")

    def _fetch(self, root: Path) -> None:
        for split in ("train", "test"):
            self._part(root, split, download=True)

    def _part(self, root: Path, split: str, download: bool = False) -> Arrays:
        source = _torchvision("SVHN")(str(root), split=split, download=download)
        return source.data, source.labels


@chz.chz
class MNIST(Published):
    """MNIST: 60,000 + 10,000 grey handwritten digits of 28×28 pixels (LeCun et al. 1998)."""

    n_classes = 10
    in_shape = (1, 28, 28)
    default_augment = Augment(crop_padding=2, flip=False)
    title = "MNIST"
    folder = "MNIST/raw"
    advice = "the four official idx files (train-images-idx3-ubyte and so on; plain or .gz)"
    unpacked: ClassVar[tuple[str, ...]] = (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )
    """MD5 of the unpacked files. Other images of this format may be used, but caches and records keep them apart."""

    @property
    def _files(self) -> list[tuple[str, str | None]]:
        return [(f"{part}-{kind}-ubyte", None) for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]

    def _arrays(self, root: Path) -> tuple[Arrays, Arrays]:
        # torchvision reads only unpacked files; reading both kinds here makes a read-only folder usable
        x, y, test_x, test_y = (read_idx(root / self.folder / name) for name, _ in self._files)
        return (x[:, None], y), (test_x[:, None], test_y)

    def verified(self, root: Path) -> bool:
        """See :meth:`DataSet.verified`: by the MD5 of the unpacked files."""
        # torchvision's checksums are those of packed files, which users may have packed again
        folder = root / self.folder
        return all(
            hashlib.md5(idx_bytes(folder / name), usedforsecurity=False).hexdigest() == md5
            for (name, _), md5 in zip(self._files, self.unpacked, strict=True)
        )

    def _fetch(self, root: Path) -> None:
        _torchvision(type(self).__name__)(str(root), download=True)


@chz.chz
class FashionMNIST(MNIST):
    """Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes, 28×28 pixels (Xiao et al. 2017)."""

    default_augment = Augment(crop_padding=2)
    title = "Fashion-MNIST"
    folder = "FashionMNIST/raw"
    unpacked = (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )


@chz.chz
class ImageFolders(DataSet, abc.ABC):
    """Image files in ``train/CLASS/`` and ``val/CLASS/``; the published validation images serve as test images.

    They are decoded once, at ``size``, into the cache folder. Torchvision cannot download them, so ``download`` has no
    effect.
    """

    folder: ClassVar[str]
    published_classes: ClassVar[int]

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """The data set's usual name, such as ``Tiny ImageNet``."""

    size: int = chz.field(default=64, doc="height and width that images are scaled and cut to, >= 8")

    @chz.validate
    def _size(self) -> None:
        if self.size < 8:
            raise ValueError(f"expected size >= 8, got {self.size}")

    @property
    def n_classes(self) -> int:
        """Number of class folders (a subset of the classes will do); the published number where there are none yet."""
        return len(class_names(self._place(data_folder(self.root)))) or self.published_classes

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return (3, self.size, self.size)

    @property
    def default_augment(self) -> Augment:
        """Augmentation: shifts by up to an eighth of the size, and mirror images."""
        return Augment(crop_padding=self.size // 8)

    def _place(self, root: Path) -> Path:
        return root / self.folder if (root / self.folder).is_dir() or not (root / "train").is_dir() else root

    def _read(self, root: Path) -> tuple[Images, Images]:
        place = self._place(root)
        if not place.is_dir():
            raise UserError(
                f"{self.title}: no such folder as {place}. Put the unpacked images there:\n{LAYOUT}\n"
                f"or name the folder that holds {self.folder} with data.root=FOLDER or EVO_ROBUST_DATA."
            )
        return decoded(place, self.size, self.split_seed, cache_folder())

    def stamp(self, root: Path) -> object:
        """See :meth:`DataSet.stamp`: a digest of names, sizes and times."""
        return stamp_of(self._place(root))


@chz.chz
class TinyImageNet(ImageFolders):
    """Tiny ImageNet: 100,000 + 10,000 colour images of 64×64 pixels, 200 classes (Stanford CS231n)."""

    title = "Tiny ImageNet"
    folder = "tiny-imagenet-200"
    published_classes = 200


@chz.chz
class ImageNet(ImageFolders):
    """ImageNet (ILSVRC 2012): 1.28 million + 50,000 colour images, 1000 classes (Russakovsky et al. 2015)."""

    title = "ImageNet"
    folder = "imagenet"
    published_classes = 1000

    size: int = chz.field(default=224, doc="height and width that images are scaled and cut to, >= 8")


DATA_SETS: dict[str, type[DataSet]] = {
    kind.__name__.lower(): kind
    for kind in (Digits, MNIST, FashionMNIST, CIFAR10, CIFAR100, SVHN, TinyImageNet, ImageNet)
}
"""Data sets by name in lower case."""

"""Data sets: where their files are, their splits, and a digest of their images."""

from __future__ import annotations

import abc
import dataclasses
import functools
import os
from pathlib import Path

import chz

from evo_robust.data.checks import check_parts, check_splits
from evo_robust.data.images import Augment, Images, Splits
from evo_robust.files import FULL, cache_folder
from evo_robust.parts.base import WHERE, Part, UserError, digest, is_ours, ships


def data_folder(root: str | None = None) -> Path:
    """Folder that data sets lie in: ``root``, else ``EVO_ROBUST_DATA``, else ``data`` in the cache folder."""
    named = root or os.environ.get("EVO_ROBUST_DATA")
    return Path(named).expanduser().absolute() if named else cache_folder() / "data"


@chz.chz
class DataSet(Part, abc.ABC):
    """Images with classes, split by a seed into training and validation; the test images are the publisher's own.

    A subclass gives ``n_classes``, ``in_shape`` and ``default_augment``, as class attributes or as properties. It reads
    the images in ``_read``. Cache names and the fingerprints of runs contain a digest of the images. For example::

        @chz.chz
        class Scans(DataSet):
            '''Grey scans, sick or well.'''
            n_classes = 2
            in_shape = (1, 64, 64)
            default_augment = Augment(crop_padding=4)
            def _read(self, root):
                x, y = torch.load(root / "scans.pt", weights_only=True)
                return Images(x[:800], y[:800]), Images(x[800:], y[800:])
    """

    root: str | None = chz.field(
        default=None,
        doc="folder that holds the data; EVO_ROBUST_DATA or the cache folder when not given",
        metadata=WHERE,
    )
    download: bool = chz.field(default=True, doc="fetch what is missing, where torchvision can", metadata=WHERE)
    val_share: float = chz.field(default=0.2, doc="share of the training images kept for validation, in [0,1)")
    train_limit: int | None = chz.field(
        default=None, doc="how many training and validation images to use, classes in proportion; all when not given"
    )
    test_limit: int | None = chz.field(default=None, doc="how many test images to use; all when not given")
    split_seed: int = chz.field(default=0, doc="seed of the split and of the subset of training images")
    content: str | None = chz.field(
        default=None,
        doc="digest of the images, as in problem.json; other images are refused. When not given, the present images "
        "are used; empty: they are not checked",
        metadata=WHERE,
    )

    @chz.validate
    def _limits(self) -> None:
        if not 0 <= self.val_share < 1:
            raise ValueError(f"expected val_share in [0,1), got {self.val_share}")
        for name in ("train_limit", "test_limit"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"expected {name} >= 1, got {limit}")
        if self.split_seed < 0:
            raise ValueError(f"expected split_seed >= 0, got {self.split_seed}")

    @property
    @abc.abstractmethod
    def n_classes(self) -> int:
        """Number of classes, >= 2; labels are 0 to ``n_classes`` − 1, and all of them occur among training images."""

    @property
    @abc.abstractmethod
    def in_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image, each >= 1."""

    @property
    @abc.abstractmethod
    def default_augment(self) -> Augment:
        """Random changes of training images that suit the data; a recipe with an ``augment`` of its own takes that."""

    @property
    def name(self) -> str:
        """The data set's name in lower case, as in ``DATA_SETS``."""
        return type(self).__name__.lower()

    def load(self) -> Splits:
        """The splits, in host memory. All callers of one process share them, so they must not be changed.

        They are read again where files have changed since.

        Raises:
            UserError: the data is missing or damaged, its parts do not agree, or ``content`` is the digest of other
                images. The message says where the data was expected, and what to put there.

        Example:
            >>> splits = Digits().load()
            >>> splits.train.x.shape[1:], len(splits.test)
            (torch.Size([1, 8, 8]), 360)
        """
        return self._loaded().splits

    def on(self, device: str) -> Splits:
        """The splits on a device, copied there once per process. Raises as ``load`` does."""
        return _copied(self.load(), device)

    def digest(self) -> str:
        """Digest of the images; empty where the settings determine them, as for published files, which are checked.

        It covers pixels, labels and names of classes, but not the folder: the same images elsewhere are the same data.
        Raises as ``load`` does.
        """
        return self._loaded().content if self.content is None else self.content

    def key(self) -> tuple[str, ...]:
        """What names in the cache depend on besides the settings: the digest of the images, unless it is empty."""
        return tuple(filter(None, [self.digest()]))

    def pinned(self) -> DataSet:
        """This data set, tied to its present images: others are refused later. Raises as ``load`` does."""
        return chz.replace(self, content=self.digest() or self.content)

    def _loaded(self) -> Loaded:
        root = data_folder(self.root)
        loaded = _load(self, root)
        if self.content and loaded.content != self.content:
            raise UserError(
                f"the images of data={self.name} (root {root}) are not the expected ones (digest {loaded.content}, "
                f"expected {self.content}): put the former ones back, or begin again with another out="
            )
        return loaded

    @abc.abstractmethod
    def _read(self, root: Path) -> tuple[Images, Images]:
        """All training and all test images.

        Images are uint8 ``(n, *in_shape)``, labels int64 ``(n,)`` in 0 to ``n_classes`` − 1. Splits and limits take
        images from the beginning, so classes should be mixed there; ``stratified_order`` does that.

        Args:
            root: folder that ``data.root`` names; it may not exist.

        Raises:
            OSError: files are missing or cannot be read.
            ValueError: files are damaged. A command says either in one line.
        """

    def stamp(self, root: Path) -> object:
        """A value that changes when the files of ``_read`` change, such as their sizes and times. It is compared by ==.

        While it is the same, a process does not read the images again. None, the default, means unknown: the images are
        read again each time. A class derived from a shipped data set needs a ``stamp`` of its own, since it may read
        other files.

        Args:
            root: as for ``_read``.
        """
        return None

    def verified(self, root: Path) -> bool:
        """Whether ``_read`` has just checked that its images are the published ones, by checksums for example.

        Then the settings alone determine the images, and records and cache names need no digest of them. False by
        default. As with ``stamp``, what is inherited from a shipped data set does not count.

        Args:
            root: as for ``_read``.
        """
        return False


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A data set as it was read.

    Attributes:
        data: its settings.
        root: the folder it was read from.
        stamp: of the files, see ``DataSet.stamp``.
        content: digest of the images, see ``DataSet.digest``.
        splits: the images.
    """

    data: DataSet
    root: Path
    stamp: object
    content: str
    splits: Splits


class _Loader:
    """Reads data sets, and keeps the last two."""

    size = 2

    def __init__(self) -> None:
        self._kept: list[Loaded] = []

    def __call__(self, data: DataSet, root: Path) -> Loaded:
        """The data set as it is now. What was read before is returned again while its files are unchanged."""
        plain = chz.replace(data, content=None)
        alike = [kept for kept in self._kept if kept.data == plain and kept.root == root]
        # with a known digest, files need not be checked; there may be a million
        found = next((kept for kept in alike if data.content and kept.content == data.content), None)
        if found is None:
            stamp = plain.stamp(root) if _answers(plain, "stamp") else None
            found = next((kept for kept in alike if _serves(kept, stamp, data.content)), None)
            if found is None:
                read = _read(plain, root, stamp)
                # the same images again: keep the former ones, which may be on a device already
                found = next((kept for kept in alike if read.content and kept.content == read.content), read)
                found = dataclasses.replace(read, splits=found.splits)
        self._kept = [found, *(kept for kept in self._kept if kept.data != plain or kept.root != root)][: self.size]
        return found

    def cache_clear(self) -> None:
        """Forget what was read."""
        self._kept = []


_load = _Loader()


def _answers(data: DataSet, method: str) -> bool:
    """Whether a class itself defines the method; a user's own class may read other files than its base."""
    said_by = next(cls for cls in type(data).__mro__ if method in vars(cls))
    return is_ours(data) or not ships(said_by)


def _serves(kept: Loaded, stamp: object, content: str | None) -> bool:
    # what cannot be checked (content is empty) and has no stamp is read once
    return kept.stamp == stamp and (stamp is not None or content == "")


def _read(data: DataSet, root: Path, stamp: object) -> Loaded:
    try:
        found = data._read(root)
    except (OSError, ValueError) as error:  # no such file; images or labels of another type or shape
        if isinstance(error, OSError) and error.errno in FULL:
            raise  # an error of the disk, for which the command has a better message
        raise UserError(f"data={data.name} cannot be used: {error}") from None
    except Exception as error:
        if isinstance(error, UserError) or is_ours(data):
            raise
        raise UserError(f"data={data.name} cannot be used: its _read raised {type(error).__name__}: {error}") from error
    pool, test = check_parts(data.name, found, data.n_classes, data.in_shape)
    verified = _answers(data, "verified") and data.verified(root)
    content = "" if verified else digest(pool.content(), test.content())
    size = len(pool) if data.train_limit is None else min(data.train_limit, len(pool))
    cut = size - round(size * data.val_share)
    # slices, not copies: images read from a memory-mapped file stay there
    splits = Splits(
        train=pool.take(slice(cut)),
        val=pool.take(slice(cut, size)),
        test=test.take(slice(data.test_limit)),
    )
    check_splits(data, splits)
    return Loaded(data, root, stamp, content, splits)


@functools.lru_cache(maxsize=2)
def _copied(splits: Splits, device: str) -> Splits:
    return splits.to(device)


def forget_images() -> None:
    """Forget the kept images, so that they are read again; used after a part has changed them."""
    _load.cache_clear()
    _copied.cache_clear()

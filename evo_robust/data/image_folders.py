"""Folders of image files, decoded once into memory-mapped arrays that need not fit into memory."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from rich.console import Console
from rich.progress import track

from evo_robust.data.image_files import SUFFIXES, Notes, read_images, warnings_by_file
from evo_robust.data.images import Images, stratified_order
from evo_robust.files import naming
from evo_robust.parts.base import UserError, digest

_PER_JOB = 256

LAYOUT = """\
  train/CLASS/…           images, at any depth below each class's folder
  val/CLASS/…             images of the same classes
  (or val/images/… with val/val_annotations.txt, as Tiny ImageNet comes)
Names that begin with a dot are ignored."""


@dataclasses.dataclass
class Listing:
    """Image files with their class indices, and the number of other files by kind."""

    files: list[Path] = dataclasses.field(default_factory=list)
    labels: list[int] = dataclasses.field(default_factory=list)
    others: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def class_names(folder: Path) -> list[str]:
    """Names of the folders below ``train`` in alphabetical order: class i is name i. Empty where there are none."""
    return _folders(folder / "train")


def _folders(part: Path) -> list[str]:
    if not part.is_dir():
        return []
    return sorted(entry.name for entry in part.iterdir() if not entry.name.startswith(".") and entry.is_dir())


def decoded(folder: Path, size: int, seed: int, cache: Path) -> tuple[Images, Images]:
    """Training and validation images ``(n, 3, size, size)`` in ``stratified_order``, mapped from a file in ``cache``.

    Each image is scaled so that its shorter side is ``size``, and cropped to its centre. Files are decoded on first
    use; other files, another size or another seed give another copy. Digests cover the names of the classes too.

    Raises:
        UserError: the layout is not as expected, or a file is damaged; the message names it.
    """
    names = class_names(folder)
    if not names:
        raise UserError(f"no class folders in {folder / 'train'}; expected in {folder}:\n{LAYOUT}")
    target = cache / "images" / digest(str(folder), size, seed, stamp_of(folder))
    if not target.is_dir():
        listings = {"train": _train_listing(folder, names), "test": _val_listing(folder, names)}
        for part, listing in listings.items():
            _tell_others(folder / ("val" if part == "test" else part), listing)
        _decode_all(listings, names, size, seed, target)
    return _mapped(target, "train"), _mapped(target, "test")


def stamp_of(folder: Path) -> str:
    """Digest of path, size and time of every file below ``train`` and ``val``; it changes when files change.

    Raises:
        UserError: a folder cannot be read.
    """
    total = hashlib.sha256()
    for part in (folder / "train", folder / "val"):
        for entry in _below(part, follow=1) if part.is_dir() else ():
            try:
                about = entry.stat()
            except OSError:  # a broken link
                about = entry.stat(follow_symlinks=False)
            total.update(f"{os.path.relpath(entry.path, folder)}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return total.hexdigest()


def _below(folder: Path | str, follow: int = 0) -> Iterator[os.DirEntry[str]]:
    """Files at any depth, in the order of their names; links to folders are followed only in the first levels.

    ``follow`` is the number of these levels; deeper links to folders count as files. Names that begin with a dot are
    left out, since notebooks, file managers and version control keep such files beside data.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror})") from None
    for entry in found:
        # links to folders below a class may form a loop
        if entry.is_dir(follow_symlinks=follow > 0):
            yield from _below(entry.path, max(0, follow - 1))
        else:
            yield entry


def _add(listing: Listing, entries: Iterator[os.DirEntry[str]], label: int) -> None:
    for entry in entries:
        kind = os.path.splitext(entry.name)[1].lower()
        if entry.is_symlink() and os.path.isdir(entry.path):
            listing.others["linked folder"] += 1
        elif kind in SUFFIXES:
            listing.files.append(Path(entry.path))
            listing.labels.append(label)
        else:
            listing.others[kind or "without suffix"] += 1


def _by_class(part: Path, names: Sequence[str]) -> Listing:
    listing = Listing()
    for label, name in enumerate(names):
        if (part / name).is_dir():
            _add(listing, _below(part / name), label)
    stray = [entry for entry in part.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    if stray:
        listing.others["outside of the classes' folders"] += len(stray)
    return listing


def _train_listing(folder: Path, names: Sequence[str]) -> Listing:
    listing = _by_class(folder / "train", names)
    empty = sorted(set(range(len(names))) - set(listing.labels))
    if empty:
        raise UserError(f"no images in {folder / 'train' / names[empty[0]]}; expected in {folder}:\n{LAYOUT}")
    return listing


def _val_listing(folder: Path, names: Sequence[str]) -> Listing:
    part = folder / "val"
    annotations = part / "val_annotations.txt"
    if annotations.is_file():
        listing = _annotated(part, annotations, names)
    else:
        unknown = sorted(set(_folders(part)) - set(names))
        if unknown:
            raise UserError(f"{part / unknown[0]} is no class of {folder / 'train'}; expected in {folder}:\n{LAYOUT}")
        listing = _by_class(part, names) if part.is_dir() else Listing()
    if not listing.files:
        raise UserError(f"no images in {part}; expected in {folder}:\n{LAYOUT}")
    absent = [name for label, name in enumerate(names) if label not in set(listing.labels)]
    if absent:
        more = f" and {len(absent) - 1} more classes" if len(absent) > 1 else ""
        raise UserError(f"no images of {absent[0]}{more} in {part}; expected images of each class of train")
    return listing


def _annotated(part: Path, annotations: Path, names: Sequence[str]) -> Listing:
    """Images listed in Tiny ImageNet's table: file name, class name, box."""
    index = {name: label for label, name in enumerate(names)}
    listing = Listing()
    try:
        lines = annotations.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{annotations} cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        path = part / "images" / file
        if name not in index or not path.is_file():
            fault = f"no file {path}" if name in index else f"unknown class {name!r}"
            raise UserError(f"{annotations}, line {number}: {fault}")
        listing.files.append(path)
        listing.labels.append(index[name])
    if len(set(listing.files)) < len(lines):
        twice = collections.Counter(listing.files).most_common(1)[0][0]
        raise UserError(f"{annotations}: {twice.name} is listed twice")
    unlisted = sum(1 for _ in _below(part / "images")) - len(listing.files) if (part / "images").is_dir() else 0
    if unlisted > 0:
        listing.others[f"not in {annotations.name}"] += unlisted
    return listing


def _tell_others(part: Path, listing: Listing) -> None:
    """Print how many files are not read, by kind."""
    if listing.others:
        counts = ", ".join(f"{n} {kind}" for kind, n in sorted(listing.others.items()))
        print(f"not read in {part}: {counts} (formats read: {' '.join(sorted(SUFFIXES))})", file=sys.stderr)


def _decode_all(listings: dict[str, Listing], names: Sequence[str], size: int, seed: int, target: Path) -> None:
    """Write ``target``, whole or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        content = {}
        for part, listing in listings.items():
            labels = np.array(listing.labels, dtype=np.int64)
            # the order of the test images does not depend on the seed of the split
            order = stratified_order(labels, seed if part == "train" else 0)
            np.save(temporary / f"{part}-labels.npy", labels[order])
            pixels = _decode(part, [listing.files[i] for i in order], size, temporary / f"{part}.npy")
            content[part] = digest(list(names), labels[order].tolist(), pixels, length=64)
        about = {"size": size, "split_seed": seed, "classes": list(names), "content": content}
        (temporary / "about.json").write_text(json.dumps(about))
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # unless another process made the same files first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _decode(part: str, files: list[Path], size: int, path: Path) -> str:
    """Decode ``files`` into an array in the file ``path``; returns the digest of their pixels."""
    shape = (len(files), 3, size, size)
    array = _array_on_disk(path, shape)
    starts = range(0, len(files), _PER_JOB)
    # threads suffice: Pillow releases the interpreter's lock while it decodes and scales
    parallel = Parallel(n_jobs=-1, prefer="threads", return_as="generator")
    jobs = (delayed(read_images)(array[i : i + _PER_JOB], files[i : i + _PER_JOB], size) for i in starts)
    console = Console(stderr=True)
    label = f"decoding {len(files)} {part} images to {size}×{size}"
    if not console.is_terminal:
        print(label, file=sys.stderr)
    total, told = hashlib.sha256(), Notes()
    with warnings_by_file():
        done: Iterator[tuple[Notes, list[bytes]]] = parallel(jobs)
        for notes, digests in track(done, label, total=len(starts), console=console, disable=not console.is_terminal):
            total.update(b"".join(digests))
            for kind in dataclasses.fields(Notes):
                getattr(told, kind.name).extend(getattr(notes, kind.name))
    array.flush()
    _tell(told, len(files))
    return total.hexdigest()


def _array_on_disk(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """An array in a file whose disk space is reserved at once.

    Otherwise a mapped file has holes until its pages are written. If the disk is full then, SIGBUS ends the process.

    Raises:
        OSError: the disk is full; its ``filename`` is ``path``.
    """
    with naming(path):
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _tell(notes: Notes, n: int) -> None:
    """Raise ``UserError`` where files are damaged; print other remarks, each with the first file it is about."""
    if notes.faults:
        raise UserError(
            f"{len(notes.faults)} of {n} image files are damaged, the first: {_first(notes.faults)}; "
            "fetch or delete them"
        )
    if notes.warnings:
        files = {path for path, _ in notes.warnings}
        text = f"{len(files)} of {n} image files were read with a warning, the first: {_first(notes.warnings)}"
        print(f"warning: {text}", file=sys.stderr)
    if notes.several:
        text = f"{len(notes.several)} of {n} image files hold several pictures, of which the first is used"
        print(f"warning: {text}; the first such file: {_first(notes.several)}", file=sys.stderr)


def _first(found: Sequence[tuple[Path, str]]) -> str:
    path, text = found[0]
    return f"{path} ({text})"


def _mapped(folder: Path, part: str) -> Images:
    try:
        # mode c (copy on write): torch may write to the array, and the file does not change
        x = np.load(folder / f"{part}.npy", mmap_mode="c")
        y = np.load(folder / f"{part}-labels.npy")
        content = json.loads((folder / "about.json").read_text())["content"][part]
        return Images(torch.from_numpy(x), torch.from_numpy(y), content)
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is damaged ({error}); delete it and run the command again") from None

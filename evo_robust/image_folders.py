"""Folders of image files, decoded once into memory-mapped arrays that need not fit into memory."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from evo_robust.images import Images, stratified_order
from evo_robust.parts import UserError, digest

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
_PER_JOB = 256

LAYOUT = """\
  train/CLASS/…           images, at any depth below each class's folder
  val/CLASS/…             images of the same classes
  (or val/images/… with val/val_annotations.txt, as Tiny ImageNet comes)"""


@dataclasses.dataclass(frozen=True)
class Listing:
    """Image files with their class indices."""

    files: list[Path]
    labels: list[int]


def class_names(folder: Path) -> list[str]:
    """Names of the folders below ``train`` in alphabetical order: class i is name i. Empty where there are none."""
    train = folder / "train"
    return sorted(entry.name for entry in train.iterdir() if entry.is_dir()) if train.is_dir() else []


def decoded(folder: Path, size: int, seed: int, cache: Path) -> tuple[Images, Images]:
    """Training and validation images ``(n, 3, size, size)`` in ``stratified_order``, mapped from a file in ``cache``.

    Each image is scaled so that its shorter side is ``size``, and cut to its middle. Files are decoded on first use;
    adding or removing files, another size or another seed makes another copy.

    Raises:
        UserError: the layout is not as expected, or a file is damaged; the message names it.
    """
    names = class_names(folder)
    if not names:
        raise UserError(f"no class folders in {folder / 'train'}; expected in {folder}:\n{LAYOUT}")
    target = cache / "images" / digest(str(folder), size, seed, _stamps(folder))
    if not target.is_dir():
        listings = {"train": _train_listing(folder, names), "test": _val_listing(folder, names)}
        _decode_all(listings, size, seed, target)
    return _mapped(target, "train"), _mapped(target, "test")


def _stamps(folder: Path) -> list[tuple[str, int]]:
    """Folders that hold images, and when a file last came or went there."""
    parts = [folder / "train", folder / "val"]
    classes = [entry for part in parts if part.is_dir() for entry in part.iterdir()]
    nested = [entry / "images" for entry in classes]
    existing = [path for path in (*parts, *classes, *nested) if path.exists()]
    return sorted((str(path.relative_to(folder)), path.stat().st_mtime_ns) for path in existing)


def _images_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def _by_class(part: Path, names: Sequence[str]) -> Listing:
    listing = Listing([], [])
    for label, name in enumerate(names):
        files = _images_below(part / name) if (part / name).is_dir() else []
        listing.files.extend(files)
        listing.labels.extend([label] * len(files))
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
        present = {entry.name for entry in part.iterdir() if entry.is_dir()} if part.is_dir() else set()
        unknown = sorted(present - set(names))
        if unknown:
            raise UserError(f"{part / unknown[0]} is no class of {folder / 'train'}; expected in {folder}:\n{LAYOUT}")
        listing = _by_class(part, names)
    if not listing.files:
        raise UserError(f"no images in {part}; expected in {folder}:\n{LAYOUT}")
    return listing


def _annotated(part: Path, annotations: Path, names: Sequence[str]) -> Listing:
    """Images listed in Tiny ImageNet's table: file name, class name, box."""
    index = {name: label for label, name in enumerate(names)}
    listing = Listing([], [])
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        path = part / "images" / file
        if name not in index or not path.is_file():
            fault = f"no file {path}" if name in index else f"unknown class {name!r}"
            raise UserError(f"{annotations}, line {number}: {fault}")
        listing.files.append(path)
        listing.labels.append(index[name])
    return listing


def _decode_all(listings: dict[str, Listing], size: int, seed: int, target: Path) -> None:
    """Write ``target``, whole or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        for part, listing in listings.items():
            labels = np.array(listing.labels, dtype=np.int64)
            # the test images are the same whatever the seed of the split
            order = stratified_order(labels, seed if part == "train" else 0)
            np.save(temporary / f"{part}-labels.npy", labels[order])
            _decode(part, [listing.files[i] for i in order], size, temporary / f"{part}.npy")
        (temporary / "about.json").write_text(json.dumps({"size": size, "split_seed": seed}))
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # another process was first: its files are the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _decode(part: str, files: list[Path], size: int, path: Path) -> None:
    shape = (len(files), 3, size, size)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    starts = range(0, len(files), _PER_JOB)
    # threads: Pillow lets go of the interpreter's lock while it decodes and scales
    parallel = Parallel(n_jobs=-1, prefer="threads", return_as="generator")
    jobs = (delayed(_fill)(array[i : i + _PER_JOB], files[i : i + _PER_JOB], size) for i in starts)
    console = Console(stderr=True)
    done: Iterator[list[str]] = parallel(jobs)
    label = f"decoding {len(files)} {part} images to {size}×{size}"
    if not console.is_terminal:
        print(label, file=sys.stderr)
    faults: list[str] = []
    for found in track(done, label, total=len(starts), console=console, disable=not console.is_terminal):
        faults += found
    array.flush()
    if faults:
        raise UserError(
            f"{len(faults)} of {len(files)} image files are damaged, the first: {faults[0]}; fetch or delete them"
        )


def _fill(out: np.ndarray, files: Sequence[Path], size: int) -> list[str]:
    """Decode ``files`` into uint8 ``(n, 3, size, size)``; the files that cannot be read, with the reason."""
    faults = []
    for row, path in zip(out, files, strict=True):
        try:
            with Image.open(path) as image:
                image.draft("RGB", (size, size))  # JPEG: skip the detail that scaling would throw away
                fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
            row[:] = np.asarray(fitted).transpose(2, 0, 1)
        except (OSError, SyntaxError, ValueError) as error:
            faults.append(f"{path} ({error})")
    return faults


def _mapped(folder: Path, part: str) -> Images:
    try:
        # mode c: private pages, so torch may treat the array as its own while the file stays as it is
        x = np.load(folder / f"{part}.npy", mmap_mode="c")
        y = np.load(folder / f"{part}-labels.npy")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder} is damaged ({error}); delete it and run the command again") from None
    return Images(torch.from_numpy(x), torch.from_numpy(y))

"""Single image files: which formats are read, and how a file becomes eight-bit pixels."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

_NAMES = "apng avif bmp dib gif j2c j2k jfif jp2 jpe jpeg jpf jpg jpx pbm pgm png pnm ppm tga tif tiff webp"
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
"""Suffixes of formats that usually hold one image. Documents and icons are not read, only counted."""

# Formats for which Pillow uses its 32-bit mode for 16-bit values.
_SIXTEEN_BITS = ("PNG", "PPM")


@dataclasses.dataclass
class Notes:
    """Files to report to the user, as lists of ``(path, text)``.

    Attributes:
        faults: files that cannot be used.
        warnings: files that were read, though the image library warned.
        several: files with several pictures, of which the first was used.
    """

    faults: list[tuple[Path, str]] = dataclasses.field(default_factory=list)
    warnings: list[tuple[Path, str]] = dataclasses.field(default_factory=list)
    several: list[tuple[Path, str]] = dataclasses.field(default_factory=list)


_at_work = threading.local()


@contextlib.contextmanager
def warnings_by_file() -> Iterator[None]:
    """While threads read files, put each warning into the notes of the file that it is about.

    Python shows warnings in the same way in all threads, so the caller that starts the threads enters this once.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show = warnings.showwarning

        def keep(message: Warning | str, *about: Any, **more: Any) -> None:
            found = getattr(_at_work, "found", None)
            if found is None:
                show(message, *about, **more)
            else:
                found.append(str(message))

        warnings.showwarning = keep
        yield


def read_images(out: np.ndarray, files: Sequence[Path], size: int) -> tuple[Notes, list[bytes]]:
    """Decode ``files`` into ``out``, uint8 ``(n, 3, size, size)``; returns notes for the user, and a digest per image.

    Each image is scaled so that its shorter side is ``size``, and cropped to its centre.
    """
    notes, digests = Notes(), []
    for row, path in zip(out, files, strict=True):
        _at_work.found = []
        try:
            with Image.open(path) as image:
                pictures = getattr(image, "n_frames", 1)
                if pictures > 1:
                    notes.several.append((path, f"{pictures} pictures"))
                image.draft("RGB", (size, size))  # JPEG: skip the detail that scaling would throw away
                fitted = ImageOps.fit(_eight_bits(image).convert("RGB"), (size, size), Image.Resampling.BICUBIC)
            row[:] = np.asarray(fitted).transpose(2, 0, 1)
        except Exception as error:  # damaged files make Pillow raise almost anything; the message names the file
            notes.faults.append((path, str(error) or type(error).__name__))
        notes.warnings += [(path, text) for text in _at_work.found]
        digests.append(hashlib.sha256(row).digest())
    _at_work.found = None
    return notes, digests


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits; a grey one of 16 bits is scaled (65535 becomes 255), where Pillow would clip at 255.

    Raises:
        ValueError: it has more than 16 bits or floats, so that the value of white is unknown.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS):
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"its values are of mode {image.mode}: expected 8 or 16 bits per channel")
    return image

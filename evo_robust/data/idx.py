"""Reads idx files, the format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np


def idx_bytes(path: Path) -> bytes:
    """Content of an idx file, or of the same file gzipped (``path`` with ``.gz``).

    Raises:
        OSError: neither file exists.
        ValueError: the gzipped file is damaged.
    """
    if path.exists():
        return path.read_bytes()
    packed = path.with_name(path.name + ".gz")
    try:
        return gzip.decompress(packed.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{packed.name} is damaged: {error}") from None


def read_idx(path: Path) -> np.ndarray:
    """Array of uint8 in an idx file, or in the same file gzipped (``path`` with ``.gz``).

    Raises:
        OSError: neither file exists.
        ValueError: the file is no idx file of bytes, is damaged, or its length differs from its header.
    """
    content = idx_bytes(path)
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path.name} is damaged: expected an idx file of bytes")
    header = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:header], dtype=">u4").tolist())
    if len(content) != header + math.prod(shape):
        raise ValueError(f"{path.name} is damaged: expected {header + math.prod(shape)} bytes, got {len(content)}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)

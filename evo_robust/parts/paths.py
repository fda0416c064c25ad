"""Paths that users type: checks of impossible ones, and several separated by commas."""

from __future__ import annotations

import os
from collections.abc import Sequence

PATH = {"path": True}
"""``chz.field(metadata=PATH)`` marks a command's field with a path, or several separated by commas."""

LONGEST_NAME = 255
"""Largest number of bytes in the name of a file or folder, on common file systems."""

LONGEST_PATH = 4096
"""Largest number of bytes in a whole path, on Linux."""


def at_home(text: str) -> str:
    """One or several paths (with commas) with ``~`` replaced by the home folder; shells do not do so in ``run=~/x``."""
    return ",".join(map(os.path.expanduser, text.split(",")))


def refuse_odd_path(key: str, text: str | None) -> None:
    """Refuse a path that is empty or cannot exist; None means that no path was given.

    Raises:
        ValueError: the path is refused; the message names the key and what is wrong.
    """
    if text is None:
        return
    if not text.strip():
        raise ValueError(f"{key}={text}: expected a path, got nothing; leave {key} out to use its default")
    if "\0" in text:
        raise ValueError(f"{key}={text!r}: expected a path, got one with a zero byte")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{key}={text!r}: expected a path in UTF-8") from None
    name = max(text.split(os.sep), key=lambda part: len(part.encode()))
    if (n := len(name.encode())) > LONGEST_NAME:
        raise ValueError(f"{key}={name[:24]}…: expected names of at most {LONGEST_NAME} bytes, got one of {n}")
    if (n := len(text.encode())) >= LONGEST_PATH:
        raise ValueError(f"{key}={text[:24]}…: expected a path of less than {LONGEST_PATH} bytes, got {n}")


def refuse_odd_paths(key: str, texts: Sequence[str]) -> None:
    """Refuse several paths if one of them is empty or cannot exist.

    Raises:
        ValueError: a path is refused; the message names the key and what is wrong.
    """
    for text in texts:
        refuse_odd_path(key, text)


MOST_FOLDERS = 256
"""Largest number of folders in one argument, since all ways to split it at commas are tried."""


def folders_of(parts: Sequence[str]) -> tuple[str, ...]:
    """Folders in a text that was split at its commas; a folder's name may have commas, and the longest one is taken.

    Raises:
        ValueError: there are too many.
    """
    if len(parts) > MOST_FOLDERS:
        raise ValueError(f"expected at most {MOST_FOLDERS} folders at once, got {len(parts):,}")
    found, start = [], 0
    while start < len(parts):
        ends = range(len(parts), start, -1)
        end = next((end for end in ends if os.path.isdir(",".join(parts[start:end]))), start + 1)
        found.append(",".join(parts[start:end]))
        start = end
    return tuple(found)

"""Folders and files that people name: what no file system could hold, and commas between several."""

from __future__ import annotations

import os
from collections.abc import Sequence

PATH = {"path": True}
"""``chz.field(metadata=PATH)`` marks a field of a command that names a file or folder, or several with commas."""

LONGEST_NAME = 255
"""Bytes of the name of a file or folder, on the file systems in use."""

LONGEST_PATH = 4096
"""Bytes of a whole path, on Linux."""


def at_home(text: str) -> str:
    """A path, or several with commas between, in which ``~`` is the home folder; shells leave ``run=~/x`` as it is."""
    return ",".join(map(os.path.expanduser, text.split(",")))


def refuse_odd_path(key: str, text: str | None) -> None:
    """Refuse a path that names nothing or cannot exist; None is one that was not given.

    Raises:
        ValueError: naming the key and what is wrong.
    """
    if text is None:
        return
    if not text.strip():
        raise ValueError(f"{key}={text}: expected a path, got nothing; leave {key} out for what it is by default")
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
    """Refuse the first odd one of several paths.

    Raises:
        ValueError: naming the key and what is wrong.
    """
    for text in texts:
        refuse_odd_path(key, text)


MOST_FOLDERS = 256
"""Folders that a command takes at once; every beginning of them is looked for."""


def folders_of(parts: Sequence[str]) -> tuple[str, ...]:
    """Folders of a text that was parted at its commas; where a folder's own name has some, the longest one is meant.

    Raises:
        ValueError: too many.
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

"""The version of this package."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]


def version() -> str:
    """What is installed, such as ``0.1.0``; of a checkout that is not installed, what its ``pyproject.toml`` says."""
    try:
        return importlib.metadata.version("evo_robust")
    except importlib.metadata.PackageNotFoundError:
        return version_of(_CHECKOUT)


def version_of(checkout: Path) -> str:
    """The version that a checkout's ``pyproject.toml`` says, marked as a checkout; ``unknown`` without one."""
    try:
        project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return f"{project['version']}+checkout" if project["name"] == "evo_robust" else "unknown"
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"

"""Where the checkout lies, and the development data beside it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

DATA = Path(os.environ.get("EVO_ROBUST_DATA") or ROOT.parent / "shared" / "data")
"""Real CIFAR-10, MNIST and NAS-RobBench-201; tests that use it skip where it is absent."""

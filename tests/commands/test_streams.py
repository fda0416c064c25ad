"""Output that knows few letters, is full, closed or no longer read: no traceback, and the right exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("streams")
    (place / "problems").mkdir()
    (place / "problems" / "greek.py").write_text('"""ε and Δ, … at α."""\n', encoding="utf-8")
    return place


def ended(command: str, place: Path, **environment: str) -> tuple[int, str, str]:
    """Exit status, output and errors of ``evo_robust`` in a shell."""
    text = command.replace("evo_robust", f"'{sys.executable}' -m evo_robust")
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(["bash", "-c", text], cwd=place, env=env, capture_output=True, timeout=300)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.skipif(os.name == "nt", reason="needs a shell of POSIX")
@pytest.mark.parametrize(
    ("command", "status", "out", "err"),
    [
        ("evo_robust", 0, r"[key=value \u2026]", ""),
        ("evo_robust list", 0, r"greek: \u03b5 and \u0394, \u2026 at \u03b1.", ""),
        ("evo_robust > /dev/full", 2, "", "error: standard output: No space left on device\n"),
        ("evo_robust list > /dev/full", 2, "", "error: standard output: No space left on device"),
        ("evo_robust >&-", 0, "", ""),
        ("evo_robust list >&-", 0, "", ""),
        ("evo_robust run problem=nope 2>&-", 2, "", ""),
        ("evo_robust list | head -n 1; exit ${PIPESTATUS[0]}", 0, "problems (run problem=NAME scale=SCALE)\n", ""),
    ],
)
def test_output_of_few_letters_full_or_closed(command: str, status: int, out: str, err: str, place: Path) -> None:
    found, said, errors = ended(command, place, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert found == status, errors
    assert out in said and err in errors
    assert "Traceback" not in errors and errors.count("\n") == (1 if err else 0)
    if not out:
        assert said == ""

"""What ends a command ends it with one line, its exit status, its lock given back and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evo_robust import signals
from evo_robust.commands.cli import command

COMMANDS = ("run", "plot", "export", "retrain", "analyze")
LINES = {
    signal.SIGINT: "interrupted; the same command goes on where it stopped",
    signal.SIGTERM: "ended by SIGTERM; the same command goes on where it stopped",
    signal.SIGHUP: "ended by SIGHUP; the same command goes on where it stopped",
}
PATIENCE = 120.0  # seconds, on a machine with much else to do


def start(*arguments: str) -> subprocess.Popen[str]:
    """Python with the signals as a terminal gives them, whatever this process was started with."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in LINES],
    )


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end and process.poll() is None, "it came to an end, or took too long"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc for what a process has loaded")
def test_ctrl_c_while_torch_is_imported_says_one_line() -> None:
    """The moment comes before the command's own code."""
    found = {}
    for name in COMMANDS:
        number = signal.SIGTERM if name == "plot" else signal.SIGINT
        process = start("-m", f"evo_robust.{name}")
        wait_until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(), process)  # noqa: B023
        process.send_signal(number)
        found[name] = (process.communicate(timeout=PATIENCE)[1].strip(), process.returncode)
        assert found[name] == (LINES[number], 128 + number)


def test_a_signal_after_everything_is_done_changes_no_status() -> None:
    """While Python clears its modules away, which takes tenths of a second."""
    process = start("-m", "evo_robust.plot", "run=nowhere")
    assert process.stderr is not None and process.stderr.readline().startswith("error: nowhere is no run folder")
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=PATIENCE)[1].strip()
    # on a busy machine it may not have come so far
    assert (process.returncode, said) in ((2, ""), (143, LINES[signal.SIGTERM]))


def test_a_program_that_imports_the_package_keeps_its_own_answers(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(
        "import signal, sys\n"
        "from evo_robust import signals\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, 'SIGINT'\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, 'SIGTERM'\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "theirs"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent.parent}"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in LINES],
    )
    assert process.communicate(timeout=PATIENCE)[1] == "" and process.returncode == 0


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals are not ignored, as they are where tests run in the background (``nohup … &``)."""
    before = {number: signal.getsignal(number) for number in LINES}
    for number in LINES:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", LINES)
def test_a_signal_ends_a_command_with_its_status(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = {n: signal.getsignal(n) for n in LINES}
    put_away = []

    @command
    def main(argv: list[str] | None) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(PATIENCE)
        except Exception:
            pytest.fail("as if it were a mistake")
        finally:
            put_away.append(True)
        return 0

    assert main([]) == 128 + number
    assert capsys.readouterr().err.strip() == LINES[signal.Signals(number)]
    assert put_away and {n: signal.getsignal(n) for n in LINES} == before


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        @command
        def main(argv: list[str] | None) -> int:
            os.kill(os.getpid(), signal.SIGHUP)  # nohup: the terminal is closed and the search goes on
            return 0

        assert main([]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


STUBBORN = """
import os, signal, sys, time
from evo_robust import signals
from evo_robust.commands import cli
signals._GRACE = 0.5
@cli.command
def main(argv):
    try:
        print("at work", flush=True)
        time.sleep(600)
    finally:
        {cleaning}
sys.exit(main(None))
"""


@pytest.mark.parametrize(
    "cleaning", ["time.sleep(600)", "os.kill(os.getpid(), signal.SIGTERM)"], ids=["endless", "twice"]
)
def test_a_command_that_cannot_put_things_away_ends_all_the_same(cleaning: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN.format(cleaning=cleaning)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=PATIENCE)[1].strip() == LINES[signal.SIGTERM]
    assert process.returncode == 143


def test_only_programs_of_this_package_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv, mine in (
        (["python", "-m", "evo_robust.run", "problem=roco"], True),
        (["python", "-u", "-Xdev", "-Im", "evo_robust.plot"], True),
        (["python", "-m", "pytest", "-m", "evo_robust.run"], False),
        (["python", "search.py"], False),
    ):
        monkeypatch.setattr(sys, "orig_argv", argv)
        monkeypatch.setattr(sys, "argv", ["-m", *argv[3:]])
        assert signals._command_starts() is mine
        monkeypatch.setattr(sys, "argv", ["/somewhere/run.py"])  # once the module is found
        assert not signals._command_starts()

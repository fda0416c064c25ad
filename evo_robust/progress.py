"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import abc
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from evo_robust.parts.plain import visible

Say = Callable[[str], None]
"""Takes one line of progress text."""


def silent(_: str) -> None:
    """Progress text that goes nowhere."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a search stands after a generation.

    The hypervolume is the share of the run's own box that the front covers. The box goes from zero to a tenth beyond
    the worst values of the first generation; ``hypervolume.json`` keeps it.
    """

    generation: int
    evaluations: int
    hypervolume: float
    front: int
    seconds: float


class _Plain(Console):
    """Shows text as it stands: brackets in names are no markup, and what is unseen in them is an escape."""

    def render_str(self, text: str, **options: Any) -> Text:
        """See :class:`rich.console.Console`; the text of every line, cell and title comes by here."""
        return super().render_str(visible(text), **options)


def output() -> Console:
    """The terminal, or plain lines wide enough for tables where output is kept in a file."""
    width = None if sys.stdout.isatty() else 120
    return _Plain(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


class Reporter(abc.ABC):
    """Is told how a search goes."""

    @abc.abstractmethod
    def say(self, text: str) -> None:
        """One line of text."""

    def start(  # noqa: B027 (silent ones need none of these)
        self, total: int, known: int, *, co_trained: bool = False
    ) -> None:
        """The search begins; ``known`` of ``total`` evaluations are in the record.

        ``co_trained``: every generation trains weights too, the first one perhaps many more epochs than the others.
        """

    def evaluated(self, row: dict[str, Any], replayed: bool) -> None:  # noqa: B027
        """A candidate was evaluated or taken from the record."""

    def generation(self, progress: Progress, n_gen: int) -> None:  # noqa: B027
        """A generation is over."""

    def stop(self) -> None:  # noqa: B027
        """The search is over."""


class Silent(Reporter):
    """Says nothing."""

    def say(self, text: str) -> None:
        """See :meth:`Reporter.say`."""


class _TimeLeft(TimeRemainingColumn):
    """By the pace of the last candidates; from the task's ``ends`` where there is one (NaN: nobody can know)."""

    def render(self, task: Task) -> Text:
        """See :class:`rich.progress.ProgressColumn`."""
        if "ends" not in task.fields:
            return super().render(task)
        left = task.fields["ends"] - time.monotonic()
        return Text(duration(0.0 if left < 0 else left), style="progress.remaining")


class Printed(Reporter):
    """Lines per generation; on a terminal also a bar of evaluations with the time left."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or output()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._began = time.monotonic()
        self._total = 0
        self._measured = 0
        self._seen = 0
        self._co_trained = False

    def say(self, text: str) -> None:
        """See :meth:`Reporter.say`."""
        self.console.print(text, markup=False, soft_wrap=True)

    def start(self, total: int, known: int, *, co_trained: bool = False) -> None:
        """See :meth:`Reporter.start`."""
        self._began, self._total, self._co_trained = time.monotonic(), total, co_trained
        if known:
            self.say(f"resuming: {known} evaluations are in the record")
        if self.console.is_terminal:
            self._bar = Bar(
                *(TextColumn("evaluations"), BarColumn(), MofNCompleteColumn(), _TimeLeft()),
                console=self.console,
            )
            self._bar.start()
            # candidates that arrive know nothing of the training that comes before the next ones
            fields: dict[str, Any] = {"ends": float("nan")} if co_trained else {}
            self._task = self._bar.add_task("evaluations", total=total, **fields)

    def evaluated(self, row: dict[str, Any], replayed: bool) -> None:
        """See :meth:`Reporter.evaluated`."""
        self._seen += 1
        self._measured += not replayed
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)
        if row["status"] == "failed" and not replayed:
            self.say(f"  candidate {row['id']} failed: {row['error']}")

    def generation(self, progress: Progress, n_gen: int) -> None:
        """See :meth:`Reporter.generation`."""
        now = time.monotonic()
        pace = (now - self._began) / self._measured if self._measured else float("nan")
        if progress.generation == 1:
            # it pays for what comes once (workers that start, a warm-up of weights): the others tell better
            self._began, self._measured = now, 0
            pace = float("nan") if self._co_trained else pace
        left = pace * max(0, self._total - self._seen)
        if self._co_trained and self._bar is not None and self._task is not None:
            self._bar.update(self._task, ends=now + left)
        ahead = "" if progress.generation >= n_gen else f"  left {duration(left)}"
        self.say(
            f"generation {progress.generation:>3}/{n_gen}  evaluations {progress.evaluations:>4}"
            f"  hypervolume {progress.hypervolume:.4f}  front {progress.front:>3}"
            f"  time {duration(progress.seconds)}{ahead}"
        )

    def stop(self) -> None:
        """See :meth:`Reporter.stop`."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    """``75.2`` as ``1:15``, ``7200`` as ``2:00:00``; ``?`` when unknown."""
    if seconds != seconds:
        return "?"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"

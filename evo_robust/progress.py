"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import abc
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from evo_robust.parts.plain import visible

_TOGETHER = 12
"""Least number of characters of a name on one line, even on a narrow terminal."""

Say = Callable[[str], None]
"""A function that takes one line of progress text."""


def silent(_: str) -> None:
    """Ignore progress text."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """The state of a search after a generation.

    The hypervolume is the share of the run's own box that the front covers. The box goes from zero to a tenth beyond
    the worst values of the first generation; ``hypervolume.json`` keeps it.
    """

    generation: int
    evaluations: int
    hypervolume: float
    front: int
    seconds: float


class _Plain(Console):
    """Shows text literally: brackets in names are no markup, and invisible characters become escapes."""

    def on_broken_pipe(self) -> None:
        """See :class:`rich.console.Console`, which would end the process: whoever reads (``… | head``) has enough."""
        raise BrokenPipeError

    def render_str(self, text: str, **options: Any) -> Text:
        """See :class:`rich.console.Console`; it gets the text of every line, cell and title."""
        return super().render_str(visible(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """See :class:`rich.console.Console`; a table gets columns that fit, and no name in it is cut."""
        for shown in objects:
            if isinstance(shown, Table):
                self._print_table(shown, **options)
            else:
                super().print(shown, **options)
        if not objects:
            super().print(**options)

    def _print_table(self, shown: Table, **options: Any) -> None:
        # printed separately, so that they wrap at the terminal's width, not at that of a narrow table
        title, shown.title = shown.title, None
        caption, shown.caption = shown.caption, None
        if title:
            super().print(title, style="bold", soft_wrap=not self.is_terminal)
        fit(shown, self)
        super().print(shown, **options)
        if caption:
            super().print(caption, soft_wrap=not self.is_terminal)


def table(title: str, *, words: Sequence[str] = (), numbers: Sequence[str] = ()) -> Table:
    """An empty table in the form that all commands use: columns of words, then columns of numbers."""
    made = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in words:
        made.add_column(name)
    for name in numbers:
        made.add_column(name, justify="right")
    return made


def fit(shown: Table, console: Console) -> None:
    """Set the widths of a table's columns for the console: their full width if there is room.

    Otherwise lines break at blanks; then gaps get narrower; then names break anywhere. Numbers never break, so a table
    may still be wider than the console.
    """
    cells = [[str(cell) for cell in (column.header, *column.cells)] for column in shown.columns]
    natural = [max(cell_len(line) for text in texts for line in text.split("\n")) for texts in cells]
    words = [max([cell_len(word) for text in texts for word in text.split()] or [1]) for texts in cells]
    numbers = [column.justify == "right" for column in shown.columns]
    names = [word if number else min(word, _TOGETHER) for word, number in zip(words, numbers, strict=True)]
    for least, gap in ((words, 1), (words, 0), (names, 0)):
        shown.padding = (0, gap)
        unlimited = console.options.update(width=10**6, no_wrap=False)
        frame = console.measure(shown, options=unlimited).maximum - sum(natural)
        widths = _shrunk(natural, least, console.width - frame)
        if sum(widths) + frame <= console.width:
            break
    shown.width = sum(widths) + frame
    for column, width in zip(shown.columns, widths, strict=True):
        column.width, column.no_wrap, column.overflow, column.min_width = width, False, "fold", None


def _shrunk(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """The widths, reduced where there is most to spare, until their sum is ``room`` or all are ``least``."""
    widths = list(widths)
    while sum(widths) > room:
        k = max(range(len(widths)), key=lambda k: widths[k] - least[k])
        if widths[k] <= least[k]:
            break
        widths[k] -= 1
    return widths


def output() -> Console:
    """The terminal; or, where output goes to a file, plain lines wide enough for tables."""
    width = None if sys.stdout.isatty() else 120
    return _Plain(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


class Reporter(abc.ABC):
    """Receives the progress of a search."""

    @abc.abstractmethod
    def say(self, text: str) -> None:
        """Print one line of text."""

    def start(  # noqa: B027 (silent ones need none of these)
        self, total: int, known: int, *, co_trained: bool = False
    ) -> None:
        """The search begins; ``known`` of ``total`` evaluations are in the record.

        With ``co_trained``, every generation also trains weights, and the first one may train many more epochs.
        """

    def evaluated(self, row: dict[str, Any], replayed: bool) -> None:  # noqa: B027
        """A candidate was evaluated or taken from the record."""

    def generation(self, progress: Progress, n_gen: int | None) -> None:  # noqa: B027
        """A generation is over, of ``n_gen`` where that is known."""

    def stop(self) -> None:  # noqa: B027
        """The search is over."""


class Silent(Reporter):
    """Says nothing."""

    def say(self, text: str) -> None:
        """See :meth:`Reporter.say`."""


class _TimeLeft(TimeRemainingColumn):
    """Time left by the pace of the last candidates, or from the task's ``ends`` if it is set (NaN: unknown)."""

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
            # the pace of candidates does not include the training before the next generation
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

    def generation(self, progress: Progress, n_gen: int | None) -> None:
        """See :meth:`Reporter.generation`."""
        now, fresh = time.monotonic(), self._measured > 0  # a replay takes no time
        pace = (now - self._began) / self._measured if self._measured else float("nan")
        if progress.generation == 1:
            # its time includes things done once (starting workers, a warm-up of weights), so leave it out
            self._began, self._measured = now, 0
            pace = float("nan") if self._co_trained else pace
        left = pace * max(0, self._total - self._seen)
        if self._co_trained and self._bar is not None and self._task is not None:
            self._bar.update(self._task, ends=now + left)
        ahead = f"  left {duration(left)}" if fresh and n_gen is not None and progress.generation < n_gen else ""
        of = "" if n_gen is None else f"/{n_gen}"
        self.say(
            f"generation {progress.generation:>3}{of}  evaluations {progress.evaluations:>4}"
            f"  own-box hypervolume {progress.hypervolume:.4f}  front {progress.front:>3}"
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

"""Tables use the width that there is: no name and no number is cut, and all commands have one form."""

from __future__ import annotations

import io
import re

import pytest
from rich.table import Table
from test_plot import NAMES, write_run

from evo_robust import export, plot
from evo_robust.plotting.compare import shown_columns, standings
from evo_robust.plotting.size import correlations
from evo_robust.plotting.terminal import front_table, size_table, standings_table
from evo_robust.progress import _Plain, table
from evo_robust.record.reading import load_run
from evo_robust.record.view import view_of


def printed(shown: Table, width: int) -> list[str]:
    file = io.StringIO()
    console = _Plain(file=file, width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)
    shown.title = shown.caption = None
    console.print(shown)
    return file.getvalue().splitlines()


@pytest.fixture
def tables(tmp_path):
    """Makers of the widest tables: two runs with long names and many columns."""
    first = write_run(tmp_path / "share-0.5-seed-0", NAMES)
    second = write_run(tmp_path / "a-random-search-with-a-long-name", NAMES, seed=3)
    views = [view_of(load_run(folder)) for folder in (first, second)]
    names = list(NAMES)
    return {
        "front": lambda: front_table(views[0]),
        "size": lambda: size_table(correlations(views[0])),
        "standings": lambda: standings_table(standings(views, names), shown_columns(views, names)),
    }


def words_of(shown: Table) -> list[str]:
    cells = [str(cell) for column in shown.columns for cell in (column.header, *column.cells)]
    return [word for cell in cells for word in cell.split()]


@pytest.mark.parametrize("name", ["front", "size", "standings"])
@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_nothing_is_cut_at_any_width(tables, name, width):
    lines = printed(tables[name](), width)
    text = "\n".join(lines)
    assert "…" not in text
    found = re.findall(r"\S+", text)
    for word in words_of(tables[name]()):
        if len(word) <= 12:  # longer names may be broken, and no number is so long
            assert word in found


@pytest.mark.parametrize("name", ["front", "size", "standings"])
def test_a_wide_terminal_is_used(tables, name):
    lines = printed(tables[name](), 400)
    assert max(map(len, lines)) > 80
    for text in (str(cell) for column in tables[name]().columns for cell in column.cells):
        assert not text or any(text in line for line in lines), "broken, though there is room"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_table_is_no_wider_than_its_terminal_where_that_is_possible(width):
    shown = table("x", words=("architecture",), numbers=("clean error\n(%)", "n"))
    shown.add_row("(max_pool_3x3,0)(dil_conv_3x3,1) | (skip_connect,0)(skip_connect,2)", "12.20", "1,000")
    lines = printed(shown, width)
    assert max(map(len, lines)) <= width
    assert "12.20" in "\n".join(lines) and "1,000" in "\n".join(lines)


def test_export_tells_figures_as_the_front_does(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    assert plot.main([f"run={folder}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    view = view_of(load_run(folder))
    front = next(line.split() for line in lines if re.match(rf" *{view.knee} ", line))
    header = next(i for i, line in enumerate(lines) if line.lstrip().startswith("#"))
    arguments = [f"run={folder}", "pick=knee", "weights=false", f"out={tmp_path / 'knee'}"]
    assert export.main(arguments) == 0
    told = capsys.readouterr().out
    line = next(line.split() for line in told.splitlines() if line.startswith(" knee"))
    row = view.run.front[view.knee]
    assert line[:2] == ["knee", str(row["id"])]
    assert line[2:6] == front[1:5], "three objectives and the parameters"
    assert " ".join(lines[header].split()[1:4]) in " ".join(told.split())
    # what a budget limits is told too
    assert export.main([*arguments[:-1], f"out={tmp_path / 'small'}", "budget=robust_error<0.9"]) == 0
    assert "robust error" in " ".join(capsys.readouterr().out.split())

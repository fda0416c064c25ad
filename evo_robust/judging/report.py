"""A judgement for people: in the terminal, and as CSV, Markdown and LaTeX."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from evo_robust.correlations import signed
from evo_robust.files import write_csv, write_text
from evo_robust.judging.judgement import Figure, Judgement, Verdict
from evo_robust.judging.named import SAMPLES
from evo_robust.judging.pictures import Agreement, by_search, draw, hardest
from evo_robust.judging.published import Printed, labels_of, mean_of, others_of, printed_of, value_of
from evo_robust.judging.searches import cost_of, costs_below
from evo_robust.judging.tops import Top, pairs, tops, training_of
from evo_robust.progress import table

PER_TABLE = 4
"""Most columns of accuracies in one table of a terminal."""


PRINTED = "  printed: "
"""How the first cell of a row begins that holds what a paper prints of the network above it."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table as texts.

    Attributes:
        words: heads of the columns with words.
        numbers: heads of the columns with numbers, right of them.
        rows: cells, as many as heads.
        fixed: how many of the number columns say what the network is, and stand in every part of a wide table.
    """

    words: tuple[str, ...]
    numbers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    fixed: int

    @property
    def heads(self) -> tuple[str, ...]:
        """Heads of all columns."""
        return self.words + self.numbers

    def parts(self, most: int) -> list[Grid]:
        """The same in tables of at most ``most`` columns of accuracies each."""
        free = len(self.numbers) - self.fixed
        if free <= most:
            return [self]
        begin = len(self.words) + self.fixed
        found = []
        for start in range(0, free, most):
            places = [*range(begin), *range(begin + start, min(begin + start + most, len(self.heads)))]
            # what the network is need not be said again
            places = places if start == 0 else [p for p in places if p == 0 or p >= begin]
            words = tuple(self.heads[p] for p in places if p < len(self.words))
            numbers = tuple(self.heads[p] for p in places if p >= len(self.words))
            rows = [tuple(row[p] for p in places) for row in self.rows]
            if start:  # papers print nothing there
                rows = [row for row in rows if not row[0].startswith(PRINTED) or set(row[1:]) != {"–"}]
            found.append(Grid(words, numbers, tuple(rows), self.fixed if start == 0 else 0))
        return found


def write_report(judgement: Judgement, folder: Path) -> list[Table | Path | str]:
    """Write every form of the table into a folder; returns what a terminal shows, in order."""
    grid = grid_of(judgement, others=True)
    files = [folder / f"judgement.{end}" for end in ("csv", "md", "tex")]
    write_figures(judgement, files[0])
    write_text(files[1], "\n\n".join([markdown(grid, caption(judgement)).rstrip(), *signs(judgement)]) + "\n")
    write_text(files[2], latex(grid, caption(judgement)))
    shown: list[Table | str] = [*tables(judgement), *signs(judgement)]
    if found := by_search(judgement):
        files.append(folder / "searched-judged.csv")
        write_agreements(found, files[-1])
        shown.append(_agreement_table(found, judgement))
    if best := tops(judgement):
        files.append(folder / "tops.csv")
        write_tops(best, files[-1])
        shown.append(_tops_table(best, judgement))
    if close := pairs(judgement):
        files.append(folder / "pairs.csv")
        write_pairs(close, judgement, files[-1])
    return [*shown, *files, *draw(judgement, folder)]


def signs(judgement: Judgement) -> list[str]:
    """Signs of masked gradients, as lines, of each network that was looked at."""
    found: list[str] = []
    for verdict in judgement.verdicts:
        if verdict.signs:
            found += [f"{verdict.name} shows signs of masked gradients:", *(f"- {sign}" for sign in verdict.signs)]
    sound = [verdict.name for verdict in judgement.verdicts if verdict.signs == ()]
    if len(sound) == len(judgement.verdicts) > 1:
        return [f"None of the {len(sound)} networks shows a sign of masked gradients."]
    return found + ([f"No sign of masked gradients: {', '.join(sound)}."] if sound else [])


def percent(share: float) -> str:
    """A share as a percentage with two places, without its sign."""
    return f"{100 * share:.2f}"


def with_interval(figure: Figure) -> str:
    """An accuracy in percent with half the width of its 95 % interval, such as ``52.10 ±2.19``."""
    low, high = figure.interval
    return f"{percent(figure.accuracy)} ±{50 * (high - low):.2f}"


def millions(number: float | None) -> str:
    """A number of parameters or FLOPs in millions; a dash where it is not known."""
    return "–" if number is None else f"{number / 1e6:.3g}" if number < 1e8 else f"{number / 1e6:,.0f}"


def grid_of(judgement: Judgement, *, others: bool = False) -> Grid:
    """The table: a line for each network, then what papers print of it; a column for each trial and strength.

    Args:
        judgement: what is shown.
        others: whether networks that only papers have stand there too.
    """
    heads, means = judgement.columns, judgement.means
    papers = {id(verdict): _papers(verdict, judgement) for verdict in judgement.verdicts}
    told = [p.search_hours for found in papers.values() for p in found]
    costs = any(hours is not None for hours in [*told, *(v.search_hours for v in judgement.verdicts)])
    sizes = ("params (M)", "FLOPs (M)", *(["search (h)"] if costs else []))
    numbers = (*sizes, *heads, *(f"{name} mean" for name in means))
    rows: list[tuple[str, ...]] = []
    shown: list[Printed] = []
    by_head = {figure.column: figure for verdict in judgement.verdicts for figure in verdict.figures}
    for verdict in judgement.verdicts:
        rows.append(_row(verdict, heads, means, costs))
        found = papers[id(verdict)]
        shown += found
        for printed, label in zip(found, labels_of(found), strict=True):
            rows.append(_printed_row(printed, f"{PRINTED}{label}", heads, by_head, means, costs))
    if others:
        for printed in others_of(shown, judgement):
            name = f"{printed.model} (printed: {printed.source})"
            rows.append(_printed_row(printed, name, heads, by_head, means, costs))
    return Grid(("network", "training"), numbers, tuple(rows), fixed=len(sizes))


def _papers(verdict: Verdict, judgement: Judgement) -> list[Printed]:
    """What papers print of a network, and below that, of the cost of its search."""
    return [*printed_of(verdict, judgement), *costs_below(verdict, judgement)]


def _printed_row(
    printed: Printed, name: str, heads: Sequence[str], by_head: Mapping[str, Figure], means: Sequence[str], costs: bool
) -> tuple[str, ...]:
    """The line of what a paper prints."""
    values = [value_of(printed, by_head[head]) if head in by_head else None for head in heads]
    averages = [mean_of(printed, name, by_head.values()) for name in means]
    training = printed.training or ("not told" if printed.accuracy else "–")
    return (
        *(name, training, millions(printed.params), "–", *([_printed_hours(printed) or "–"] if costs else [])),
        *("–" if value is None else f"{value:.2f}" for value in values),
        *("–" if average is None else f"{average:.2f}" for average in averages),
    )


def _row(verdict: Verdict, heads: Sequence[str], means: Sequence[str], costs: bool) -> tuple[str, ...]:
    seed = "" if verdict.seed is None else f", seed {verdict.seed}"
    found = {figure.column: with_interval(figure) for figure in verdict.figures}
    averages = [percent(verdict.means[name]) if name in verdict.means else "–" for name in means]
    return (
        *(verdict.name, f"{verdict.recipe or 'not known'}{seed}", millions(verdict.params), millions(verdict.flops)),
        *([_hours(verdict)] if costs else []),
        *(found.get(head, "–") for head in heads),
        *averages,
    )


def _hours(verdict: Verdict) -> str:
    """What the search cost, such as ``0.05 (cpu)``."""
    return "–" if verdict.search_hours is None else f"{verdict.search_hours:.2g} ({verdict.searched_on or 'not known'})"


def _printed_hours(printed: Printed) -> str:
    """What a paper's search cost, such as ``86.4 (gpu)``; empty where it does not tell."""
    if printed.search_hours is None:
        return ""
    return f"{round(printed.search_hours, 1):,g} (gpu{', estimated' if printed.estimated else ''})"


def caption(judgement: Judgement) -> str:
    """What the numbers are, in a sentence or two."""
    return (
        f"Accuracy in percent on {judgement.n:,} test images of {judgement.data}, ± half of its 95 % interval; "
        "pixels are in 0..1."
    )


def tables(judgement: Judgement) -> list[Table]:
    """The table for a terminal: of one network a line for each attack, else a line for each network."""
    if len(judgement.verdicts) == 1:
        return [_of_one(judgement, judgement.verdicts[0])]
    found: list[Table] = []
    for part in grid_of(judgement).parts(PER_TABLE):
        made = table(caption(judgement) if not found else "", words=part.words, numbers=part.numbers)
        for row in part.rows:
            made.add_row(*row)
        found.append(made)
    return found


def _of_one(judgement: Judgement, verdict: Verdict) -> Table:
    size = f"{millions(verdict.params)}M parameters, {millions(verdict.flops)}M FLOPs"
    title = f"{verdict.name} ({size}) on {judgement.n:,} test images of {judgement.data}"
    papers = _papers(verdict, judgement)
    heads = ("accuracy", "95 % interval", "seconds", *(f"printed: {label}" for label in labels_of(papers)))
    made = table(title, words=("attack",), numbers=heads)
    for figure in verdict.figures:
        low, high = figure.interval
        seconds = f"{figure.seconds:.1f}" if figure.seconds else ""
        told = [value_of(paper, figure) for paper in papers]
        cells = ["" if value is None else f"{value:.2f} %" for value in told]
        made.add_row(
            figure.column, f"{percent(figure.accuracy)} %", f"{percent(low)} – {percent(high)}", seconds, *cells
        )
    for name, mean in verdict.means.items():
        cells = [
            "" if (value := mean_of(paper, name, verdict.figures)) is None else f"{value:.2f} %" for paper in papers
        ]
        made.add_row(f"{name} mean", f"{percent(mean)} %", "", "", *cells)
    for column in verdict.without:
        made.add_row(column, "–", "", "", *("" for _ in papers))
    hours = [_printed_hours(paper) for paper in papers]
    if verdict.search_hours is not None or any(hours):
        made.add_row("search (h)", _hours(verdict), "", "", *hours)
    return made


def write_figures(judgement: Judgement, path: Path) -> None:
    """Write a line for each network and figure as CSV; accuracies and intervals are shares in [0, 1].

    ``printed`` is what papers print, as shares too, and ``printed_in`` where; of several papers with ``; `` between
    them. The last columns say what the network's search cost, in hours, and what a paper prints of it, in GPU-hours.
    """
    heads = ("network", "origin", "recipe", "seed", "params", "flops", "trial", "norm", "eps")
    rows = []
    for v in judgement.verdicts:
        network, costs = (v.name, v.origin, v.recipe, v.seed, v.params, v.flops), cost_of(v)
        shown = _papers(v, judgement)
        papers = [*zip(labels_of(shown), shown, strict=True)]
        hours = "" if v.search_hours is None else f"{v.search_hours:.6g}"
        cost = (hours, v.searched_on, *((f"{costs[0].search_hours:g}", costs[0].source) if costs else ("", "")))
        rows += [
            [
                *(*network, f.trial, f.norm, f.eps, f.right, f.n),
                *(f"{share:.6f}" for share in (f.accuracy, *f.interval)),
                *(round(f.seconds, 2), *_shares((label, value_of(p, f)) for label, p in papers), *cost),
            ]
            for f in v.figures
        ]
        rows += [
            [
                *(*network, f"{name} mean", "", "", "", "", f"{mean:.6f}", "", "", ""),
                *(*_shares((label, mean_of(p, name, v.figures)) for label, p in papers), *cost),
            ]
            for name, mean in v.means.items()
        ]
    ends = ("right", "n", "accuracy", "low", "high", "seconds", "printed", "printed_in")
    costs_heads = ("search_hours", "searched_on", "printed_search_hours", "printed_search_in")
    write_csv(path, [*heads, *ends, *costs_heads], rows)


def _shares(told: Iterable[tuple[str, float | None]]) -> tuple[str, str]:
    """What papers print of one figure, as shares from percent, and where."""
    found = [(label, value) for label, value in told if value is not None]
    return "; ".join(f"{value / 100:.4f}" for _, value in found), "; ".join(label for label, _ in found)


def write_agreements(found: Mapping[str, Sequence[Agreement]], path: Path) -> None:
    """Write Kendall's τ of every figure of each search with every column of the judge, with 95 % intervals."""
    rows = [
        [search, a.figure, a.column, a.tau.n, f"{a.tau.tau:.4f}", f"{a.tau.low:.4f}", f"{a.tau.high:.4f}"]
        for search, mine in found.items()
        for a in mine
    ]
    write_csv(path, ["search", "figure", "judged", "n", "tau", "low", "high"], rows)


def _agreement_table(found: Mapping[str, Sequence[Agreement]], judgement: Judgement) -> Table:
    """The same for a terminal: a line for each figure of each search."""
    known = {(search, a.figure, a.column): signed(a.tau.tau) for search, mine in found.items() for a in mine}
    columns = [column for column in hardest(judgement) if any(key[2] == column for key in known)]
    made = table(
        "Kendall's τ: does the search's figure order networks as the judge does?",
        words=("search", "figure"),
        numbers=columns,
    )
    for search, name in dict.fromkeys(key[:2] for key in known):
        made.add_row(search, name, *(known.get((search, name, column), "–") for column in columns))
    return made


def write_tops(found: Sequence[Top], path: Path) -> None:
    """Write the means over the lightest networks of each search as CSV; accuracies are shares in [0, 1]."""
    columns = list(found[0].accuracy)
    rows = [
        [t.n, t.group, t.networks, "judge", t.training, f"{t.params:.0f}", f"{t.flops:.0f}"]
        + [f"{t.accuracy[column]:.6f}" if column in t.accuracy else "" for column in columns]
        for t in found
    ]
    write_csv(path, ["top", "search", "networks", "measured", "training", "params", "flops", *columns], rows)


def _tops_table(found: Sequence[Top], judgement: Judgement) -> Table:
    """The same for a terminal, with the columns that pictures show."""
    columns = [column for column in [*hardest(judgement), SAMPLES] if column in found[0].accuracy]
    title = "Mean of the networks with the fewest FLOPs (%), as RoCo-NAS's Tables III and IV have it"
    made = table(title, words=("search", "training"), numbers=("top", "networks", "FLOPs (M)", *columns))
    for top in found:
        shares = [percent(top.accuracy[column]) for column in columns]
        made.add_row(top.group, top.training, str(top.n), str(top.networks), millions(top.flops), *shares)
    return made


def write_pairs(found: Sequence[tuple[Verdict, Verdict]], judgement: Judgement, path: Path) -> None:
    """Write pairs of equal FLOPs from two searches (RoCo-NAS, Table V) as CSV, two lines each."""
    columns = judgement.columns
    rows = []
    for number, pair in enumerate(found, 1):
        for verdict in pair:
            shares = {figure.column: f"{figure.accuracy:.6f}" for figure in verdict.figures}
            rows.append(
                [number, verdict.group, verdict.name, "judge", training_of([verdict])]
                + [verdict.params, verdict.flops]
                + [shares.get(column, "") for column in columns]
            )
    write_csv(path, ["pair", "search", "network", "measured", "training", "params", "flops", *columns], rows)


def markdown(grid: Grid, told: str) -> str:
    """The table in Markdown, below what its numbers are."""
    lines = [_bar(grid.heads), _bar([*("---" for _ in grid.words), *("---:" for _ in grid.numbers)])]
    lines += [_bar([cell.replace("|", "\\|") for cell in row]) for row in grid.rows]
    return "\n".join([told, "", *lines, ""])


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_TEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"±": r"$\pm$", "∞": r"$\infty$", "–": "--", "ε": r"$\epsilon$", "σ": r"$\sigma$"}
)


def latex(grid: Grid, told: str) -> str:
    """The table in LaTeX, for the package booktabs; a comment above it says what its numbers are."""
    rows = [" & ".join(cell.translate(_TEX) for cell in row) + r" \\" for row in grid.rows]
    return "\n".join(
        [
            f"% {told}",
            rf"\begin{{tabular}}{{{'l' * len(grid.words)}{'r' * len(grid.numbers)}}}",
            r"\toprule",
            " & ".join(head.translate(_TEX) for head in grid.heads) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )

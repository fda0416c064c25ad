"""What the papers print of the cost of their searches, beside that of ours."""

from __future__ import annotations

import csv

from evo_robust.estimators.strengths import Strengths
from evo_robust.judging.judgement import Judgement, Verdict
from evo_robust.judging.published import FILE, PAPERS, Printed, published
from evo_robust.parts.base import parts_in
from evo_robust.problem.value import Problem

COSTS = {"wsr": "Table 3", "roco": "section IV-B"}
"""Where the papers print what their searches cost, by the paper's name in the file."""

SCALES = ("paper", "published")
"""Scales of the shipped problems that repeat a paper's search."""


def repeated(name: object, scale: object, problem: Problem) -> str:
    """The search of a paper that this one repeats, as :attr:`evo_robust.judging.published.Printed.search`.

    Args:
        name: of the problem, as the record has it.
        scale: of the problem, as the record has it.
        problem: the problem, on the paper's data. Wsr-NAS's searches differ in their strengths.

    Returns:
        Paper, place and model; empty where no paper prints what such a search cost.
    """
    paper = str(name).partition("_")[0]
    if scale not in SCALES or paper not in COSTS:
        return ""
    with FILE.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if (line["paper"], line["where"]) == (paper, COSTS[paper])]
    strengths = [part for part in parts_in(problem.objectives) if isinstance(part, Strengths)]
    wanted = {"search_n1": len(strengths[0].real), "search_n2": len(strengths[0].estimated)} if strengths else {}
    for line in lines:
        told = {
            other["metric"]: float(other["value"])
            for other in lines
            if other["model"] == line["model"] and other["metric"].startswith("search_n")
        }
        if line["metric"] == "gpu_days" and line["dataset"] == problem.data.name and told == wanted:
            return f"{PAPERS[paper]}, {line['where']}, {line['model']}"
    return ""


def cost_of(verdict: Verdict) -> list[Printed]:
    """What a paper prints of its search for this network, or of the search that this network's search repeats."""
    name = (verdict.zoo or "").partition(" ")[0]
    costs = [p for p in published() if p.search_hours is not None]
    return [p for p in costs if (p.search == verdict.repeats if verdict.repeats else name and p.zoo == name)]


def costs_below(verdict: Verdict, judgement: Judgement) -> list[Printed]:
    """The same, for the table: of networks of one search, below the last of them alone."""
    if not verdict.repeats:
        return cost_of(verdict)
    last = [v for v in judgement.verdicts if (v.repeats, v.group) == (verdict.repeats, verdict.group)][-1]
    return cost_of(verdict) if verdict is last else []

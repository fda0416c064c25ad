"""The genotype of a network that a search evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.networks.genotype import Genotype
from evo_robust.parts.base import dotted, parts_in
from evo_robust.record.budget import WithinBudget
from evo_robust.record.run import Run


def genotype_of(run: Run, row: Mapping[str, Any], spec: str = "", budget: WithinBudget | None = None) -> Genotype:
    """Genotype of a ledger row, with its figures and origin."""
    problem = run.problem
    origin = {
        "problem": run.info.get("problem"),
        "scale": run.info.get("scale"),
        "run": run.folder.resolve().name,
        "evaluation": row["id"],
        "pick": spec or None,
        "budget": budget.text if budget else None,
        "seed": problem.seed,
        "adversarial_set": _adversarial_set(run),
        "fingerprint": row["fingerprint"],
        "versions": run.info.get("versions", {}),
    }
    return Genotype(
        space=problem.space,
        architecture=problem.space.from_text(row["architecture"]),
        data=problem.data.name,
        n_classes=problem.data.n_classes,
        in_shape=problem.data.in_shape,
        objectives=row["objectives"],
        units={o.name: o.unit for o in problem.objectives if o.unit},
        figures=_figures(row),
        provenance={key: value for key, value in origin.items() if value is not None},
        source=run.info.get("source"),
    )


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a ledger row; what was measured beside the objectives stands under ``recorded``."""
    figures = dict(row.get("figures", {}))
    # a robust error and its figures by strength have the same name, so they cannot be in one dictionary
    beside = {kind: dict(row[kind]) for kind in ("recorded", "reported") if row.get(kind)}
    return figures | beside


def _adversarial_set(run: Run) -> dict[str, Any] | None:
    """Settings of the search's adversarial set, so that a retraining can be evaluated on its test part."""
    measured = (run.problem.objectives, run.problem.recorded)
    return next((dotted(part) for part in parts_in(measured) if isinstance(part, AdversarialSet)), None)

"""Candidates trained from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import chz

from evo_robust.evaluators.candidates import build_candidate, candidate_seed
from evo_robust.evaluators.jobs import Stage
from evo_robust.evaluators.pool import PooledEvaluator
from evo_robust.objectives.base import Context
from evo_robust.spaces.base import Architecture
from evo_robust.training.loop import train
from evo_robust.training.recipes import Recipe, Standard


@chz.chz
class FromScratch(PooledEvaluator):
    """Each candidate is trained on the training split and measured on the validation split."""

    told: ClassVar[tuple[str, ...]] = ("epochs", "seed", "recipe")

    epochs: int = chz.field(default=25, doc="training epochs per candidate; >= 0")
    recipe: Recipe = chz.field(
        default_factory=Standard, blueprint_unspecified=Standard, doc="how candidates are trained"
    )

    @chz.validate
    def _epochs(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"expected evaluator.epochs >= 0, got {self.epochs}")

    def stages(self, context: Context, architecture: Architecture, deadline: float | None = None) -> Iterator[Stage]:
        """See :meth:`PooledEvaluator.stages`: training is the only one."""
        seed = candidate_seed(context, context.space.to_text(architecture))
        splits = context.data.on(context.device)
        model = build_candidate(context, architecture, seed).to(context.device)
        recipe = self.recipe.for_data(context.data)
        logs = train(model, splits.train, recipe, self.epochs, seed=seed, deadline=deadline)
        yield Stage(model.eval(), {"train_error": logs[-1].train_error} if logs else {})

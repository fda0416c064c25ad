"""Candidates trained from scratch."""

from __future__ import annotations

from typing import Any

import chz
from torch import nn

from evo_robust.device import fixed_threads
from evo_robust.evaluators.pool import PooledEvaluator, build_candidate, candidate_seed, splits_on
from evo_robust.objectives.base import Context
from evo_robust.spaces.base import Architecture
from evo_robust.train import Recipe, Standard, train


@chz.chz
class FromScratch(PooledEvaluator):
    """Each candidate is trained on the training split and measured on the validation split."""

    epochs: int = chz.field(default=25, doc="training epochs per candidate; >= 0")
    recipe: Recipe = chz.field(
        default_factory=Standard, blueprint_unspecified=Standard, doc="how candidates are trained"
    )

    @chz.validate
    def _epochs(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"expected evaluator.epochs >= 0, got {self.epochs}")

    def obtain(
        self, context: Context, architecture: Architecture, deadline: float | None = None
    ) -> tuple[nn.Module, dict[str, Any]]:
        """See :meth:`PooledEvaluator.obtain`."""
        seed = candidate_seed(context, context.space.to_text(architecture))
        splits = splits_on(context.data, context.device)
        with fixed_threads(self.threads):
            model = build_candidate(context, architecture, seed).to(context.device)
            recipe = self.recipe.for_data(context.data)
            logs = train(model, splits.train, recipe, self.epochs, seed=seed, deadline=deadline)
        return model.eval(), {"train_error": logs[-1].train_error} if logs else {}

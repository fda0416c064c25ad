"""Parts of searches, as small as they can be and still do what they do."""

from __future__ import annotations

from typing import Any

from evo_robust import CoTrained, Standard, SupernetTraining


def small_supernet(epochs: int, **fields: Any) -> CoTrained:
    """A supernet that learns with the search, on digits in batches of 50; ``fields`` are the evaluator's."""
    supernet = SupernetTraining(epochs=epochs, recipe=Standard(lr=0.1, batch_size=50), threads=1)
    return CoTrained(supernet=supernet, recalibration="clean", recalibration_batches=2, **fields)

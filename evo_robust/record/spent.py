"""What a search cost, by its record: the papers' GPU-days."""

from __future__ import annotations

import dataclasses

from evo_robust.record.run import PROGRESS_FILE, Run, past_seconds

HOUR, DAY = 3600.0, 86400.0


@dataclasses.dataclass(frozen=True)
class Spent:
    """Time that a search took.

    Attributes:
        whole: seconds from start to end, over all processes that worked on it; None where the record does not tell.
        candidates: sum of the seconds that every candidate took by itself. It leaves out what candidates share, such
            as a supernet or an adversarial set. With several workers at a time it may be more than ``whole``.
    """

    whole: float | None
    candidates: float

    @property
    def words(self) -> str:
        """The cost as one sentence."""
        alone = f"its candidates' own times add up to {_hours(self.candidates)}"
        if self.whole is None:
            return f"search cost: {alone}"
        return (
            f"search cost: {_hours(self.whole)} from start to end; {alone}. On one GPU, the former are its GPU-hours "
            "and GPU-days"
        )


def spent(run: Run) -> Spent:
    """What the search of a run folder has cost so far."""
    past = past_seconds(run.folder / PROGRESS_FILE)
    return Spent(max(past.values(), default=None), sum(float(row["seconds"]) for row in run.evaluations))


def _hours(seconds: float) -> str:
    """``9000`` as ``2.5 hours (0.104 days)``."""
    return f"{seconds / HOUR:.3g} hours ({seconds / DAY:.3g} days)"

"""The effect of finetuning on inherited weights: accuracy before and after (Fig. 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evo_robust.analysis.study import LeftOut, Study, blank
from evo_robust.correlations import Kendall, kendall
from evo_robust.files import write_csv


@dataclasses.dataclass(frozen=True)
class Change:
    """An accuracy before and after finetuning, over the architectures that have both.

    Attributes:
        name: name of the accuracy, in words.
        before: accuracies ``(n,)`` in [0, 1] with inherited weights.
        after: accuracies of the same architectures after finetuning.
        agreement: Kendall's τ between the rankings before and after.
    """

    name: str
    before: np.ndarray
    after: np.ndarray
    agreement: Kendall


def finetuning_changes(study: Study) -> list[Change]:
    """Robust accuracy, then clean accuracy where it was recorded before and after.

    Raises:
        LeftOut: nothing was finetuned, or accuracies before it were not recorded.
    """
    found = []
    for name, which in ((study.robust_words, "robust"), ("clean accuracy", "clean")):
        before, after = study.accuracy(f"inherited_{which}"), study.accuracy(which)
        both = np.isfinite(before) & np.isfinite(after)
        if both.any():
            found.append(Change(name, before[both], after[both], kendall(before, after)))
    if not found or found[0].name != study.robust_words:
        if not study.finetuned:
            raise LeftOut("nothing was finetuned")
        raise LeftOut(f"no {study.robust_words} before finetuning in the record (evaluator.compare=true records it)")
    return found


def write_changes(found: Sequence[Change], path: Path) -> None:
    """Write means and spreads before and after as CSV, as accuracies in [0, 1]."""
    figures = ("mean_before", "std_before", "mean_after", "std_after", "mean_gain", "kendall_tau", "kendall_p")
    rows = []
    for c in found:
        n = len(c.before)
        spread = [float(v.std(ddof=1)) if n > 1 else np.nan for v in (c.before, c.after)]
        means = [float(v.mean()) for v in (c.before, c.after)]
        values = [means[0], spread[0], means[1], spread[1], means[1] - means[0], c.agreement.tau, c.agreement.p]
        rows.append([c.name, n, *map(blank, values)])
    write_csv(path, ["accuracy", "n", *figures], rows)

"""Limits of gates: quantiles over random architectures with inherited weights.

They are measured when a search starts, and again whenever weights that are trained during the search have changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import chz
import numpy as np

from evo_robust.files import write_json
from evo_robust.objectives.base import Context, Objective
from evo_robust.objectives.constraints import Constraint, Gate
from evo_robust.parts.base import UserError, seed_from
from evo_robust.parts.strict_json import parse_json
from evo_robust.spaces.base import Architecture, InvalidArchitecture, SearchSpace

GATES_FILE = "gates.json"

Measure = Callable[[Objective, Sequence[Architecture]], Iterator[tuple[int, "float | str"]]]
"""Measures an objective on inherited networks; gives index and value as they arrive, or the reason of a failure."""

# random genomes drawn per wanted architecture, before we take fewer
_PATIENCE = 20


def with_limits(
    constraints: Sequence[Constraint], context: Context, fingerprint: str, measure: Measure
) -> tuple[Constraint, ...]:
    """The constraints, with a limit in every gate.

    Each measured value is kept in the run folder, so that a resumed search does not measure it again.

    Args:
        constraints: constraints and gates.
        context: context of the search; its ``say`` gets the limits in words.
        fingerprint: the search's fingerprint; values kept under another one do not count.
        measure: measures an objective.

    Raises:
        UserError: fewer than two random architectures could be measured, or the quantile is not above 0.
    """
    return tuple(
        chz.replace(c, at_most=_limit(c, context, fingerprint, measure)) if isinstance(c, Gate) else c
        for c in constraints
    )


def _limit(gate: Gate, context: Context, fingerprint: str, measure: Measure) -> float:
    if gate.at_most is not None:
        return gate.at_most
    drawn = _draw(context.space, context.seed, gate.sample)
    kept = _Kept(context.folder, gate, fingerprint)
    missing = [text for text in drawn if text not in kept.found]
    if missing:
        context.say(f"{gate.name}: measuring {len(missing)} random architectures with inherited weights")
    for index, value in measure(gate.of, [drawn[text] for text in missing]):
        kept.found[missing[index]] = value
        kept.write()
    found = [kept.found[text] for text in drawn]
    values = [value for value in found if not isinstance(value, str)]
    if len(values) < 2:
        reasons = [value for value in found if isinstance(value, str)]
        reason = f"the first failure: {reasons[0]}" if reasons else "the space has no more"
        raise UserError(
            f"{gate.name}: expected 2 random architectures or more to take a quantile over, got {len(values)}; {reason}"
        )
    limit = float(np.quantile(values, gate.quantile))
    if not gate.allows(limit):
        raise UserError(
            f"{gate.name}: expected a quantile > 0 as limit, got {limit:g}; choose another quantile or at_most, or "
            "LogGate, which takes any limit of a logarithm"
        )
    kept.write(limit)
    context.say(
        f"{gate.name}: candidates above {limit:.4g} are rejected before finetuning "
        f"(quantile {gate.quantile:g} of {len(values)} random architectures)"
    )
    return limit


def _draw(space: SearchSpace, seed: int, count: int) -> dict[str, Architecture]:
    """``count`` different random architectures by notation, the same for equal seeds; fewer in a very small space."""
    rng = np.random.default_rng(seed_from(seed, "gate"))
    drawn: dict[str, Architecture] = {}
    for _ in range(_PATIENCE * count):
        if len(drawn) == count:
            break
        try:
            architecture = space.decode(space.sample(rng))
        except InvalidArchitecture:
            continue
        drawn.setdefault(space.to_text(architecture), architecture)
    return drawn


class _Kept:
    """A gate's values and limits in the run folder.

    Attributes:
        found: value by architecture, or the reason why there is none.
        earlier: limits under earlier fingerprints, in order; there are some where weights train during the search.
    """

    def __init__(self, folder: Path | None, gate: Gate, fingerprint: str) -> None:
        self.path = None if folder is None else folder / GATES_FILE
        self.gate, self.fingerprint = gate, fingerprint
        entry = self._read().get(gate.name, {})
        found = entry.get("found") if isinstance(entry, dict) and entry.get("fingerprint") == fingerprint else None
        sound = isinstance(found, dict) and all(map(_sound, found.values()))
        self.found: dict[str, float | str] = dict(found) if isinstance(found, dict) and sound else {}
        self.earlier = _earlier(entry, fingerprint)

    def _read(self) -> dict[str, Any]:
        """The gates in the file; none where it is missing or damaged, since all of it can be measured again."""
        try:
            gates = parse_json(self.path.read_bytes()) if self.path else {}
        except (OSError, ValueError):
            return {}
        return gates if isinstance(gates, dict) else {}

    def write(self, limit: float | None = None) -> None:
        """Write what is known so far."""
        if self.path is None:
            return
        entry = {
            "fingerprint": self.fingerprint,
            "quantile": self.gate.quantile,
            "limit": limit,
            "found": dict(sorted(self.found.items())),
        }
        if self.earlier:
            entry["earlier"] = self.earlier
        write_json(self.path, self._read() | {self.gate.name: entry})


def _sound(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))


def _earlier(entry: object, fingerprint: str) -> list[dict[str, Any]]:
    """Limits in a gate's entry under other fingerprints than this one; none where the entry is damaged."""
    if not isinstance(entry, dict):
        return []
    told = entry.get("earlier")
    known = [item for item in told if isinstance(item, dict)] if isinstance(told, list) else []
    if entry.get("limit") is not None:
        known.append({"fingerprint": entry.get("fingerprint"), "limit": entry["limit"]})
    return [item for item in known if item.get("fingerprint") != fingerprint]

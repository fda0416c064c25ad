"""How a network was trained, in words for tables."""

from __future__ import annotations

import contextlib

from evo_robust.attacks.base import Threat
from evo_robust.judging.trials import shown
from evo_robust.networks.genotype import Genotype
from evo_robust.parts.base import parts_in
from evo_robust.parts.resolve import from_dotted
from evo_robust.parts.strict_json import is_whole
from evo_robust.training.recipes import TRADES, Recipe


def recipe_words(recipe: Recipe) -> str:
    """A training for tables: its class, the weight of TRADES, and the strengths of its attacks.

    Example:
        >>> recipe_words(TRADES(beta=1.0))
        'TRADES beta=1 eps=8/255'
    """
    eps = [shown(threat.eps, threat.norm, levels=False) for threat in recipe.threats]
    beta = [f"beta={recipe.beta:g}"] if isinstance(recipe, TRADES) else []
    ends = [f"eps={'..'.join(dict.fromkeys((eps[0], eps[-1])))}"] if eps else []
    return " ".join([type(recipe).__name__, *beta, *ends])


def strength_of(part: object) -> float | None:
    """The radius of the L∞ ball that a training or evaluator attacks in; the largest where there are several."""
    threats = [inner.eps for inner in parts_in(part) if isinstance(inner, Threat) and inner.norm == "linf"]
    return float(max(threats)) if threats else None


def trained_as(genotype: Genotype) -> tuple[str, int | None, float | None]:
    """Training in words, seed and strength of an exported network, as far as its file tells them.

    Files of earlier versions tell no more of a retraining than the recipe's class and the epochs.
    """
    retrained = genotype.provenance.get("retrained")
    seed = (retrained if isinstance(retrained, dict) else genotype.provenance).get("seed")
    seed = seed if is_whole(seed, 0) else None
    if not isinstance(retrained, dict):
        return "as in the search", seed, None
    kind, epochs, values = (retrained.get(key) for key in ("recipe", "epochs", "training"))
    words, eps = str(kind or ""), None
    if isinstance(values, dict):
        with contextlib.suppress(ValueError):  # a recipe of one's own, whose file is not loaded
            recipe = from_dotted(Recipe, values, str(kind))
            words, eps = recipe_words(recipe), strength_of(recipe)
    return f"{words}, {epochs} epochs" if words and is_whole(epochs, 1) else words, seed, eps

"""Defaults of parts inside parts stay where something is said of the inner part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import chz
import pytest

from evo_robust import FromScratch, OneShot, PGDTraining, Recipe, load
from evo_robust.parts.base import Part, choices, dotted
from evo_robust.parts.chz_inside import default_of, is_required
from evo_robust.parts.making import make


@chz.chz
class _Slow(Recipe):
    """A recipe whose own default differs from its base's."""

    lr: float = chz.field(default=0.77, doc="learning rate")

    def loss(self, model: Any, x: Any, y: Any, generator: Any) -> Any:
        raise NotImplementedError


def test_a_recipes_attack_keeps_its_loss() -> None:
    given = {"evaluator.recipe": "TRADES", "evaluator.recipe.attack.steps": "10"}
    attack = load("roco_baseline", overrides=given).evaluator.recipe.attack
    assert (attack.loss, attack.steps, attack.step) == ("kl", 10, pytest.approx(2 / 255))


def test_an_evaluator_keeps_what_it_says_of_its_recipe() -> None:
    found = make(OneShot, {"recipe.attack.steps": "3", "supernet.recipe.lr": "0.2"}, {}, "t")
    assert (found.recipe.lr, found.recipe.decay_bn, found.recipe.attack.steps) == (0.01, False, 3)
    assert (found.supernet.recipe.lr, found.supernet.recipe.clip) == (0.2, 5.0)


def test_a_class_that_is_named_brings_its_own_defaults() -> None:
    assert make(FromScratch, {"recipe": "_Slow"}, {}, "t").recipe.lr == 0.77  # nobody said otherwise
    assert make(OneShot, {"recipe": "_Slow"}, {}, "t").recipe.lr == 0.01  # the evaluator did


def _inner(cls: type[Part]) -> Iterator[tuple[str, Any]]:
    """Keys of what a class's defaults say of parts inside it, with their values."""
    for name, field in chz.chz_fields(cls).items():
        default = default_of(field)
        if isinstance(default, Part):
            for key, value in dotted(default).items():
                yield f"{name}.{key}", value


CLASSES = [
    cls
    for cls in choices(Part).values()
    if cls.__module__.startswith("evo_robust.")
    and not any(map(is_required, chz.chz_fields(cls).values()))
    and any(True for _ in _inner(cls))
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_saying_one_default_changes_nothing(cls: type[Part]) -> None:
    whole = cls()
    for key, value in _inner(cls):
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        assert make(cls, {key: text}, {}, "t") == whole, key


def test_there_are_such_classes() -> None:
    assert PGDTraining in CLASSES and len(CLASSES) > 8

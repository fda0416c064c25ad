"""Robust error of which part is estimated: its precision, and what leaves nothing to estimate."""

from __future__ import annotations

import json
from typing import Any

import chz
import pytest
import torch

from evo_robust import DARTS, PGD, AverageANE, Digits, RobustError
from evo_robust.attacks import fast
from evo_robust.estimators import measure
from evo_robust.objectives.base import Candidate, Context

EPS = (0.05, 0.1, 0.15, 0.2)


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    space, data = DARTS(channels=4, layers=2, nodes=2), Digits(train_limit=100)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = space.build(space.largest(), data.n_classes, data.in_shape)
    context = Context(space, data, seed=0, device="cpu", workers=1, cache=tmp_path_factory.mktemp("cache"))
    text = space.to_text(space.largest())
    return Candidate(context, space.largest(), text, seed=5, splits=data.load(), model=model)


def test_noises_are_crafted_in_the_precision_that_is_asked_for(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def crafter(model: torch.nn.Module, sample: torch.Tensor, precision: fast.Precision = "float32") -> torch.nn.Module:
        seen.append(precision)
        return fast.for_attack(model, sample, precision)

    monkeypatch.setattr(measure, "for_attack", crafter)
    exact = RobustError(attack=PGD(steps=2), eps=EPS, estimator=AverageANE(), limit=40)
    value = exact.measure(candidate)
    assert chz.replace(exact, precision="bf16").measure(candidate) == pytest.approx(value, abs=0.1)
    assert seen == ["float32", "bf16"]
    assert json.loads(json.dumps(candidate.figures))["robust_error"]["estimated"] == ["0.1", "0.2"]


@pytest.mark.parametrize(("n", "attacked"), [(2, 1), (3, 2), (4, 2)])
def test_half_of_the_strengths_are_attacked_when_nothing_is_said(n: int, attacked: int) -> None:
    source = RobustError(eps=EPS[:n], estimator=AverageANE()).noise_source
    assert source is not None and source.strengths.n1 == attacked and source.strengths.estimated


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": EPS, "n_real": 4}, "got n_real=4 of 4: estimator=None attacks all"),
        ({"eps": EPS, "n_real": 0}, "expected with an estimator n_real >= 1 strengths .* got n_real=0 of 4"),
        ({"eps": EPS[:1]}, "got n_real=1 of 1: estimator=None attacks all"),
    ],
)
def test_an_estimator_with_nothing_to_estimate_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobustError(estimator=AverageANE(), **settings)


def test_strengths_in_grey_levels_are_refused_in_linf_alone() -> None:
    with pytest.raises(
        ValueError, match=r"expected eps in \(0, 1\] with norm=linf \(units of the pixel range .*\), got 8"
    ):
        RobustError(eps=(0.5, 8))
    assert RobustError(eps=(0.5, 8), norm="l2").eps[-1] == 8

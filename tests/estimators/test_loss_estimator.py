"""Losses of architectures from their encodings, and the objective of Wsr-NAS's search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from evo_robust.estimators import LossEstimator, LossLearner, LossTraining, SearchLoss, ranking
from evo_robust.estimators.search_loss import strength_weights
from evo_robust.files import read_tensors, write_tensors

ROWS, OPERATIONS, HEADS = 28, 8, 7
BASE = torch.tensor([0.8, 1.2, 1.8, 2.4, 3.0, 3.6, 4.2])


def encodings(n: int, seed: int) -> Tensor:
    """Architectures as a search encodes them: a softmax over each edge's operations, nearly one-hot."""
    scores = torch.rand(n, ROWS, OPERATIONS, generator=torch.Generator().manual_seed(seed))
    return (scores / 0.02).softmax(-1)


def losses(given: Tensor) -> Tensor:
    """A known function: operations 4 and later lower every loss, in the first half of the rows twice as much."""
    rows = torch.linspace(2, 1, ROWS)
    share = (given[..., 4:].sum(-1) * rows).sum(-1) / rows.sum()
    return BASE * (1.5 - share[..., None])


def learner(seed: int = 0, n: int = 100, **settings: Any) -> LossLearner:
    found = LossLearner(OPERATIONS, HEADS, LossTraining(**{"passes": 250, **settings}), seed=seed)
    known = encodings(n, 1)
    for encoding, measured in zip(known, losses(known), strict=True):
        found.push(encoding, measured)
    return found


def test_parameters() -> None:
    estimator = LossTraining().build(OPERATIONS, HEADS)
    assert sum(p.numel() for p in estimator.parameters()) == 1783
    assert sum(p.numel() for p in LossEstimator(5, 3, hidden=4).parameters()) == 4 * 4 * (5 + 4 + 2) + 3 * 5


def test_any_number_of_rows_and_one_or_many_architectures() -> None:
    estimator = LossEstimator(OPERATIONS, 3)
    for rows in (1, 14, 28):
        given = encodings(5, 0)[:, :rows]
        found = estimator(given)
        assert found.shape == (5, 3) and (found > 0).all() and (found < 2).all()
        torch.testing.assert_close(estimator(given[2]), found[2])


def test_differentiable_in_the_encoding() -> None:
    for mode in (True, False):
        estimator = LossEstimator(3, 2, hidden=4).double().train(mode)
        given = torch.rand(2, 4, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(estimator, (given,))


def test_ranks_architectures_that_it_has_not_seen_and_points_downhill() -> None:
    found = learner()
    first = found.learn()
    assert found.learn() < first
    unseen = encodings(100, 2)
    for head in ranking(found.estimator, unseen, losses(unseen)):
        assert head.n == 100 and head.tau > 0.6
    start = unseen.clone().requires_grad_()
    found.estimator(start).sum().backward()
    assert start.grad is not None
    slopes = start.grad.mean((0, 1))
    assert slopes[4:].max() < slopes[:4].min()


def test_heads_above_two_need_a_higher_bound() -> None:
    unseen = encodings(100, 2)
    paper, ours = learner(grows=False), learner()
    for one in (paper, ours):
        one.learn()
    assert (paper.estimator.bounds == 2).all()
    assert ours.estimator.bounds[0] == 2 and (ours.estimator.bounds[2:] > 2).all()
    assert torch.equal(ours.estimator.bounds[2:], 2 * ours.losses.amax(0)[2:])
    errors = [(one.estimator(unseen) - losses(unseen)).abs().mean(0) for one in (paper, ours)]
    assert (errors[0][4:] > 0.9).all() and (errors[1][4:] < 0.4).all()
    with torch.no_grad():
        assert (paper.estimator(unseen) <= 2).all()
    # no slope is left for a search to follow where every architecture has the largest loss that can be told
    start = unseen.clone().requires_grad_()
    slopes = [torch.autograd.grad(one.estimator(start)[:, 6].sum(), start)[0].abs().mean() for one in (paper, ours)]
    assert slopes[0] < 0.1 * slopes[1]
    bounds = ours.estimator.bounds.clone()
    ours.estimator.make_room(0.5 * ours.losses)
    assert torch.equal(bounds, ours.estimator.bounds)


def test_learning_repeats_and_resumes_to_the_bit(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    straight = learner(n=20, passes=5, batch_size=8)
    straight.learn()
    write_tensors(tmp_path / "learner.safetensors", straight.state())
    resumed = LossLearner(OPERATIONS, HEADS, straight.training, seed=0)
    resumed.restore(read_tensors(tmp_path / "learner.safetensors")[0])
    again = learner(n=20, passes=5, batch_size=8)
    again.learn()
    known = encodings(21, 1)
    for one in (straight, resumed, again):
        one.push(known[20], losses(known[20]))
        one.learn()
    for other in (resumed, again):
        assert all(torch.equal(value, straight.state()[name]) for name, value in other.state().items())
    different = learner(seed=1, n=20, passes=5).state()
    assert not torch.equal(different["estimator.heads.weight"], straight.state()["estimator.heads.weight"])
    assert torch.equal(before, torch.get_rng_state())
    fresh = LossLearner(OPERATIONS, HEADS, seed=0)
    write_tensors(tmp_path / "fresh.safetensors", fresh.state())
    straight.restore(read_tensors(tmp_path / "fresh.safetensors")[0])
    assert len(straight) == 0
    assert all(torch.equal(value, fresh.state()[name]) for name, value in straight.state().items())


def test_the_oldest_are_forgotten() -> None:
    found = learner(n=12, memory=5)
    assert len(found) == 5 and found.encodings is not None
    assert torch.equal(found.encodings, encodings(12, 1)[7:])
    torch.testing.assert_close(found.losses, losses(encodings(12, 1)[7:]))


def test_an_architecture_measured_anew_takes_its_old_place() -> None:
    found = learner(n=3)
    known = encodings(3, 1)
    found.push(known[1], 2 * BASE)
    assert len(found) == 3 and found.encodings is not None
    torch.testing.assert_close(found.encodings, known[[0, 2, 1]])
    torch.testing.assert_close(found.losses[-1], 2 * BASE)


def test_gradients_of_an_encoding_are_not_remembered() -> None:
    found = LossLearner(OPERATIONS, HEADS, LossTraining(passes=1), seed=0)
    found.push(encodings(1, 0)[0].requires_grad_(), losses(encodings(1, 0)[0]).requires_grad_())
    found.learn()
    assert found.encodings is not None and not found.encodings.requires_grad and not found.losses.requires_grad


def test_bad_input_is_named() -> None:
    found = learner(n=1)
    good = encodings(1, 0)[0]
    for make, message in (
        (lambda: found.push(good[:, 1:], BASE), r"expected an encoding \(28, 8\), got \(28, 7\)"),
        (lambda: found.push(good[1:], BASE), r"expected an encoding \(28, 8\), got \(27, 8\)"),
        (lambda: found.push(good, BASE[1:]), r"expected 7 losses, got \(6,\)"),
        (lambda: found.push(good, -BASE), "expected finite losses >= 0"),
        (lambda: found.push(good, BASE / 0), "expected finite losses >= 0"),
        (lambda: LossLearner(8, 7, seed=0).learn(), "push some first"),
        (lambda: found.estimator(good[:, 1:]), r"expected encodings \(rows, 8\)"),
        (lambda: found.estimator(good[:0]), r"expected encodings \(rows, 8\)"),
        (lambda: ranking(found.estimator, good[None], BASE), r"expected losses \(1, 7\), got \(7,\)"),
        (lambda: LossTraining(passes=0), "expected algorithm.gradient.losses.passes >= 1, got 0"),
        (lambda: LossTraining(bound=0.0), "expected algorithm.gradient.losses.bound > 0"),
        (lambda: LossTraining(betas=(0.5, 1.0)), "expected algorithm.gradient.losses.betas of two numbers"),
        (lambda: LossTraining().build(8, 0), "heads >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


# --- the objective --------------------------------------------------------------------------------------------------


def test_weights_of_the_paper_and_of_other_numbers_of_strengths() -> None:
    assert strength_weights(6) == pytest.approx([w / 28 for w in (1, 2, 3, 5, 7, 10)])
    assert strength_weights(3) == pytest.approx([w / 15 for w in (1, 4, 10)])
    assert strength_weights(1) == (1.0,)
    eleven = strength_weights(11)
    assert [w / eleven[0] for w in eleven] == pytest.approx([1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8.5, 10])
    for n in (2, 4, 7, 11):
        assert sum(strength_weights(n)) == pytest.approx(1) and list(strength_weights(n)) == sorted(strength_weights(n))


def test_objective_is_equation_10() -> None:
    given = torch.rand(4, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    by_hand = 0.8 * given[:, 0] + 0.2 * (given[:, 1:] @ torch.tensor([1.0, 2, 3, 5, 7, 10])) / 28
    torch.testing.assert_close(SearchLoss().of(given), by_hand)
    torch.testing.assert_close(SearchLoss().of(given[1]), by_hand[1])
    (slope,) = torch.autograd.grad(SearchLoss().of(given).sum(), given)
    torch.testing.assert_close(slope[0], F.pad(0.2 * torch.tensor([1.0, 2, 3, 5, 7, 10]) / 28, (1, 0), value=0.8))
    given = given.detach()
    own = SearchLoss(alpha=0.0, beta=2.0, weights=(1, 3))
    torch.testing.assert_close(own.of(given[:, :3]), 0.5 * given[:, 1] + 1.5 * given[:, 2])
    # equal losses: the shares sum to one
    assert SearchLoss().of(torch.full((12,), 3.0)) == pytest.approx(3.0)


def test_bad_objectives_are_named() -> None:
    for make, message in (
        (lambda: SearchLoss(alpha=-1.0), "expected alpha >= 0, got -1.0"),
        (lambda: SearchLoss(alpha=0.0, beta=0.0), "alpha or beta > 0"),
        (lambda: SearchLoss(weights=(1.0, 0.0)), "expected weights of numbers > 0"),
        (lambda: SearchLoss(weights=(1.0, 2.0)).of(torch.ones(4)), "expected 3 weights, one for each strength, got 2"),
        (lambda: SearchLoss().of(torch.ones(1)), "number of strengths"),
        (lambda: strength_weights(0), "at least 1 strength"),
    ):
        with pytest.raises(ValueError, match=message):
            make()

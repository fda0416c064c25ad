"""Candidates that inherit a supernet's weights, on real digits: recalibration, gates, finetuning, repeatability."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
import torch
from torch import nn

from evo_robust import export
from evo_robust.algorithms.random import RandomSearch
from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import FGSM
from evo_robust.data.images import Augment
from evo_robust.data.sets import Digits
from evo_robust.evaluators import one_shot, pool
from evo_robust.evaluators.base import Evaluation
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.evaluators.one_shot import OneShot
from evo_robust.files import cache_folder, mapped_tensors, read_tensors
from evo_robust.inference.predictions import clean_error
from evo_robust.networks.genotype import load_genotype
from evo_robust.objectives import base
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.objectives.constraints import Constraint, Gate
from evo_robust.objectives.cost import Params
from evo_robust.objectives.errors import CleanError, RobustError
from evo_robust.parts.base import Fraction, UserError
from evo_robust.parts.making import make
from evo_robust.problem.files import problem_from_dict, problem_to_dict
from evo_robust.problem.value import Problem
from evo_robust.record.reading import Run, load_run
from evo_robust.record.rebuild import rebuild
from evo_robust.search import search
from evo_robust.spaces import NSGAPhases
from evo_robust.spaces.robnet.space import RobNet
from evo_robust.training.recalibration import draw_batches, recalibrate
from evo_robust.training.recipes import FastTraining
from evo_robust.training.supernet_training import SupernetTraining

FAST = FastTraining(lr=0.1, batch_size=64, threat=Threat(eps=Fraction(0.05)), augment=Augment(crop_padding=1))
SUPERNET = SupernetTraining(epochs=2, recipe=FAST, threads=1)
TINY = Problem(
    space=RobNet(channels=4, layers=3, nodes=2),
    data=Digits(val_share=0.4),
    objectives=(RobustError(attack=FGSM(), eps=(Fraction(0.05),), limit=60), Params()),
    recorded=(CleanError(),),
    evaluator=OneShot(supernet=SUPERNET, recipe=chz.replace(FAST, lr=0.02), recalibration_batches=4),
    algorithm=RandomSearch(pop_size=4, n_gen=2),
)
FEW = chz.replace(TINY, data=Digits(val_share=0.4, train_limit=300))
TUNED = chz.replace(FEW, evaluator=chz.replace(FEW.evaluator, finetune=1))
EARLY = CleanError(limit=200, label="early")
GATED = chz.replace(TUNED, constraints=(Gate(of=EARLY, sample=6),))


@chz.chz
class Moody(Objective):
    """Fails, always or for every other architecture."""

    always: bool = False

    def measure(self, candidate: Candidate) -> float:
        if self.always or candidate.seed % 2:
            raise ValueError("not today")
        return 0.25


def figures(run: Run) -> list[str]:
    return [json.dumps({k: v for k, v in row.items() if k != "seconds"}, sort_keys=True) for row in run.evaluations]


def distinct(problem: Problem, n: int, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return list({problem.space.decode(problem.space.sample(rng)): None for _ in range(5 * n)})[:n]


def evaluate(problem: Problem, architectures: list[Any], folder: Path | None = None) -> list[Evaluation]:
    session = problem.start("cpu", 1, folder)
    return [evaluation for _, evaluation in session.evaluate(architectures)]


def network(evaluator: OneShot, architecture: Any) -> nn.Module:
    session = chz.replace(TINY, evaluator=evaluator).start("cpu", 1)
    return evaluator.obtain(session.job.context, architecture)[0]  # type: ignore[attr-defined]


def weights_file() -> Path:
    return SUPERNET.build_or_load(TINY.space, TINY.data, cache_folder())


# ---- inherited weights


def test_inherited_weights_give_the_supernet_path_s_output() -> None:
    weights, _ = read_tensors(weights_file())
    supernet = TINY.space.supernet(TINY.data.n_classes, TINY.data.in_shape)
    supernet.load_state_dict(weights)
    images = TINY.data.load().val.floats(slice(50))
    for architecture in distinct(TINY, 3):
        supernet.choose(architecture)
        candidate = network(chz.replace(TINY.evaluator, recalibration="none"), architecture)
        assert not candidate.training
        with torch.no_grad():
            torch.testing.assert_close(candidate(images), supernet.eval()(images))


def test_only_what_a_candidate_has_is_read_of_a_file_that_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, read = mapped_tensors(weights_file()), []
    assert mapped_tensors(weights_file()) is stored
    get = type(stored).__getitem__
    monkeypatch.setattr(type(stored), "__getitem__", lambda self, name: read.append(name) or get(self, name))
    architecture = TINY.space.from_text(TINY.space.to_text(distinct(TINY, 1)[0]))
    names = set(network(TINY.evaluator, architecture).state_dict())
    assert set(read) == names and len(names) < len(stored)
    with pytest.raises(UserError, match="cannot be read"):
        mapped_tensors(Path("nowhere.safetensors"))


def test_the_same_weights_come_again_and_others_from_another_supernet() -> None:
    architecture = distinct(TINY, 1)[0]
    one, two = (network(TINY.evaluator, architecture).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = chz.replace(TINY.evaluator, supernet=chz.replace(SUPERNET, seed=1, epochs=1))
    prints = [chz.replace(TINY, evaluator=e).start("cpu", 1).fingerprint for e in (TINY.evaluator, other)]
    assert prints[0] != prints[1]


# ---- recalibration


def test_recalibration_mends_what_inherited_statistics_spoil() -> None:
    val, architectures = TINY.data.load().val, distinct(TINY, 8)
    errors = {
        kind: np.mean(
            [clean_error(network(chz.replace(TINY.evaluator, recalibration=kind), a), val) for a in architectures]
        )
        for kind in ("none", "clean", "adversarial")
    }
    assert errors["clean"] < errors["none"] - 0.05
    assert errors["adversarial"] < errors["none"] - 0.05
    assert errors["clean"] != errors["adversarial"]


def test_statistics_become_the_mean_over_the_batches_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    reached, lonely = nn.BatchNorm2d(1, momentum=0.3), nn.BatchNorm2d(4)
    lonely.running_mean.fill_(7)  # type: ignore[union-attr, operator]
    model = nn.Sequential(reached, nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 10))
    model.add_module("lonely", nn.Identity())
    model.lonely.inner = lonely  # type: ignore[union-attr]
    given = draw_batches(TINY.data.load().train, 64, Augment(crop_padding=1), 20, seed=3)
    assert len(given) == 20 and all(len(y) >= 2 for _, y in given)  # 14 batches are a pass
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    recalibrate(model, given)
    assert torch.equal(torch.get_rng_state(), state)
    means = torch.stack([x.mean() for x, _ in given])
    variances = torch.stack([x.var() for x, _ in given])
    torch.testing.assert_close(reached.running_mean, means.mean()[None])
    torch.testing.assert_close(reached.running_var, variances.mean()[None])
    assert reached.momentum == 0.3 and not any(m.training for m in model.modules())
    assert lonely.running_mean is not None and lonely.running_mean.tolist() == [7] * 4
    assert all(torch.equal(p, weights[name]) and p.grad is None for name, p in model.named_parameters())


def test_all_candidates_are_recalibrated_on_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[torch.Tensor]] = []

    def watch(model: nn.Module, given: Any, *args: Any, **kwargs: Any) -> None:
        seen.append([x for x, _ in given])
        recalibrate(model, given, *args, **kwargs)

    monkeypatch.setattr(one_shot, "recalibrate", watch)
    evaluate(TINY, distinct(TINY, 2))
    assert len(seen) == 2 and len(seen[0]) == 4
    assert all(a is b for a, b in zip(*seen, strict=True))


# ---- figures


def test_what_is_inherited_is_recorded_beside_what_finetuning_makes_of_it() -> None:
    architectures = distinct(TINY, 2)
    for before, after in zip(evaluate(FEW, architectures), evaluate(TUNED, architectures), strict=True):
        assert before.status == after.status == "ok" and "inherited" not in before.figures
        robust, clean = before.objectives["robust_error"], before.recorded["clean_error"]
        strength = before.figures["robust_error"]["0.05"]
        expected = {"robust_error": robust, "clean_error": clean, "robust_error.0.05": strength}
        assert after.figures["inherited"] == expected
        assert after.recorded != before.recorded
        assert after.figures["robust_error"]["0.05"] == after.objectives["robust_error"]
        assert 0 <= after.figures["train_error"] <= 1


def test_all_candidates_are_finetuned_with_the_same_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    train = one_shot.train
    monkeypatch.setattr(
        one_shot, "train", lambda *args, **kwargs: seeds.append(kwargs["seed"]) or train(*args, **kwargs)
    )
    architectures = distinct(TINY, 2)
    found = evaluate(TUNED, architectures)
    assert found[0].seed != found[1].seed and seeds[0] == seeds[1]
    anew = evaluate(chz.replace(TUNED, evaluator=chz.replace(TUNED.evaluator, seed=1)), architectures[:1])[0]
    assert seeds[2] != seeds[0] and anew.figures["train_error"] != found[0].figures["train_error"]


def test_comparing_changes_no_other_figure() -> None:
    plain = chz.replace(TUNED, evaluator=chz.replace(TUNED.evaluator, compare=False))
    one, other = (evaluate(p, distinct(TINY, 1))[0] for p in (TUNED, plain))
    assert "inherited" not in other.figures
    assert (one.objectives, one.recorded) == (other.objectives, other.recorded)
    assert {k: v for k, v in one.figures.items() if k != "inherited"} == other.figures


def test_one_clean_pass_serves_all_objectives_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    mask = base.correct_mask
    monkeypatch.setattr(base, "correct_mask", lambda *args: passes.append(len(args[1])) or mask(*args))
    problem = chz.replace(
        TUNED, objectives=(CleanError(), *TUNED.objectives), recorded=(CleanError(limit=9, label="few"),)
    )
    evaluation = evaluate(problem, distinct(TINY, 1))[0]
    assert passes == [len(FEW.data.load().val)] * 2
    assert evaluation.figures["inherited"]["clean_error"] != evaluation.objectives["clean_error"]


def test_a_time_limit_is_kept() -> None:
    problem = chz.replace(TINY, evaluator=chz.replace(TUNED.evaluator, time_limit=1e-6))
    evaluation = evaluate(problem, distinct(TINY, 1))[0]
    assert evaluation.status == "failed" and "evaluator.time_limit=1e-06" in (evaluation.error or "")


# ---- gates


def test_a_gate_rejects_above_the_quantile_and_pays_no_finetuning(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    train = one_shot.train
    monkeypatch.setattr(one_shot, "train", lambda *args, **kwargs: trained.append(1) or train(*args, **kwargs))
    session = GATED.start("cpu", 1)
    assert not trained
    (gate,) = session.job.gates  # type: ignore[attr-defined]
    architectures = distinct(TINY, 7)
    found = [e for _, e in session.evaluate(architectures)]
    rejected = [e for e in found if e.status == "rejected"]
    assert 2 <= len(rejected) <= 5 and len(trained) == len(found) - len(rejected)
    free = chz.replace(FEW, recorded=(EARLY,))
    for inherited, e in zip(evaluate(free, architectures), found, strict=True):
        value = inherited.recorded["early"]
        assert e.constraints["early_gate"] == value / gate.at_most - 1
        assert (e.status == "rejected") == (value > gate.at_most)
        if e.status == "rejected":
            assert e.error == f"rejected before finetuning: early {value:#.3g} > {gate.at_most:#.3g}"
            assert e.objectives == {} and "inherited" not in e.figures and e.figures["params"] > 0


def test_the_limit_is_the_quantile_over_random_architectures(tmp_path: Path) -> None:
    problem = chz.replace(GATED, constraints=(chz.replace(GATED.constraints[0], quantile=0.25),))
    (gate,) = problem.start("cpu", 1, tmp_path).job.gates  # type: ignore[attr-defined]
    kept = json.loads((tmp_path / "gates.json").read_text())["early_gate"]
    assert len(kept["found"]) == 6 and kept["limit"] == gate.at_most
    texts = list(kept["found"])
    plain = chz.replace(FEW, recorded=(EARLY,))
    values = [e.recorded["early"] for e in evaluate(plain, [TINY.space.from_text(t) for t in texts])]
    assert list(kept["found"].values()) == values
    assert gate.at_most == np.quantile(values, 0.25)


def test_a_limit_is_found_once_and_anew_where_its_file_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    value = pool.inherited_value
    monkeypatch.setattr(pool, "inherited_value", lambda *args: measured.append(1) or value(*args))

    def limit() -> float:
        measured.clear()
        return GATED.start("cpu", 1, tmp_path).job.gates[0].at_most  # type: ignore[attr-defined]

    file = tmp_path / "gates.json"
    first = limit()
    assert len(measured) == 6
    assert limit() == first and not measured
    kept = json.loads(file.read_text())
    del kept["early_gate"]["found"][next(iter(kept["early_gate"]["found"]))]  # as when it was killed
    file.write_text(json.dumps(kept))
    assert limit() == first and len(measured) == 1
    for damaged in ("{", "[]", '{"early_gate": 1}', json.dumps(kept).replace(": 0.", ": -NaN.")):
        file.write_text(damaged)
        assert limit() == first and len(measured) == 6
    kept["early_gate"]["fingerprint"] = "another search"
    file.write_text(json.dumps(kept))
    assert limit() == first and len(measured) == 6


def test_a_sample_may_fail_in_part_but_not_as_a_whole() -> None:
    (gate,) = chz.replace(TINY, constraints=(Gate(of=Moody(), sample=8),)).start("cpu", 1).job.gates  # type: ignore[attr-defined]
    assert gate.at_most == 0.25
    with pytest.raises(UserError, match="2 random architectures or more.*got 0.*ValueError: not today"):
        chz.replace(TINY, constraints=(Gate(of=Moody(always=True), sample=3),)).start("cpu", 1)


def test_a_fixed_limit_needs_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pool, "inherited_value")
    problem = chz.replace(TUNED, constraints=(Gate(of=CleanError(), at_most=1e-9),))
    assert [e.status for e in evaluate(problem, distinct(TINY, 2))] == ["rejected"] * 2


def test_cheap_constraints_come_before_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_shot, "inherit", None)
    gate = Gate(of=CleanError(), at_most=0.5)
    evaluation = evaluate(
        chz.replace(TUNED, constraints=(gate, Constraint(of=Params(), at_most=1))), distinct(TINY, 1)
    )[0]
    assert evaluation.error == "rejected before training: params_at_most"
    assert list(evaluation.constraints) == ["params_at_most"]


# ---- whole searches


class _Stop(Exception):
    pass


def test_interrupted_or_with_two_workers_a_search_gives_the_same_record(tmp_path: Path) -> None:
    whole = search(GATED, tmp_path / "whole", device="cpu", workers=1)
    assert {row["status"] for row in whole.evaluations} == {"ok", "rejected"} and len(whole.evaluations) == 8

    def stop(_: Any) -> None:
        raise _Stop

    with pytest.raises(_Stop):  # the gate's sample and the first generation by two workers, the rest by one
        search(GATED, tmp_path / "killed", device="cpu", workers=2, on_generation=stop)
    assert figures(search(GATED, tmp_path / "killed", device="cpu", workers=1)) == figures(whole)
    curve = (tmp_path / "killed" / "supernet_learning_curve.csv").read_text().splitlines()
    assert (
        len(curve) == 1 + SUPERNET.epochs and (tmp_path / "killed" / "supernet_learning_curve.png").stat().st_size > 0
    )


def test_exported_weights_are_those_that_were_measured(tmp_path: Path) -> None:
    problem = chz.replace(TUNED, algorithm=RandomSearch(pop_size=1, n_gen=1))
    run = search(problem, tmp_path / "run", device="cpu", workers=1)
    for row in run.evaluations:
        assert clean_error(rebuild(run, row)[0], FEW.data.load().val) == row["recorded"]["clean_error"]


# ---- exports on another machine


@pytest.fixture
def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A search of one network whose supernet lies in a cache of its own."""
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(tmp_path / "cache"))
    problem = chz.replace(TINY, algorithm=RandomSearch(pop_size=1, n_gen=1))
    return search(problem, tmp_path / "run", device="cpu", workers=1)


def supernet_folder(kind: str) -> Path:
    return SUPERNET.folder(TINY.space, TINY.data, cache_folder(), kind)


def on_cuda(run: Run) -> Run:
    """The run as if it had been searched on the second of several CUDA devices."""
    path = run.folder / "problem.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "device": "cuda:1"}))
    return load_run(run.folder)


def test_the_supernet_is_that_of_the_search_s_kind_of_device(searched: Run) -> None:
    (row,) = searched.evaluations
    other = chz.replace(SUPERNET, seed=1).build_or_load(TINY.space, TINY.data, cache_folder())
    shutil.copytree(other.parent, supernet_folder("cuda"))
    lines: list[str] = []
    (model, state), (elsewhere, foreign) = rebuild(searched, row), rebuild(on_cuda(searched), row, "cpu", lines.append)
    assert state == SUPERNET.fingerprint(TINY.space, TINY.data, cache_folder(), "cpu") != foreign
    one, two, given = model.state_dict(), elsewhere.state_dict(), read_tensors(other)[0]
    weights = [name for name, _ in elsewhere.named_parameters()]
    assert all(torch.equal(two[name], given[name]) for name in weights) and lines == []
    assert not all(torch.equal(two[name], one[name]) for name in weights)


def test_a_supernet_that_is_gone_is_trained_again_and_that_is_said(
    searched: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(supernet_folder("cpu"))
    assert export.main([f"run={searched.folder}", "onnx=false", f"out={tmp_path / 'out'}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"the supernet of this search is no longer in {supernet_folder('cpu')}" in said
    assert "the search recorded" not in said  # on the same machine it comes out the same
    provenance = load_genotype(tmp_path / "out").provenance
    assert provenance["supernet"] == SUPERNET.fingerprint(TINY.space, TINY.data, cache_folder(), "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_supernet_that_cannot_be_trained_here_is_named(
    searched: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"run={on_cuda(searched).folder}", f"out={tmp_path / 'out'}"]
    assert export.main(given) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "weights=false" in error
    assert f"was trained on cuda and is not in {supernet_folder('cuda')}: bring that folder here" in error
    assert not (tmp_path / "out").exists() and not supernet_folder("cuda").exists()
    assert export.main([*given, "weights=false"]) == 0
    assert "supernet" not in load_genotype(tmp_path / "out").provenance


# ---- what is refused


def test_a_space_without_supernet_is_refused() -> None:
    with pytest.raises(ValueError, match="shares weights.*NSGAPhases"):
        chz.replace(TINY, space=NSGAPhases(phases=2, nodes=3, channels=4))


def test_a_gate_without_inherited_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="early_gate.*OneShot, got FromScratch"):
        chz.replace(GATED, evaluator=FromScratch(epochs=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recalibration": "some"}, "recalibration to be 'adversarial', 'clean' or 'none', got 'some'"),
        ({"recalibration_batches": 0}, "recalibration_batches >= 1"),
        ({"finetune": -1}, "finetune >= 0"),
    ],
)
def test_bad_settings_of_the_evaluator_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OneShot(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantile": 0.0}, r"quantile in \(0,1\)"),
        ({"quantile": 1.0}, r"quantile in \(0,1\)"),
        ({"sample": 1}, "sample >= 2"),
        ({"at_most": 0.0}, "at_most > 0"),
        ({"of": Params()}, "needs weights"),
    ],
)
def test_bad_gates_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gate(**{"of": CleanError(), **settings})


def test_a_constraint_still_needs_its_limit() -> None:
    with pytest.raises(ValueError, match="at_most > 0, got None"):
        Constraint(of=Params(), at_most=None)
    with pytest.raises(ValueError, match="expected a limit"):
        Gate(of=CleanError()).violation(0.5)


def test_all_of_it_is_written_like_any_part() -> None:
    argv = {"recalibration": "none", "finetune": "3", "supernet.epochs": "7", "recipe": "FastTraining"}
    made = make(OneShot, argv, {}, "test")
    # what both recipes have from their base stays that of finetuning
    usual = OneShot().recipe
    kept = {name: getattr(usual, name) for name in ("lr", "batch_size", "weight_decay", "decay_bn")}
    finetuning = FastTraining(**kept)
    assert made == OneShot(recalibration="none", finetune=3, supernet=SupernetTraining(epochs=7), recipe=finetuning)
    assert problem_from_dict(problem_to_dict(GATED)) == GATED
    with pytest.raises(UserError, match="recalibration"):
        make(OneShot, {"recalibration": "sometimes"}, {}, "test")

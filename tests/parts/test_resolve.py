"""Keys that leave places free, and parts of which only what is below was given: the message names what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evo_robust import CleanError, Digits, FromScratch, NSGAPhases, Params, Problem, RandomSearch, retrain
from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.networks.genotype import Genotype, load_genotype, save_genotype
from evo_robust.objectives.combined import WeightedSum
from evo_robust.parts.base import UserError, dotted
from evo_robust.problem.files import problem_from_dict, problem_to_dict
from evo_robust.problem.overrides import override

PROBLEM = Problem(
    space=NSGAPhases(phases=1, nodes=2, channels=2),
    data=Digits(train_limit=40),
    objectives=(CleanError(), WeightedSum(of=(Params(), Params(label="again")), weights=(1.0, 2.0))),
    evaluator=FromScratch(epochs=1),
    algorithm=RandomSearch(pop_size=2, n_gen=1),
)

KEYS = [
    ({"objectives.3000": "Params"}, "objectives.3000: expected objectives.2, the first place that is free"),
    ({"objectives.5": "Params"}, "objectives.5: expected objectives.2"),
    ({"objectives.5.label": "x"}, "objectives.5: expected objectives.2"),
    ({"objectives.123456789": "Params"}, "objectives.123456789: expected objectives.2"),
    ({"objectives.1.of.7": "Params"}, "objectives.1.of.7: expected objectives.1.of.2"),
    ({"objectives.1.of.7.label": "x"}, "objectives.1.of.7: expected objectives.1.of.2"),
    ({"objectives.2.label": "x"}, "missing: objectives.2, one of: "),
    ({"objectives.1.of.2.label": "x"}, "missing: objectives.1.of.2, one of: "),
    ({"objectives.02": "Params"}, "unknown key 'objectives.02'"),
    ({"objectives." + "9" * 5000: "Params"}, "unknown key 'objectives.999"),
    ({"seed.5000000": "1"}, "unknown key 'seed.5000000'"),
    ({"constraints.0.at_most": "3"}, "missing: constraints.0.of, one of: "),
]


@pytest.mark.parametrize(("given", "said"), KEYS)
def test_a_gap_is_named_on_the_command_line_and_in_problem_json(given: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        override(PROBLEM, given, "test")
    info: dict[str, Any] = json.loads(json.dumps(problem_to_dict(PROBLEM)))
    info["values"] |= given
    if given.keys() & {"constraints.0.at_most"}:
        del info["values"]["constraints"]
    for error in (caught, pytest.raises(ValueError, problem_from_dict, info)):
        message = str(error.value)
        assert said in message and "abstract" not in message and "\n" not in message and len(message) < 700


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("algorithm", "missing: algorithm, one of: "),
        ("space", "missing: space, one of: "),
        ("objectives.0", "missing: objectives.0, one of: "),
        ("objectives.1", "missing: objectives.1, one of: "),
        ("objectives.1.of.0", "missing: objectives.1.of.0, one of: "),
    ],
)
def test_a_class_that_is_gone_from_problem_json_is_named(gone: str, said: str) -> None:
    info = problem_to_dict(PROBLEM)
    del info["values"][gone]
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        problem_from_dict(info)


def test_a_gap_in_a_genotype_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = PROBLEM.space
    architecture = space.decode(space.sample(np.random.default_rng(0)))
    adversarial = {**dotted(AdversarialSet()), "victims.7": "lenet"}
    del adversarial["victims"]
    path = tmp_path / "genotype.json"
    provenance = {"adversarial_set": adversarial}
    save_genotype(Genotype(space, architecture, "digits", 10, (1, 8, 8), provenance=provenance), path)
    assert retrain.main([f"genotype={path}", "adversarial_set=search", f"out={tmp_path / 'out'}"]) == 2
    printed = capsys.readouterr().err
    assert "adversarial_set.victims.7: expected victims.0" in printed and printed.count("\n") == 1
    content = json.loads(path.read_text())
    content["space"] |= {"recipe.5": 3, "seeds.3000": "x"}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"genotype\.json: "):
        load_genotype(path)
    assert not (tmp_path / "out").exists()

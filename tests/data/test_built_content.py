"""A search goes on while what was built for it has the same content, and not when it has another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import chz
import pytest
import torch

from evo_robust import NSGA2, FromScratch, Params, Problem, Standard, WeightedSum, search
from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.adversarial_set.samples import Samples
from evo_robust.attacks.level.attack import CMAES
from evo_robust.data.images import Images
from evo_robust.data.sets import Digits
from evo_robust.evaluators.pool import PoolSession
from evo_robust.files import former_digests, read_tensors, write_tensors
from evo_robust.objectives.base import Context
from evo_robust.objectives.transfer import TransferError
from evo_robust.parts.base import UserError, digest
from evo_robust.record.reading import Run
from evo_robust.spaces.nsga.space import NSGAPhases

DATA = Digits()
FEW = AdversarialSet(
    victims=("lenet",), width=0.25, epochs=1, recipe=Standard(lr=0.1, batch_size=64), norms=("linf",),
    linf_levels=(48,), optimiser=CMAES(max_iter=5), sources=10,
)  # fmt: skip


def searched(folder: Path, n_gen: int) -> Run:
    problem = Problem(
        space=NSGAPhases(phases=1, nodes=3, channels=2),
        data=DATA,
        objectives=(TransferError(adversarial_set=FEW), Params()),
        evaluator=FromScratch(epochs=0),
        algorithm=NSGA2(pop_size=2, n_gen=n_gen),
    )
    return search(problem, folder, device="cpu", workers=1)


def under(folder: Path, fingerprint: Callable[[str], str]) -> set[str]:
    """Give the rows of a ledger other fingerprints; the new ones."""
    path = folder / "evaluations.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["fingerprint"] = fingerprint(row["fingerprint"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {row["fingerprint"] for row in rows}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.mark.parametrize("order", [0, 1])
def test_a_search_goes_on_after_its_set_was_built_again(own_cache: Path, tmp_path: Path, order: int) -> None:
    first = searched(tmp_path / "run", 1)
    shutil.rmtree(own_cache)
    again = searched(tmp_path / "run", 2)
    assert again.evaluations[: len(first.evaluations)] == first.evaluations
    assert len({row["fingerprint"] for row in again.evaluations}) == 1

    # a record from the time when the file's bytes were hashed, with its metadata in this or in that order
    set_file = FEW.folder(DATA, own_cache) / "search.safetensors"
    head = set_file.read_bytes()
    info, total = re.findall(rb'"info":"(?:[^"\\]|\\.)*"|"sha256":"[0-9a-f]{64}"', head)
    swapped = head.replace(info + b"," + total, total + b"," + info)
    assert swapped != head
    set_file.write_bytes((head, swapped)[order])
    old_state = digest(1, hashlib.sha256(set_file.read_bytes()).hexdigest())
    session = again.problem.start("cpu", 1)
    assert isinstance(session, PoolSession)
    (old,) = under(tmp_path / "run", lambda _: session._fingerprint(session.job.context, [old_state, ""]))
    shutil.rmtree(own_cache)
    gone_on = searched(tmp_path / "run", 3)
    assert {row["fingerprint"] for row in gone_on.evaluations} == {old}
    assert len(gone_on.evaluations) > len(again.evaluations)


def test_a_search_does_not_go_on_with_other_images(own_cache: Path, tmp_path: Path) -> None:
    searched(tmp_path / "run", 1)
    file = FEW.folder(DATA, own_cache) / "search.safetensors"
    samples = Samples.read(file)
    changed = Images(samples.images.x ^ 1, samples.images.y)
    dataclasses.replace(samples, images=changed).write(file)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.suffix in (".jsonl", ".csv")}
    message = r"would not compare.*\(transfer_error\) has changed.*Nothing was changed; choose another out="
    with pytest.raises(UserError, match=message):
        searched(tmp_path / "run", 2)
    assert {path: path.read_bytes() for path in before} == before


def test_a_weighted_sum_knows_what_its_terms_were_called() -> None:
    @chz.chz
    class Named(TransferError):
        def state(self, context: Context) -> str:
            return "new"

        def former_states(self, context: Context) -> list[str]:
            return ["old", "older"]

    context = Context(space=NSGAPhases(), data=DATA, seed=0, device="cpu", workers=1, cache=Path())
    total = WeightedSum(of=(Named(), Params(), Named(label="b")))
    assert set(total.former_states(context)) == {
        a + b for a in ("new", "old", "older") for b in ("new", "old", "older")
    }


def test_files_of_tensors_repeat_to_the_byte(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3), "a": torch.zeros(2, 2)}
    info = {"name": 'quoted "sha256":"0" and ä\\', "rows": [1, {"x": None}]}
    for number in range(12):
        write_tensors(tmp_path / f"{number}.safetensors", tensors, info)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    read, told = read_tensors(tmp_path / "0.safetensors")
    assert told == info and all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert (
        hashlib.sha256((tmp_path / "0.safetensors").read_bytes()).hexdigest()
        == former_digests(tmp_path / "0.safetensors")[0]
    )

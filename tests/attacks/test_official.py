"""The official AutoAttack: its own result, and clear messages where it cannot be made."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from attackable import linear_problem, seeded, small_cnn
from torch import nn

from evo_robust import judge as door
from evo_robust.attacks.base import Threat
from evo_robust.attacks.official import AutoAttack
from evo_robust.data.images import Images
from evo_robust.inference.predictions import classes
from evo_robust.judging.trials import trials
from evo_robust.parts.base import Fraction, UserError

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("pyautoattack") is None,
    reason="pyautoattack is not installed (pip install 'evo_robust[judge]')",
)


@needs_package
@pytest.mark.parametrize(("norm", "name", "eps"), [("linf", "Linf", 0.15), ("l2", "L2", 2.0)])
def test_it_is_what_the_authors_code_finds(
    norm: str, name: str, eps: float, trained: nn.Module, held_out: Images
) -> None:
    from pyautoattack import AutoAttack as Official

    x, y = held_out.floats(slice(6)), held_out.y[:6]
    threat = Threat(norm=norm, eps=Fraction(eps))  # type: ignore[arg-type]
    before = torch.random.get_rng_state()
    found = AutoAttack().perturb(trained, x, y, threat, seeded(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.requires_grad for parameter in trained.parameters())
    assert sys.gettrace() is None
    away = (found - x).flatten(1).norm(p=torch.inf if norm == "linf" else 2, dim=1)
    assert float(away.max()) <= eps * 1.001
    with torch.random.fork_rng():
        seed = int(torch.randint(2**31, (1,), generator=seeded(3)))
        official = Official(copy.deepcopy(trained), norm=name, eps=eps, seed=seed, version="standard")
        expected = official.run_standard_evaluation(x, y, batch_size=6)[0]
    assert torch.equal(found, expected)
    assert bool((classes(trained(found)) != y).any())


@needs_package
def test_a_network_of_few_classes_is_refused() -> None:
    model, images = linear_problem(n=4)
    with pytest.raises(ValueError, match="expected 10 classes or more for the official AutoAttack.*got 2"):
        AutoAttack().perturb(model, images.floats(), images.y, Threat(), seeded())


@needs_package
def test_the_judge_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from attackable import small_cnn\n")
    torch.save(small_cnn().state_dict(), "w.pt")
    words = ["networks=mine.py:small_cnn@w.pt", "data=digits", "images=8", "eps=.3", "signs=no", "device=cpu"]
    assert door.main([*words, "attacks=autoattack", "out=o"]) == 0
    assert "AutoAttack 0.3" in Path("o/judgement.md").read_text()


def test_a_missing_package_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)  # as where it is not installed
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from attackable import small_cnn\n")
    torch.save(small_cnn().state_dict(), "w.pt")
    assert door.main(["networks=mine.py:small_cnn@w.pt", "data=digits", "attacks=autoattack", "out=o"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'evo_robust[judge]'" in said
    assert "Traceback" not in said
    assert not Path("o").exists()
    model, images = linear_problem(n=4)
    with pytest.raises(ValueError, match="pip install pyautoattack"):
        AutoAttack().perturb(model, images.floats(), images.y, Threat(), seeded())


def test_its_name_refuses_what_it_cannot_do() -> None:
    def named(text: str, n_classes: int) -> None:
        trials(text, (0.1,), (), None, "linf", n_classes=n_classes)

    with pytest.raises(UserError, match="expected 10 classes or more, got 5"):
        named("autoattack", 5)
    with pytest.raises(UserError, match="without a number"):
        named("autoattack-5", 10)

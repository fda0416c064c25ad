"""The judge as a Python function, on real digits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import evo_robust
from evo_robust import Digits, Judgement, UserError, judge_networks, zoo
from evo_robust import judge as door
from evo_robust.judging.work import read_judgement

DIGITS = Digits(test_limit=60)
ASKED = {"data": DIGITS, "attacks": "fgsm,pgd-3", "eps": (0.05, 0.1), "signs": False, "device": "cpu"}


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(3)
    return zoo.build("lenet", 10, (1, 8, 8)).train()


def figures(judgement: Judgement) -> list[list[tuple[str, int, int]]]:
    return [[(f.column, f.right, f.n) for f in verdict.figures] for verdict in judgement.verdicts]


def test_python_and_the_command_find_the_same(network: nn.Module, tmp_path: Path) -> None:
    weights = tmp_path / "lenet.safetensors"
    save_file(network.state_dict(), weights)
    mine = judge_networks({"mine": network}, tmp_path / "mine", **ASKED)  # type: ignore[arg-type]
    named = judge_networks(f"lenet@{weights}", tmp_path / "named", **ASKED)  # type: ignore[arg-type]
    words = [f"networks=lenet@{weights}", "data=digits", "data.test_limit=60", "attacks=fgsm,pgd-3", "eps=.05,.1"]
    assert door.main([*words, "signs=no", "device=cpu", f"out={tmp_path / 'typed'}"]) == 0
    assert figures(mine) == figures(named) == figures(read_judgement(tmp_path / "typed"))
    assert mine.verdicts[0].name == "mine"
    assert (tmp_path / "mine" / "judgement.md").is_file()


def test_a_network_of_ones_own_stays_as_it_is(network: nn.Module, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    judge_networks({"mine": network}, tmp_path, **ASKED)  # type: ignore[arg-type]
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_images_of_one_network_judge_another(network: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(4)
    other = zoo.build("lenet", 10, (1, 8, 8))
    found = judge_networks({"mine": network}, tmp_path, sources={"other": other}, **ASKED)  # type: ignore[arg-type]
    assert {(t.source, t.target, t.kinship) for t in found.transfers} == {("other", "mine", "copy")}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"networks": {"mine": "resnet"}}, "'mine': expected a torch.nn.Module, got str"),
        ({"networks": {"mine": nn.LazyLinear(10)}}, "'mine': expected weights with shapes and values, .* weight"),
        ({"networks": {"mine": nn.Linear(64, 10).to("meta")}}, "'mine': expected weights with shapes and values"),
        (
            {"networks": {"mine": nn.Linear(64, 10).half()}},
            "'mine': expected weights in float32, got float16 for weight",
        ),
        ({"networks": []}, "expected networks"),
        ({"data": None}, "expected data=NAME"),
        ({"attacks": "pgdd"}, "did you mean 'pgd'"),
        ({"images": 0}, "expected images >= 1"),
        ({"device": "gpu"}, "expected auto, cpu"),
        ({"networks": {}}, "expected networks: .*got none"),
        ({"networks": 3}, "expected networks: .*got int"),
        ({"networks": {"a\nb": nn.Identity()}}, "in one line of text, got"),
        ({"networks": {1: nn.Identity()}}, "in one line of text, got 1"),
        ({"data": Digits}, "expected data to be a DataSet or None"),
        ({"data": "digits"}, "expected data to be a DataSet or None, got 'digits'"),
        ({"images": 1.5}, "expected images to be a whole number or None, got 1.5"),
        ({"seed": None}, "expected seed to be a whole number"),
        ({"attacks": ["fgsm"]}, "expected attacks to be text"),
        ({"attacks": "pgd", "steps": 5}, "expected steps to be"),
        ({"precision": "float16"}, "expected precision to be"),
        ({"norm": "l1"}, "expected norm to be 'linf' or 'l2'"),
        ({"eps": 0.1}, "expected eps to be a sequence of numbers"),
        ({"eps": ()}, "expected at least one eps"),
        ({"attacks": "level-l0-2"}, r"eps=0.05, 0.1 has no effect on attacks=level-l0-2"),
    ],
)
def test_a_wrong_argument_gets_one_clear_message(
    network: nn.Module, tmp_path: Path, given: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        judge_networks(**{"networks": {"mine": network}, "out": tmp_path / "out", **ASKED, **given})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


class Noisy(nn.Module):
    """A network that draws random numbers at every pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + torch.randn(len(x), 10)


def test_a_network_that_draws_gets_the_same_figures_again(network: nn.Module, tmp_path: Path) -> None:
    given = {"networks": {"noisy": Noisy(network)}, **ASKED, "signs": True}
    noisy = {**given, "sources": {"one": Noisy(network), "other": Noisy(zoo.build("lenet", 10, (1, 8, 8)))}}
    for asked in (given, noisy):
        once, again = (judge_networks(out=tmp_path / f"{len(asked)}-{k}", **asked) for k in range(2))  # type: ignore[arg-type]
        assert figures(once) == figures(again)
        assert [v.signs for v in once.verdicts] == [v.signs for v in again.verdicts]


def test_numbers_of_numpy_and_torch_are_numbers(network: nn.Module, tmp_path: Path) -> None:
    given = {"images": np.int64(40), "seed": np.int64(1), "steps": [np.int64(2)], "step": 2 / 255}
    asked = {**ASKED, "attacks": "pgd", "eps": torch.tensor([0.05, 0.1]), **given}
    found = judge_networks({"mine": network}, tmp_path, **asked)  # type: ignore[arg-type]
    assert (found.n, found.columns) == (40, ["clean", "PGD-2 0.05", "PGD-2 0.1"])
    assert read_judgement(tmp_path) == found


def test_the_front_door_imports_no_pictures() -> None:
    assert evo_robust.judge_networks is judge_networks
    code = "import evo_robust, sys; sys.exit('matplotlib' in sys.modules or 'pyautoattack' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

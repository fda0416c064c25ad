"""Operation and parameter counts against published figures, hand counts and torch's own counter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evo_robust.data.sets import Digits
from evo_robust.objectives.base import Candidate, Context
from evo_robust.objectives.cost import Flops, Params, count_flops, count_params
from evo_robust.spaces import NSGAPhases

TABLE_V = "[0][01][000][0000][00000][0]/[1][00][010][1100][00110][1]/[0][00][101][0111][10111][1]"
RULES = ("thop", "macs", "nsga")


def table_v() -> nn.Module:
    space = NSGAPhases()
    return space.build(space.from_text(TABLE_V), 10, (3, 32, 32))


@pytest.mark.parametrize(("rule", "published"), [("nsga", 32_223_744), ("macs", 31_852_352), ("thop", 32_314_624)])
def test_table_v_network_to_the_unit(rule: str, published: int) -> None:
    assert count_flops(table_v(), (3, 32, 32), rule) == published  # type: ignore


def test_table_v_parameters() -> None:
    assert count_params(table_v()) == 338_394


def test_rules_on_a_network_counted_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, groups=2),  # 6·(4/2)·9·64 MACs + 6·64 for the bias
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AvgPool2d(2),  # 6·64 in, 6·16 out
        nn.ConvTranspose2d(6, 2, 2, stride=2, bias=False),  # 6·16·2·4 MACs
        nn.Flatten(),
        nn.Linear(128, 3),
    )
    macs = 6 * 2 * 9 * 64 + 6 * 16 * 2 * 4 + 128 * 3
    assert count_flops(model, (4, 8, 8), "macs") == macs
    assert count_flops(model, (4, 8, 8), "nsga") == macs + 6 * 64 + 2 * 6 * 64 + 6 * 64 + 6 * 64


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_macs_agree_between_rules_on_torchvision_networks(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None, num_classes=10)
    macs = 0

    def add(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        fan_in = module.weight[0].numel()
        macs += output.numel() * fan_in

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(add)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    counted = macs
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert count_flops(model, (3, 32, 32), "macs") == counted == counter.get_total_flops() // 2
    assert counted < count_flops(model, (3, 32, 32), "thop")
    assert counted < count_flops(model, (3, 32, 32), "nsga")


@pytest.mark.parametrize("rule", RULES)
def test_counting_leaves_no_trace(rule: str, capfd: pytest.CaptureFixture[str]) -> None:
    model = table_v().train()
    model.get_submodule("features.1").eval()  # modes may differ from module to module
    modes = {name: module.training for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    rng = torch.get_rng_state()
    count_flops(model, (3, 32, 32), rule)  # type: ignore
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)
    assert capfd.readouterr() == ("", "")


def test_other_number_types_and_modules_without_parameters() -> None:
    assert count_flops(nn.Linear(4, 2).double(), (1, 1, 4), "macs") == 8
    assert count_flops(nn.ReLU(), (1, 2, 2), "nsga") == 4
    assert count_params(nn.ReLU()) == 0


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="expected rule thop, macs or nsga, got 'mac'"):
        count_flops(nn.ReLU(), (1, 2, 2), "mac")  # type: ignore
    with pytest.raises(ValueError, match="rule to be 'thop', 'macs' or 'nsga', got 'mac'"):
        Flops(rule="mac")  # type: ignore


def test_objectives_count_before_and_after_there_are_weights(tmp_path: Path) -> None:
    space, data = NSGAPhases(channels=4), Digits()
    context = Context(space=space, data=data, seed=0, device="cpu", workers=1, cache=tmp_path)
    architecture = space.seeds()[1]
    candidate = Candidate(
        context=context, architecture=architecture, text=space.to_text(architecture), seed=1, splits=data.load()
    )
    rng = torch.get_rng_state()
    before = [objective.measure(candidate) for objective in (Flops(), Flops(rule="nsga"), Params())]
    assert torch.equal(torch.get_rng_state(), rng)
    assert candidate.model is None
    candidate.model = space.build(architecture, data.n_classes, data.in_shape).eval()
    assert [objective.measure(candidate) for objective in (Flops(), Flops(rule="nsga"), Params())] == before
    assert before[2] == sum(p.numel() for p in candidate.model.parameters())


def test_objectives_have_names_and_units() -> None:
    assert (Flops().name, Flops().unit) == ("flops", "operations counted by thop")
    assert (Params().name, Params().unit) == ("params", "parameters")
    assert not Flops.needs_weights
    assert not Params.needs_weights

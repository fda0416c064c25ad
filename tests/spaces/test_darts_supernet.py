"""DARTS's supernet: paths, mixtures, what they cost, where gradients go; and the space in a whole search."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_darts import FEW, SHARED, SPACE, name_of, point_conv, run_operation, weights_of
from torch import Tensor, fx, nn

from evo_robust import analyze, export, plot
from evo_robust.algorithms.evolution import NSGA2
from evo_robust.attacks.base import Threat
from evo_robust.attacks.fast import for_attack
from evo_robust.attacks.gradient import FGSM
from evo_robust.data.sets import Digits
from evo_robust.evaluators.one_shot import OneShot
from evo_robust.final_training.work import retrain
from evo_robust.objectives.cost import Params, count_flops
from evo_robust.objectives.errors import RobustError
from evo_robust.parts.base import Fraction
from evo_robust.problem.value import Problem
from evo_robust.retrain import RetrainOptions, settings_from
from evo_robust.search import search
from evo_robust.spaces import DARTS
from evo_robust.spaces.darts.codec import CONVOLUTIONS, OPERATIONS, full_cell
from evo_robust.spaces.darts.supernet import MixedCell
from evo_robust.spaces.supernet import Mixture, inherit
from evo_robust.training.recipes import FastTraining
from evo_robust.training.supernet_training import SupernetTraining

PARTIAL = chz.replace(SPACE, partial=2)
QUARTER = chz.replace(SHARED, partial=4, layers=2)
REDUCED = chz.replace(SPACE, nodes=2, layers=1, operations=("avg_pool_3x3", "none", "sep_conv_5x5", "skip_connect"))
SPACES = [SPACE, SHARED, PARTIAL, QUARTER, REDUCED]
seeds = st.integers(0, 2**32 - 1)


def images(n: int = 4) -> Tensor:
    return Digits().load().train.floats(slice(n))


def supernet_of(space: DARTS) -> Any:
    """A supernet whose running statistics are not those of the start."""
    torch.manual_seed(0)
    supernet = space.supernet(10, (1, 8, 8))
    with torch.no_grad():
        supernet.train()(images(16))
    return supernet


def mixture_of(space: DARTS, architecture: Any, value: float = 1.0) -> Mixture:
    """The operations of an architecture with one weight, all others with 0."""
    weights = torch.from_numpy(value * weights_of(space, architecture)).float()
    return Mixture(weights[0], weights[-1])


def random_mixture(space: DARTS, seed: int = 0, *, zeros: float = 0.0, grad: bool = False) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(2, *space.mixture_shape[1:], generator=generator)
    weights *= torch.rand(weights.shape, generator=generator) >= zeros
    return Mixture(*(matrix.clone().requires_grad_(grad) for matrix in weights))


@contextmanager
def called(model: nn.Module) -> Iterator[list[str]]:
    """Names ``cell.edge.operation`` of the operations that run."""
    names: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: names.append(name.removeprefix("cells.")))
        for name, module in model.named_modules()
        if name.count(".") == 3 and name.rpartition(".")[2] in OPERATIONS
    ]
    yield names
    for hook in hooks:
        hook.remove()


# --- paths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES, ids=name_of)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=seeds)
def test_a_path_is_the_network_with_inherited_weights(space: DARTS, seed: int) -> None:
    supernet, x = supernet_of(space), images()
    architecture = space.decode(space.sample(np.random.default_rng(seed)))
    network = space.build(architecture, 10, (1, 8, 8))
    inherit(network, supernet.state_dict())
    supernet.choose(architecture)
    torch.testing.assert_close(supernet.eval()(x), network.eval()(x), rtol=1e-5, atol=1e-6)
    logits = [model.train()(x) for model in (supernet, network)]
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-6)
    for y in logits:
        F.cross_entropy(y, torch.arange(4)).backward()
    weights, gradients = supernet.state_dict(), {n: p.grad for n, p in supernet.named_parameters()}
    for name, value in network.state_dict().items():  # statistics moved alike too
        torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-6)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients.pop(name), rtol=1e-3, atol=1e-5)
    assert all(gradient is None for gradient in gradients.values())  # nothing else was touched


def test_every_architecture_of_a_small_space_is_a_path() -> None:
    supernet, x = supernet_of(FEW).eval(), images()
    found = set()
    for genome in itertools.product(*map(range, FEW.n_choices)):
        architecture = FEW.decode(np.array(genome))
        network = FEW.build(architecture, 10, (1, 8, 8)).eval()
        inherit(network, supernet.state_dict())
        supernet.choose(architecture)
        with torch.no_grad():
            logits = supernet(x)
            torch.testing.assert_close(logits, network(x), rtol=1e-5, atol=1e-6)
        found.add(tuple(logits[0].tolist()))
    assert len(found) == 48


@pytest.mark.parametrize("in_shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 70, 65), (1, 9, 7)])
def test_paths_and_mixtures_of_every_size_of_image(in_shape: tuple[int, int, int]) -> None:
    space = chz.replace(PARTIAL, nodes=2, channels=2)
    torch.manual_seed(0)
    supernet, x = space.supernet(5, in_shape), torch.rand(2, *in_shape)
    architecture = space.draw_path(np.random.default_rng(0))
    network = space.build(architecture, 5, in_shape)
    inherit(network, supernet.state_dict())
    for path in (architecture, mixture_of(space, architecture)):
        supernet.choose(path)
        torch.testing.assert_close(supernet.eval()(x), network.eval()(x), rtol=1e-5, atol=1e-6)
    supernet.choose(random_mixture(space, zeros=0.5))
    assert supernet(x).isfinite().all()


def test_weights_of_another_supernet_are_refused() -> None:
    network = SPACE.build(SPACE.largest(), 10, (1, 8, 8))
    other = chz.replace(SPACE, operations=("sep_conv_3x3", "skip_connect")).supernet(10, (1, 8, 8))
    with pytest.raises(ValueError, match="expected supernet weights cells.0.e0.sep_conv_5x5.0.weight .* got nothing"):
        inherit(network, other.state_dict())


# --- mixtures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES, ids=name_of)
def test_a_mixture_of_ones_is_the_path_and_costs_as_much(space: DARTS) -> None:
    supernet, x = supernet_of(space).eval(), images()
    for seed in range(3):
        architecture = space.decode(space.sample(np.random.default_rng(seed)))
        outputs, costs = [], []
        for path in (architecture, mixture_of(space, architecture)):
            supernet.choose(path)
            with called(supernet) as names, torch.no_grad():
                outputs.append(supernet(x))
            costs.append(sorted(names))
        torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
        assert costs[0] == costs[1] and len(costs[0]) == space.layers * 2 * space.nodes


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("partial", [1, 2, 4])
def test_a_soft_mixture_is_the_sum_of_its_operations(partial: int, stride: int) -> None:
    torch.manual_seed(0)
    channels, nodes = 8, 3
    seen = channels // partial
    space = DARTS(channels=channels, nodes=nodes, partial=partial)
    built = full_cell(OPERATIONS, nodes)
    cell: Any = MixedCell(built, partial, False, 5, 6, channels, stride == 2, halved=False).train()
    supernet: Any = space.supernet(2, (1, 8, 8))
    supernet.cells = nn.ModuleList([cell])
    mixture = random_mixture(space)
    supernet.choose(mixture)
    weights = (mixture.normal, mixture.reduction)[stride - 1]
    earlier, before = torch.randn(2, 5, 8, 8), torch.randn(2, 6, 8, 8)
    values = [point_conv(cell.preprocess0, earlier), point_conv(cell.preprocess1, before)]

    def carried(edge: int, value: Tensor, stride: int) -> Tensor:
        total: Any = 0
        for name, weight in zip(OPERATIONS, weights[edge], strict=True):
            if name != "none":
                module = getattr(cell, f"e{edge}")[name]
                total = total + weight * run_operation(module, name, value[:, :seen], stride, final=False)
        if partial == 1:
            return total
        rest = value[:, seen:] if stride == 1 else F.max_pool2d(value[:, seen:], 2)
        whole = torch.cat((total, weights[edge].sum() * rest), 1)
        return torch.stack([whole[:, (j % partial) * seen + j // partial] for j in range(channels)], 1)

    edge = 0
    for node in range(2, nodes + 2):
        terms = [carried(edge + s, values[s], stride if s < 2 else 1) for s in range(node)]
        edge += node
        values.append(torch.stack(terms).sum(0))
    assert edge == len(weights) == 9
    torch.testing.assert_close(cell(earlier, before), torch.cat(values[2:], 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("space", [SPACE, PARTIAL, SHARED], ids=name_of)
def test_weights_of_zero_and_none_cost_nothing(space: DARTS) -> None:
    supernet, x = supernet_of(space).eval(), images(1)
    with called(supernet) as everything:
        supernet(x)
    assert len(everything) == len(set(everything)) == 3 * 14 * 7
    mixture = random_mixture(space, zeros=0.8)
    supernet.choose(mixture)
    with called(supernet) as names:
        supernet(x)
    expected = set()
    for index, weights in enumerate((mixture.normal, mixture.reduction, mixture.reduction)):
        live = [True, True, False, False, False, False]
        for edge, (source, target) in enumerate(space.mixture_edges()):
            running = [name for name, w in zip(OPERATIONS, weights[edge], strict=True) if w > 0]
            expected |= {f"{index}.e{edge}.{name}" for name in running if name != "none" and live[source]}
            live[target] |= live[source] and bool(running if space.partial > 1 else set(running) - {"none"})
    assert sorted(names) == sorted(expected) and 20 < len(names) < 100
    supernet.choose(random_mixture(space))
    with called(supernet) as again:
        supernet(x)
    assert again == everything  # every operation but `none`


@pytest.mark.parametrize("space", [SPACE, PARTIAL], ids=name_of)
def test_gradients_reach_what_ran_alone(space: DARTS) -> None:
    supernet, x = supernet_of(space).train(), images()
    mixture = random_mixture(space, seed=1, zeros=0.6, grad=True)
    supernet.choose(mixture)
    with called(supernet) as names:
        loss = F.cross_entropy(supernet(x), torch.arange(4))
    loss.backward()
    for index, weights in enumerate((mixture.normal, mixture.reduction)):
        assert weights.grad is not None
        ran = torch.tensor([[f"{index}.e{edge}.{name}" in names for name in OPERATIONS] for edge in range(14)])
        if space.partial == 1:  # else what passes by hangs on all weights of its edge
            assert (weights.grad[~ran] == 0).all()
        assert (weights.grad[ran] != 0).float().mean() > 0.9
    for name, parameter in supernet.named_parameters():
        operation = ".".join(name.split(".")[1:4])
        if operation.split(".")[-1] in OPERATIONS:
            assert (parameter.grad is not None) == (operation in names)


@pytest.mark.parametrize("space", [SPACE, PARTIAL], ids=name_of)
def test_gradients_of_weights_are_those_of_finite_differences(space: DARTS) -> None:
    supernet, x = supernet_of(space).double().eval(), images().double()
    for layer in supernet.modules():  # as much signal as in training
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    supernet.choose(Mixture(*(torch.full((14, 8), 0.1).double() for _ in range(2))))
    supernet.train()(x), supernet.eval()
    weights = torch.rand(2, 14, 8, generator=torch.Generator().manual_seed(0)).double() / 8

    def loss(weights: Tensor) -> Tensor:
        supernet.choose(Mixture(weights[0], weights[1]))
        return F.cross_entropy(supernet(x), torch.arange(4))

    weights.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(weights), weights)
    with torch.no_grad():
        for place in ((0, 0, 4), (0, 5, 3), (1, 1, 1), (1, 13, 7), (0, 9, 0)):
            step = torch.zeros_like(weights)
            step[place] = 1e-7
            slope = (loss(weights + step) - loss(weights - step)) / 2e-7
            torch.testing.assert_close(gradient[place], slope, rtol=1e-4, atol=1e-8)
    assert (gradient[:, :, 0] == 0).all() == (space.partial == 1)  # `none` weighs what passes by, nothing else


def test_a_node_that_nothing_enters_is_zero_and_so_is_what_leaves_it() -> None:
    supernet = supernet_of(SPACE).eval()
    weights = torch.zeros(14, 8)
    weights[:, 0] = 1.0  # none on every edge …
    weights[1, 4] = weights[4, 5] = weights[8, 3] = 0.5  # … and 1 → 2, 2 → 3, 3 → 4
    weights[9:, 0] = 0
    weights[12, 2] = 1.0  # 3 → 5
    alone = weights.clone()
    alone[1, 4] = 0  # nothing enters node 2 any more, so nothing anything
    seen: list[Tensor] = []
    supernet.cells[0].register_forward_hook(lambda _m, _x, y: seen.append(y.unflatten(1, (4, 4))))
    supernet.choose(Mixture(weights, weights))
    supernet(images())
    assert [bool((seen[0][:, k] != 0).any()) for k in range(4)] == [True] * 4
    supernet.choose(Mixture(alone, weights))
    with called(supernet) as names:
        assert supernet(images()).isfinite().all()
    assert (seen[1] == 0).all() and not any(name.startswith("0.") for name in names)
    nothing = torch.zeros(14, 8)
    supernet.choose(Mixture(nothing, nothing))
    with called(supernet) as names:
        logits = supernet(images())
    assert not names and torch.equal(logits, supernet.classifier.bias.expand(4, 10))


def test_channels_pass_by_an_edge_that_carries_none() -> None:
    supernet = supernet_of(PARTIAL).eval()
    weights = torch.zeros(14, 8)
    weights[1, 0], weights[4, 0] = 0.5, 2.0
    seen: list[Any] = []
    supernet.cells[0].register_forward_hook(lambda _m, x, y: seen.append((x, y.unflatten(1, (4, 4)))))
    supernet.choose(Mixture(weights, weights))
    with called(supernet) as names:
        supernet(images())
    (given, output) = seen[0]
    value = supernet.cells[0].preprocess1(given[1].relu())
    # of 0, 0, half of 2, half of 3 every other one is a channel that passed by
    zero = 0 * value[:, 0]
    torch.testing.assert_close(output[:, 0], torch.stack([zero, value[:, 2] / 2, zero, value[:, 3] / 2], 1))
    torch.testing.assert_close(output[:, 1, 1::2], 2 * output[:, 0, 2:])
    assert not names and (output[:, 2:] == 0).all()


def test_copies_of_a_supernet_take_no_part_in_its_gradients() -> None:
    supernet, x = supernet_of(SPACE).eval(), images()
    leaf = torch.rand(2, 14, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    soft = leaf.softmax(-1)  # no leaf: torch refuses to copy such tensors
    supernet.choose(Mixture(soft[0], soft[1]))
    replica = copy.deepcopy(supernet)
    torch.testing.assert_close(replica(x), supernet(x))
    assert torch.autograd.grad(replica(x).sum(), leaf, allow_unused=True) == (None,)
    assert count_flops(supernet, (1, 8, 8)) > 0
    (gradient,) = torch.autograd.grad(supernet(x).sum(), leaf)
    assert (gradient != 0).any()
    fast = for_attack(supernet, x)
    torch.testing.assert_close(fast(x), supernet(x), rtol=1e-4, atol=1e-4)
    assert torch.autograd.grad(fast(x.requires_grad_()).sum(), leaf, allow_unused=True) == (None,)
    detached = Mixture(soft[0], soft[1]).detach()
    assert not detached.normal.requires_grad and torch.equal(detached.reduction, soft[1])


@pytest.mark.parametrize("space", [SPACE, PARTIAL], ids=["whole", "partial"])
def test_an_attack_pays_for_the_operations_that_run_and_for_no_weight_of_1(space: DARTS) -> None:
    supernet, x = supernet_of(space).eval(), images()
    architecture = space.decode(space.sample(np.random.default_rng(0)))
    sizes = []
    for path in (architecture, mixture_of(space, architecture)):
        supernet.choose(path)
        assert not [node for node in fx.symbolic_trace(supernet).graph.nodes if node.target is operator.mul]
        fast = for_attack(supernet, x)
        torch.testing.assert_close(fast(x), supernet(x), rtol=1e-4, atol=1e-4)
        sizes.append(sum(p.numel() for p in fast.parameters()))
    own = space.build(architecture, 10, (1, 8, 8)).eval()
    inherit(own, supernet.state_dict())
    assert sizes == [sum(p.numel() for p in for_attack(own, x).parameters())] * 2
    supernet.choose(mixture_of(space, architecture, 0.5))
    assert [node for node in fx.symbolic_trace(supernet).graph.nodes if node.target is operator.mul]


def test_one_choice_serves_several_passes() -> None:
    supernet, x = supernet_of(SPACE).eval(), images()
    weights = torch.full((14, 8), 0.2, requires_grad=True)
    supernet.choose(Mixture(weights, weights))
    first = torch.autograd.grad(supernet(x).sum(), weights)[0]
    torch.testing.assert_close(torch.autograd.grad(supernet(x).sum(), weights)[0], first)
    supernet.choose(SPACE.largest())
    assert not torch.allclose(supernet(x).sum(), torch.zeros(()))
    with pytest.raises(RuntimeError, match="does not require grad|not have been used"):
        torch.autograd.grad(supernet(x).sum(), weights)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.zeros(14, 7), r"expected weights of 14 edges × 8 operations, got shape \(14, 7\)"),
        (torch.zeros(2, 14, 8), r"got shape \(2, 14, 8\)"),
        (torch.full((14, 8), -1.0), "that are >= 0, got others"),
        (torch.full((14, 8), torch.nan), "that are >= 0"),
    ],
)
def test_weights_that_are_none_are_refused(weights: Tensor, message: str) -> None:
    supernet = supernet_of(SPACE)
    with pytest.raises(ValueError, match=message):
        supernet.choose(Mixture(torch.zeros(14, 8), weights))


# --- the rest of the house ----------------------------------------------------------------------------------------


def test_supernets_of_other_operations_are_other_supernets(tmp_path: Path) -> None:
    training = SupernetTraining()

    def folder(**values: Any) -> Path:
        return training.folder(chz.replace(SPACE, **values), Digits(), tmp_path, "cpu")

    # the largest network is the same in all of them
    some = ("sep_conv_5x5", "skip_connect")
    different = [{}, {"cells": "shared"}, {"partial": 2}, {"operations": some}, {"operations": some[::-1]}]
    assert len({folder(**values) for values in different}) == 5
    assert folder(final_channels=7) == folder()


def test_a_whole_search_is_plotted_analysed_exported_and_retrained(tmp_path: Path) -> None:
    fast = FastTraining(lr=0.1, batch_size=64, threat=Threat(eps=Fraction(0.05)))
    problem = Problem(
        space=DARTS(channels=2, layers=3, nodes=2, final_channels=2, final_layers=3),
        data=Digits(val_share=0.4),
        objectives=(RobustError(attack=FGSM(), eps=(Fraction(0.05),), limit=60), Params()),
        evaluator=OneShot(
            supernet=SupernetTraining(epochs=1, recipe=fast, threads=1, sampling="two_ended"),
            recipe=chz.replace(fast, lr=0.02),
            recalibration_batches=2,
        ),
        algorithm=NSGA2(pop_size=6, n_gen=2, seeded=True),
    )
    found = search(problem, out=tmp_path / "run", workers=1)
    assert len(found.evaluations) == 12 and all(row["status"] == "ok" for row in found.evaluations)
    assert any(c in row["architecture"] for row in found.evaluations for c in CONVOLUTIONS)
    run = tmp_path / "run"
    assert plot.main([f"run={run}"]) == 0 and (run / "networks.png").is_file()
    assert analyze.main([f"run={run}", f"out={tmp_path / 'study'}"]) == 0
    assert (tmp_path / "study" / "density.csv").is_file()
    assert export.main([f"run={run}", "pick=knee", f"out={tmp_path / 'knee'}", "onnx=false"]) == 0
    options = RetrainOptions(genotype=str(tmp_path / "knee"))
    given = {"epochs": "1", "eps": "0.05", "recipe": "fast", "attack.steps": "1"}
    training, genotype = settings_from(options, given)
    assert training.space == chz.replace(problem.space, final=True)
    result = retrain(training, tmp_path / "retrained", genotype=genotype, device="cpu")
    assert 0 <= result.clean_error <= 1 and (tmp_path / "retrained" / "result.json").is_file()

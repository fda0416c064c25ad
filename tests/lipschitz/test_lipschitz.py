"""Lipschitz bounds of networks against what networks do to images, and the objective."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from seeded import seeded
from torch import Tensor, nn
from toys import Integers

from evo_robust import zoo
from evo_robust.data.sets import Digits
from evo_robust.lipschitz.graph import graph_of
from evo_robust.lipschitz.linear import SpectralNorms
from evo_robust.lipschitz.moments import fenton_wilkinson
from evo_robust.lipschitz.network import network_constants
from evo_robust.lipschitz.operations import lipschitz_constant
from evo_robust.objectives.base import Candidate, Context
from evo_robust.objectives.constraints import Constraint
from evo_robust.objectives.lipschitz import LipschitzBound
from evo_robust.parts.base import UserError
from evo_robust.spaces import NSGAPhases, RobNet, SearchSpace
from evo_robust.spaces.cells.ops import FactorizedReduce
from evo_robust.spaces.darts.codec import OPERATIONS
from evo_robust.spaces.darts.space import DARTS
from evo_robust.spaces.supernet import Mixture, inherit
from evo_robust.training.loop import train
from evo_robust.training.recipes import PGDTraining, Recipe, Standard

DATA = Digits()
SPLITS = DATA.load()
SHAPE = DATA.in_shape
SMALL = RobNet(channels=4, layers=4, nodes=4)
LARGE_CELL = "11 11 | 11 11 11 | 01 11 01 10 | 11 01 01 01 11"


# --- networks


def amplification(network: nn.Module, images: Tensor) -> float:
    """The largest gain that is found: of Jacobians, of pairs of images, and of steps along the worst directions."""
    network.eval()
    x = images.clone().requires_grad_()
    logits = network(x)
    rows = [torch.autograd.grad(logits[:, i].sum(), x, retain_graph=True)[0].flatten(1) for i in range(logits.shape[1])]
    _, gains, directions = torch.linalg.svd(torch.stack(rows, 1), full_matrices=False)
    with torch.no_grad():
        far = F.pdist(logits.detach()) / F.pdist(images.flatten(1)).clamp_min(1e-6)
        worst = directions[:, 0].reshape(images.shape)
        steps = [(network(images + s * worst) - logits).norm(dim=1) / s for s in (0.1, 1.0)]
    return max(gains[:, 0].max().item(), far.max().item(), *(s.max().item() for s in steps))


def some_images() -> Tensor:
    noise = torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(0))
    return torch.cat([SPLITS.val.floats()[:20], noise, noise.round()])


def robnet() -> nn.Module:
    return SMALL.build(SMALL.from_text(LARGE_CELL), 10, SHAPE)


def free_robnet() -> nn.Module:
    """Cell 2 is empty, and nodes of others are."""
    space = RobNet(cells="free", channels=4, layers=4, nodes=2)
    text = "01 11 00 00 01 / 11 01 10 00 11 / 00 00 00 00 00 / 00 00 01 00 00"
    return space.build(space.from_text(text), 10, SHAPE)


def large_stems() -> nn.Module:
    space = RobNet(channels=2, layers=2, nodes=1)
    return space.build(space.from_text("01 11"), 10, (1, 72, 72))


def darts(final: bool = False, partial: int = 1) -> nn.Module:
    space = DARTS(channels=4, layers=4, final=final, partial=partial)
    normal = "(sep3,0)(max,1)|(sep5,0)(skip,2)|(dil3,1)(avg,2)|(dil5,0)(max,4)"
    reduction = "(max,0)(skip,1)|(avg,0)(sep3,1)|(skip,0)(dil5,3)|(dil3,1)(sep5,4)"
    return space.build(space.from_text(f"normal {normal} / reduction {reduction}"), 10, SHAPE)


def mixed(partial: int = 1) -> nn.Module:
    space = DARTS(channels=4, layers=3, nodes=3, partial=partial)
    supernet = space.supernet(10, SHAPE)
    weights = torch.rand(space.mixture_shape, generator=torch.Generator().manual_seed(0)) ** 3
    weights[:, 3:6] *= torch.nn.functional.one_hot(torch.tensor([2, 4, 0]), len(OPERATIONS))  # single paths; none
    supernet.choose(Mixture(weights[0], weights[-1]))
    return supernet


def phases(decoder: Any = "residual") -> nn.Module:
    space = NSGAPhases(phases=2, nodes=3, channels=4)
    if decoder == "dense":
        space = space.with_dense_decoder()
        space = chz.replace(space, channels=8)
    return space.build(space.from_text("[1][01][0] / [1][10][1]"), 10, SHAPE)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "robnet": robnet,
    "free robnet": free_robnet,
    "darts": darts,
    "final darts": lambda: darts(final=True),
    "partial darts": lambda: darts(partial=2),
    "supernet": lambda: SMALL.supernet(10, SHAPE),
    "mixture": mixed,
    "partial mixture": lambda: mixed(partial=4),
    "phases": phases,
    "dense phases": lambda: phases("dense"),
    "lenet": lambda: zoo.build("lenet", 10, SHAPE),
    "vgg": lambda: zoo.build("vgg-16", 10, SHAPE, width=0.1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_corrected_bound_is_never_below_what_a_network_does(name: str) -> None:
    network = seeded(NETWORKS[name])
    measured = amplification(network, some_images())
    joint = network_constants(network, SHAPE).log_bound().item()
    layers = network_constants(network, SHAPE, "layers").log_bound().item()
    assert measured > 0 and math.log(measured) <= joint <= layers * (1 + 1e-6) + 0.5


SPACES: dict[str, SearchSpace] = {
    "darts": DARTS(channels=4, layers=3, nodes=3),
    "robnet": RobNet(cells="free", channels=4, layers=3, nodes=3),
    "phases": NSGAPhases(phases=2, nodes=3, channels=4),
}


@pytest.mark.parametrize("seed", [0, 1, 3, 4])  # the phases of seed 2 have dead rectifiers: they do nothing
@pytest.mark.parametrize("name", SPACES)
def test_the_bound_holds_for_random_architectures(name: str, seed: int) -> None:
    space, rng = SPACES[name], np.random.default_rng(seed)
    network = seeded(lambda: space.build(space.decode(space.sample(rng)), 10, SHAPE), seed)
    measured = math.log(amplification(network, some_images()))
    found = network_constants(network, SHAPE)
    assert measured <= found.log_bound().item() < measured + 20, "a bound, and no number far above all others"


TRAINED: dict[str, Callable[[], nn.Module]] = {
    "robnet": lambda: RobNet(channels=4, layers=3, nodes=2).build(_cell(), 10, SHAPE),
    "darts": darts,
}


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("recipe", [Standard(), PGDTraining()], ids=["standard", "pgd"])
def test_the_bound_holds_for_trained_networks_too(recipe: Recipe, name: str) -> None:
    network = seeded(TRAINED[name])
    train(network, SPLITS.train.take(slice(300)), recipe, 2, seed=0)
    log_bound = network_constants(network, SHAPE).log_bound().item()
    assert math.log(amplification(network, some_images())) <= log_bound < 20


def _cell() -> Any:
    return RobNet(channels=4, layers=3, nodes=2).from_text("11 01 10 01 11")


def test_large_stems_are_known() -> None:
    network = seeded(large_stems)
    images = torch.rand(4, 1, 72, 72, generator=torch.Generator().manual_seed(0))
    assert math.log(amplification(network, images)) <= network_constants(network, (1, 72, 72)).log_bound().item()


@torch.no_grad()
def copies() -> nn.Module:
    """Nodes that each take the same input through an identity, behind weights that keep lengths."""
    space = RobNet(channels=4, layers=8)
    network = space.build(space.from_text("00 10 | 00 10 00 | 00 10 00 00 | 00 10 00 00 00"), 10, SHAPE).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1 - module.eps)
    network.stem[0].weight.zero_()[:, 0, 1, 1] = 12**-0.5
    for cell in network.cells:
        before = cell.preprocess1[0]
        width, wide = before.weight.shape[:2]
        # the mean of the copies times their root: a matrix of norm 1
        spread = torch.eye(width).repeat(1, math.ceil(wide / width))[:, :wide]
        before.weight.copy_((spread / torch.linalg.matrix_norm(spread, ord=2))[:, :, None, None])
        for reduce in cell.identities.values():
            for part, rows in ((reduce.straight, slice(0, width // 2)), (reduce.shifted, slice(width // 2, width))):
                part.weight.copy_(torch.eye(width)[rows, :, None, None])
    return network


def test_the_papers_product_is_no_bound() -> None:
    network = copies()
    measured = math.log(amplification(network, some_images()))
    found = network_constants(network, SHAPE)
    corrected, product = found.log_bound().item(), found.log_bound("paper").item()
    # four copies side by side are twice as long; the product takes them for one
    assert product + 2 < measured <= corrected
    # nothing but the product over nodes is to blame: what is outside of them is as it should be
    assert product == pytest.approx(found.log_outside(), abs=0.3)
    paper = network_constants(network, SHAPE, "paper").log_bound("paper").item()
    assert paper < measured


def test_the_papers_product_multiplies_nodes_and_what_is_outside() -> None:
    network = seeded(lambda: RobNet(channels=4, layers=3, nodes=2).build(_cell(), 10, SHAPE))
    found = network_constants(network, SHAPE)
    edges = found.of_operations(("identity", "conv"), 5).sum(-1)
    nodes = torch.stack([edges[:, :2].sum(1), edges[:, 2:].sum(1)])
    assert found.log_bound("paper").item() == pytest.approx(found.log_outside() + nodes.log().sum().item(), rel=1e-9)
    outside = lipschitz_constant(nn.Sequential(network.normalize, network.stem), SHAPE)  # type: ignore[arg-type]
    shapes = (((12, 8, 8), (12, 8, 8)), ((12, 8, 8), (8, 8, 8)), ((8, 8, 8), (16, 4, 4)))
    for cell, (earlier, before) in zip(network.cells, shapes, strict=True):  # type: ignore[arg-type]
        pair = lipschitz_constant(cell.preprocess0, earlier), lipschitz_constant(cell.preprocess1, before)
        outside *= max(pair)
    head = nn.Sequential(network.pool, nn.Flatten(), network.classifier)  # type: ignore[arg-type]
    assert found.log_outside() == pytest.approx(math.log(outside * lipschitz_constant(head, (32, 2, 2))), abs=1e-3)


def test_the_papers_rule_knows_a_halved_input_from_a_skip() -> None:
    """Both are a FactorizedReduce; only the one on an edge is what the paper calls a skip connection."""
    network = seeded(lambda: RobNet(channels=4, layers=3, nodes=2).build(_cell(), 10, SHAPE))
    found = network_constants(network, SHAPE, "paper")
    halved = network.cells[2].preprocess0  # type: ignore[union-attr, index]
    assert isinstance(halved, FactorizedReduce)
    logs = {value.name: log for value, (log, *_) in zip(found.values, found.logs, strict=True)}
    # without batch normalisation, of two convolutions beside each other the larger norm
    pair = [torch.linalg.matrix_norm(conv.weight[:, :, 0, 0], ord=2) for conv in (halved.straight, halved.shifted)]
    assert logs["cell 2 node 0"] == pytest.approx(torch.stack(pair).max().log().item(), abs=0.02)
    identities = network.cells[1].identities  # type: ignore[union-attr, index]
    assert len(identities) > 0 and all(isinstance(module, FactorizedReduce) for module in identities.values())
    assert found.of_operations(("identity",), 5)[1, :, 0].tolist() == [1, 0, 1, 0, 1]


def test_constants_stand_where_their_operations_do() -> None:
    supernet = seeded(lambda: DARTS(channels=4, layers=3, nodes=2).supernet(10, SHAPE))
    found = network_constants(supernet, SHAPE, norms=SpectralNorms(slack=0.001), everything=True)
    lambdas = found.of_operations(OPERATIONS, 5)
    huge = dataclasses.replace(found, logs=tuple(tuple(log + 1000 for log in logs) for logs in found.logs))
    assert set(huge.of_operations(OPERATIONS, 5).unique().tolist()) == {0.0, math.inf}, "beyond a float, no error"
    assert lambdas.shape == (3, 5, 8) and (lambdas[..., 0] == 0).all() and (lambdas[..., 1:] > 0).all()
    operation = supernet.cells[1].e3["sep_conv_5x5"]  # type: ignore[union-attr, index]
    assert lambdas[1, 3, 5].item() == pytest.approx(lipschitz_constant(operation, (8, 8, 8)), rel=0.02)
    assert lambdas[0, 0, 3].item() == 1.0  # an identity
    # what was chosen makes no difference to what there is
    weights = torch.zeros(2, 5, 8)
    weights[..., 3] = 1
    supernet.choose(Mixture(weights[0], weights[1]))
    again = network_constants(supernet, SHAPE, norms=SpectralNorms(slack=0.001), everything=True)
    assert torch.equal(again.of_operations(OPERATIONS, 5), lambdas)
    chosen = network_constants(supernet, SHAPE).of_operations(OPERATIONS, 5)
    assert (chosen > 0).sum() == (chosen[..., 3] > 0).sum() == 15


def test_a_mixtures_bound_has_the_gradient_of_its_weights() -> None:
    supernet = seeded(
        lambda: DARTS(channels=4, layers=3, nodes=2, operations=("none", "skip_connect", "max_pool_3x3")).supernet(
            10, SHAPE
        )
    )
    weights = (torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0)).double() + 0.1).requires_grad_()

    def bound(given: Tensor, form: Any = "corrected") -> Tensor:
        supernet.choose(Mixture(given[0], given[1]))
        return network_constants(supernet, SHAPE, norms=SpectralNorms(steps=3)).log_bound(form)

    assert torch.autograd.gradcheck(bound, (weights,), eps=1e-6, atol=1e-4)
    assert torch.autograd.gradcheck(lambda given: bound(given, "paper"), (weights,), eps=1e-6, atol=1e-4)


def test_a_built_network_has_the_bound_of_its_path_in_the_supernet() -> None:
    space = DARTS(channels=4, layers=3)
    supernet = seeded(lambda: space.supernet(10, SHAPE))
    architecture = space.decode(space.sample(np.random.default_rng(3)))
    network = space.build(architecture, 10, SHAPE)
    inherit(network, supernet.state_dict())
    supernet.choose(architecture)  # type: ignore[operator]
    alone, inside = (network_constants(one, SHAPE).log_bound().item() for one in (network.eval(), supernet))
    assert alone == pytest.approx(inside, abs=0.02)


def test_a_network_whose_logits_never_change_has_constant_zero() -> None:
    supernet = seeded(lambda: DARTS(channels=4, layers=3, nodes=2).supernet(10, SHAPE))
    weights = torch.zeros(5, 8)
    weights[:, 0] = 1.0  # `none` everywhere
    supernet.choose(Mixture(weights, weights))  # type: ignore[operator]
    assert network_constants(supernet, SHAPE).log_bound().item() == -math.inf


def test_networks_of_unknown_wiring_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a network of cells .* whose wiring is known, got Unknown"):
        graph_of(type("Unknown", (nn.Module,), {})())
    with pytest.raises(ValueError, match="expected a network of cells for the paper's product form, got one of phases"):
        network_constants(seeded(phases), SHAPE).log_bound("paper")
    with pytest.raises(ValueError, match="expected form corrected or paper, got 'product'"):
        network_constants(seeded(robnet), SHAPE).log_bound("product")  # type: ignore[arg-type]


# --- the objective


def candidate(space: SearchSpace, network: nn.Module) -> Candidate:
    context = Context(space, DATA, seed=0, device="cpu", workers=1, cache=Path("unused"))
    return Candidate(context, None, "", seed=5, splits=SPLITS, model=network)


def test_the_objective_is_the_logarithm_of_the_bound_and_repeats() -> None:
    network = seeded(free_robnet)
    one = candidate(SMALL, network)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    generator = torch.random.get_rng_state()
    value = LipschitzBound().measure(one)
    assert value == LipschitzBound().measure(one) == network_constants(network, SHAPE).log_bound().item()
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(torch.equal(state[name], now) for name, now in network.state_dict().items())
    cells = one.figures["lipschitz_bound"]["cells"]
    assert json.loads(json.dumps(cells)) == cells == network_constants(network, SHAPE).log_cells()
    assert cells[2] is None and cells[0] < cells[1]
    assert LipschitzBound(form="paper").measure(one) != value < LipschitzBound(constants="layers").measure(one)
    assert LipschitzBound(slack=0.1).measure(one) > value


def test_the_objective_in_words() -> None:
    objective = LipschitzBound()
    assert objective.name == "lipschitz_bound" and objective.unit == "ln of L2 gain" and objective.needs_weights
    made = chz.Blueprint(LipschitzBound).make_from_argv(["form=paper", "constants=paper"])
    assert made == LipschitzBound(form="paper", constants="paper")


def test_as_a_constraint_the_limit_is_a_logarithm() -> None:
    constraint = Constraint(of=LipschitzBound(), at_most=12.0)
    value = constraint.of.measure(candidate(SMALL, seeded(robnet)))
    assert constraint.violation(value) == pytest.approx(value / 12 - 1)
    assert constraint.violation(-3.0) < constraint.violation(12.0) == 0 < constraint.violation(12.1)


@pytest.mark.parametrize(
    ("space", "objective", "message"),
    [
        (Integers(), LipschitzBound(form="paper"), None),
        (NSGAPhases(phases=2, nodes=3, channels=4), LipschitzBound(), None),
        (DARTS(channels=4, layers=3), LipschitzBound(form="paper", constants="paper"), None),
        (
            NSGAPhases(phases=2, nodes=3, channels=4),
            LipschitzBound(form="paper"),
            "lipschitz_bound cannot be measured on NSGAPhases: expected a network of cells",
        ),
    ],
)
def test_a_space_that_cannot_tell_is_refused_before_the_search(
    space: SearchSpace, objective: LipschitzBound, message: str | None
) -> None:
    context = candidate(space, nn.Identity()).context
    generator = torch.random.get_rng_state()
    if message is None:
        objective.prepare(context)
    else:
        with pytest.raises(UserError, match=message):
            objective.prepare(context)
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_a_space_of_unknown_networks_is_refused_before_the_search() -> None:
    @chz.chz
    class Unknown(Integers):
        def build(self, *_: Any) -> nn.Module:
            return type("Odd", (nn.Module,), {})()

    with pytest.raises(UserError, match="lipschitz_bound cannot be measured on Unknown: expected a network .* got Odd"):
        LipschitzBound().prepare(candidate(Unknown(), nn.Identity()).context)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"form": "product"}, "form to be 'corrected' or 'paper', got 'product'"),
        ({"constants": "exact"}, "constants to be 'joint', 'layers' or 'paper'"),
        ({"slack": 0.0}, r"expected slack in \(0,1\), got 0.0"),
    ],
)
def test_bad_objectives_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LipschitzBound(**values)


def test_the_public_face_has_the_moments_too() -> None:
    mu, var = fenton_wilkinson(torch.zeros(2), torch.full((2,), 0.25))
    assert (mu.item(), var.item()) == pytest.approx((0.751751, 0.132792), abs=1e-6)

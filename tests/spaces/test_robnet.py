"""RobNet: its notation and degenerate α, its networks, its supernet, its pictures and files."""

from __future__ import annotations

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
from matplotlib.figure import Figure
from torch import nn

from evo_robust import export
from evo_robust.attacks.fast import fold_batch_norm
from evo_robust.data.sets import Digits
from evo_robust.networks.genotype import Genotype, load_genotype
from evo_robust.spaces import DARTS, InvalidArchitecture, RobNet
from evo_robust.spaces.robnet.codec import RobNetArchitecture, alpha_from_text, edges_of, live_cell, n_edges
from evo_robust.spaces.robnet.genotypes import PUBLISHED
from evo_robust.spaces.robnet.network import FactorizedReduce, RobNetCell
from evo_robust.spaces.structure import BUDGETS
from evo_robust.spaces.supernet import inherit

SMALL, LARGE = (PUBLISHED[name].alphas[0] for name in ("small", "large"))
SHARED = RobNet(channels=2, layers=4)
FREE = RobNet(cells="free", channels=2, layers=5, nodes=2)
seeds = st.integers(0, 2**32 - 1)


def sparse(space: RobNet, seed: int) -> RobNetArchitecture:
    """An architecture with a random share of zeros, so that dead nodes and empty cells appear."""
    rng = np.random.default_rng(seed)
    return space.decode((rng.random(space.n_genes) < rng.uniform(0.1, 0.9)).astype(int))


def count(space: RobNet, text: str, n_classes: int = 10) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in space.build(space.from_text(text), n_classes, (3, 32, 32)).parameters())


@contextmanager
def called(model: nn.Module) -> Iterator[list[str]]:
    """Names of the convolutions that run."""
    names: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: names.append(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    yield names
    for hook in hooks:
        hook.remove()


# --- notation -----------------------------------------------------------------------------------------------------


def test_edges_are_numbered_node_by_node() -> None:
    edges = edges_of(4)
    assert len(edges) == n_edges(4) == 14
    assert edges[:5] == [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)] and edges[13] == (4, 5)
    assert [e for e, (source, target) in enumerate(edges) if target == source + 1] == [1, 4, 8, 13]


def test_bars_and_cell_numbers_are_read_and_not_written() -> None:
    architecture = SHARED.from_text(SMALL)
    text = "11 11 01 10 11 10 01 00 01 10 00 10 11 10"
    assert SHARED.to_text(architecture) == text
    assert SHARED.from_text(text) == SHARED.from_text(f"  0: {text}\n") == architecture
    # first character identity, second convolution
    assert SHARED.encode(architecture)[4:8].tolist() == [0, 1, 1, 0]
    assert SHARED.gene_names[4:8] == ("e2 identity", "e2 conv", "e3 identity", "e3 conv")
    free = chz.replace(FREE, layers=2)
    assert free.to_text(free.from_text("0: 11 10 | 01 00 11\n1: 11 00 | 00 01 10")) == "11 10 01 00 11 / 11 00 00 01 10"
    assert free.gene_names[10] == "cell 1 e0 identity"


@pytest.mark.parametrize(
    ("space", "text", "message"),
    [
        (SHARED, SMALL + " 01", "expected 14 pairs for 4 nodes, got 15"),
        (SHARED, "11 " * 13, "expected 14 pairs for 4 nodes, got 13"),
        (SHARED, "12" + SMALL[2:], "expected pairs of 0 and 1 such as 11 10 01 00, got '12'"),
        (SHARED, "1 1" + SMALL[2:], "got '1'"),
        (SHARED, f"{SMALL} / {SMALL}", r"expected 1 cell \(cells=shared\), got 2: separate cells with /"),
        (FREE, "11 11 11 11 11", r"expected 5 cells \(cells=free\), got 1"),
        (SHARED, "00 " * 14, "expected a path from the image to the logits, got none"),
    ],
)
def test_notation_errors_say_what_was_expected(space: RobNet, text: str, message: str) -> None:
    with pytest.raises(InvalidArchitecture, match=message):
        space.from_text(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": 0}, "channels in 1..4096, got 0"),
        ({"layers": 0}, "layers in 1..200, got 0"),
        ({"nodes": 0}, "nodes in 1..20, got 0"),
        ({"final_channels": 0}, "final_channels in 1..4096, got 0"),
        ({"cells": "alike"}, "expected RobNet.cells to be 'shared' or 'free', got 'alike'"),
        ({"no_path": "drop"}, "expected RobNet.no_path to be 'repair' or 'refuse', got 'drop'"),
    ],
)
def test_impossible_spaces_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobNet(**values)


def test_architectures_of_other_sizes_are_refused() -> None:
    with pytest.raises(InvalidArchitecture, match=r"expected 1 cells of 5 edges, got cells of \[14\]"):
        RobNet(nodes=2).encode(SHARED.from_text(SMALL))
    with pytest.raises(InvalidArchitecture, match="expected 5 cells of 5 edges"):
        FREE.build(RobNet(nodes=2).largest(), 10, (1, 8, 8))


# --- degenerate α -------------------------------------------------------------------------------------------------


def test_a_node_without_input_is_zero_and_so_is_what_leaves_it() -> None:
    # node 2 reads nothing: its edges to 3 (e4), 4 (e7) and 5 (e11) carry nothing
    text = "00 00 | 01 10 11 | 10 01 11 01 | 10 00 10 11 10"
    assert SHARED.to_text(SHARED.from_text(text)) == "00 00 01 10 00 10 01 00 01 10 00 00 11 10"
    # then node 3 too, and what leaves it
    text = "00 00 | 00 00 11 | 10 01 11 01 | 10 00 10 11 10"
    architecture = SHARED.from_text(text)
    assert SHARED.to_text(architecture) == "00 00 00 00 00 10 01 00 00 10 00 00 00 10"
    model = SHARED.build(architecture, 3, (1, 8, 8)).eval()
    cell: Any = model.cells[0]  # type: ignore[union-attr, index]
    output = cell(*torch.rand(2, 2, 6, 8, 8))
    assert output.shape == (2, 4 * 2, 8, 8)
    assert (output[:, :4] == 0).all() and (output[:, 4:] != 0).any()


def test_cells_that_carry_nothing_or_that_nobody_reads_are_empty() -> None:
    space = chz.replace(FREE, layers=4, nodes=1)
    empty = space.from_text("10 10 / 00 00 / 11 11 / 01 01")
    # neither cell 2 nor cell 3 can read cell 1, which is node 1 of the one and node 0 of the other
    assert space.to_text(empty) == "10 10 / 00 00 / 11 00 / 00 01"
    unread = space.from_text("10 10 / 11 01 / 01 00 / 00 10")
    assert space.to_text(unread) == "10 10 / 00 00 / 01 00 / 00 10"  # cell 3 reads cell 2 alone, and that cell 0
    for architecture in (empty, unread):
        model = space.build(architecture, 3, (1, 8, 8))
        assert not list(model.cells[1].parameters())  # type: ignore[union-attr, index]
        assert model.eval()(torch.rand(2, 1, 8, 8)).isfinite().all()


def test_a_shared_cell_that_reads_cell_k_minus_2_alone_leaves_every_other_cell_out() -> None:
    space = RobNet(channels=2, layers=5, nodes=1)
    model = space.build(space.from_text("11 00"), 3, (1, 8, 8))
    built = [bool(list(cell.parameters())) for cell in model.cells]  # type: ignore[union-attr]
    assert built == [True, False, True, False, True]
    assert model.eval()(torch.rand(2, 1, 8, 8)).isfinite().all()


def test_no_path_is_repaired_alike_or_refused() -> None:
    zeros = np.zeros(SHARED.n_genes, dtype=int)
    dead = zeros.copy()
    dead[[8, 9]] = 1  # node 2 → node 3, while nothing enters node 2
    for genome, repaired in ((zeros, "00 10 00 00 00"), (dead, "00 10 00 00 11")):
        assert SHARED.to_text(SHARED.decode(genome)) == repaired + 9 * " 00"
        assert SHARED.decode(SHARED.repair(genome)) == SHARED.decode(genome)
    refusing = chz.replace(SHARED, no_path="refuse")
    for genome in (zeros, dead):
        assert np.array_equal(refusing.repair(genome), genome)
        with pytest.raises(InvalidArchitecture, match="expected a path from the image to the logits"):
            refusing.decode(genome)


def test_no_path_through_free_cells_gets_one() -> None:
    space = chz.replace(FREE, layers=3, nodes=1)
    # the last cell is empty: it hands on cell 1, which reads the stem
    assert space.to_text(space.decode(np.array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]))) == "00 00 / 01 00 / 00 10"
    # the last cell reads cell 1, which is empty: that one hands on cell 0
    text = space.to_text(space.decode(np.array([0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])))
    assert text == "01 00 / 00 10 / 00 01"


# --- networks -----------------------------------------------------------------------------------------------------


def test_the_supernet_has_its_parameters() -> None:
    space = RobNet(channels=36, layers=20)
    with torch.device("meta"):
        supernet = space.supernet(10, (3, 32, 32))
    assert sum(p.numel() for p in supernet.parameters()) == count(space, "11 " * 14) == 7_304_086


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=seeds)
def test_parameters_add_up_over_operations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    while True:
        codes = tuple(rng.integers(0, 4, 14).tolist())
        read = {source for code, (source, _) in zip(codes, edges_of(4), strict=True) if code}
        if live_cell(codes, 4) == codes and {0, 1} <= read:
            break
    convolutions = sum(code & 1 for code in codes)
    reduced = sum(code >> 1 for code, (source, _) in zip(codes, edges_of(4), strict=True) if source < 2)
    expected = 1_363_222 + 409_536 * convolutions + 25_920 * reduced
    assert count(RobNet(channels=36, layers=20), " ".join(f"{code:02b}" for code in codes)) == expected


def test_a_medium_cell_has_about_the_papers_parameters() -> None:
    # ten convolutions, six identities on edges that leave nodes 0 and 1; the paper prints 5.66M and no cell
    text = "11 11 | 11 11 01 | 10 10 01 01 | 01 00 01 00 01"
    space = RobNet(channels=36, layers=20)
    structure = space.structure(space.from_text(text))
    assert (structure.convolutions, structure.budget) == (10, "medium")
    assert count(space, text, 100) == 5_666_032


@pytest.mark.parametrize("reduction", [False, True])
def test_a_cell_computes_what_its_notation_says(reduction: bool) -> None:
    torch.manual_seed(0)
    cell: Any = RobNetCell(alpha_from_text("11 10 | 00 01 11", 2), 2, 5, 6, 3, reduction, halved=False)
    earlier, before = torch.randn(2, 5, 8, 8), torch.randn(2, 6, 8, 8)

    def normal(x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, None, None, training=True)

    def conv(x: torch.Tensor, layer: nn.Conv2d, stride: int = 1) -> torch.Tensor:
        return F.conv2d(x, layer.weight, None, stride, layer.kernel_size[0] // 2, 1, layer.groups)

    def separable(x: torch.Tensor, edge: str, stride: int = 1) -> torch.Tensor:
        layers = cell.convolutions[edge]
        x = normal(conv(conv(x.relu(), layers[0], stride), layers[1]))
        return normal(conv(conv(x.relu(), layers[4]), layers[5]))

    def identity(x: torch.Tensor, edge: str) -> torch.Tensor:
        if not reduction:
            return x
        halves, x = cell.identities[edge], x.relu()
        return normal(torch.cat((conv(x, halves.straight, 2), conv(x[:, :, 1:, 1:], halves.shifted, 2)), 1))

    stride = 2 if reduction else 1
    zero, one = normal(conv(earlier.relu(), cell.preprocess0[0])), normal(conv(before.relu(), cell.preprocess1[0]))
    two = identity(zero, "e0") + separable(zero, "e0", stride) + identity(one, "e1")
    three = separable(one, "e3", stride) + two + separable(two, "e4")
    torch.testing.assert_close(cell.train()(earlier, before), torch.cat((two, three), 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "halved"), [(8, 4), (7, 4), (1, 1)])
def test_identities_are_halved_rounding_up(side: int, halved: int) -> None:
    reduce = FactorizedReduce(4, 5).eval()
    assert reduce(torch.rand(2, 4, side, side + 2)).shape == (2, 5, halved, (side + 3) // 2)


@pytest.mark.parametrize(
    ("in_shape", "stem", "sizes"),
    [
        ((3, 32, 32), (32, 32), [(32, 32), (16, 16), (8, 8)]),
        ((3, 64, 48), (64, 48), [(64, 48), (32, 24), (16, 12)]),
        ((3, 17, 12), (17, 12), [(17, 12), (9, 6), (5, 3)]),
        # ImageNet: three convolutions of stride 2 before the first cell
        ((3, 96, 96), (24, 24), [(12, 12), (6, 6), (3, 3)]),
        ((3, 70, 65), (18, 17), [(9, 9), (5, 5), (3, 3)]),
    ],
)
def test_image_sizes(in_shape: tuple[int, int, int], stem: tuple[int, int], sizes: list[tuple[int, int]]) -> None:
    space = RobNet(channels=2, layers=3)
    model: Any = space.build(space.largest(), 10, in_shape).eval()
    seen: list[tuple[int, ...]] = []
    for module in (model.stem, *model.cells):
        module.register_forward_hook(lambda _m, _x, y: seen.append(tuple(y.shape[1:])))
    assert model(torch.rand(2, *in_shape)).shape == (2, 10)
    large = max(in_shape[1:]) > 64
    channels = [2 if large else 6, 8, 16, 32]
    assert seen == [(c, *size) for c, size in zip(channels, [stem, *sizes], strict=True)]
    assert (model.stem2 is None) == (not large)


def test_batch_norms_of_cells_have_no_affine_parameters_and_the_stems_have() -> None:
    model: Any = SHARED.build(SHARED.largest(), 10, (1, 8, 8))
    norms = {name: m.affine for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name, affine in norms.items() if affine} == {"stem.1"}


# --- supernet -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [SHARED, FREE], ids=["shared", "free"])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=seeds)
def test_a_path_is_the_network_with_inherited_weights(space: RobNet, seed: int) -> None:
    torch.manual_seed(0)
    supernet = space.supernet(10, (1, 8, 8))
    x = torch.rand(4, 1, 8, 8)
    supernet.train()(x)  # running statistics that are not those of the start
    architecture = sparse(space, seed)
    network = space.build(architecture, 10, (1, 8, 8))
    inherit(network, supernet.state_dict())
    supernet.choose(architecture)
    torch.testing.assert_close(supernet.eval()(x), network.eval()(x), rtol=1e-5, atol=1e-6)
    logits = [model.train()(x) for model in (supernet, network)]
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-6)
    for model, y in zip((supernet, network), logits, strict=True):
        F.cross_entropy(y, torch.arange(4)).backward()
        assert model.training
    weights, gradients = supernet.state_dict(), {n: p.grad for n, p in supernet.named_parameters()}
    for name, value in network.state_dict().items():  # statistics moved alike too
        torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-6)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients.pop(name), rtol=1e-3, atol=1e-5)
    assert all(gradient is None for gradient in gradients.values())  # nothing else was touched


@pytest.mark.parametrize("space", [SHARED, FREE], ids=["shared", "free"])
def test_operations_that_are_off_cost_nothing(space: RobNet) -> None:
    supernet, x = space.supernet(10, (1, 8, 8)).eval(), torch.rand(1, 1, 8, 8)
    with called(supernet) as everything:
        supernet(x)
    assert len(everything) == len(set(everything)) == sum(isinstance(m, nn.Conv2d) for m in supernet.modules())
    shares = []
    for seed in range(8):
        architecture = sparse(space, seed)
        network = space.build(architecture, 10, (1, 8, 8)).eval()
        supernet.choose(architecture)
        with called(supernet) as on_path, called(network) as built:
            supernet(x), network(x)
        assert on_path == built == [name for name in everything if name in set(built)]
        assert len(built) == sum(isinstance(m, nn.Conv2d) for m in network.modules())  # nothing is built in vain
        shares.append(len(on_path) / len(everything))
    assert min(shares) < 0.5
    supernet.choose(space.largest())
    with called(supernet) as again:
        supernet(x)
    assert again == everything


def test_weights_of_another_supernet_are_refused() -> None:
    network = SHARED.build(SHARED.from_text(SMALL), 10, (1, 8, 8))
    wider = chz.replace(SHARED, channels=3).supernet(10, (1, 8, 8))
    with pytest.raises(ValueError, match=r"expected supernet weights stem.0.weight of shape \(6, 1, 3, 3\), got shape"):
        inherit(network, wider.state_dict())
    with pytest.raises(ValueError, match="expected supernet weights .* got nothing"):
        inherit(network, SHARED.build(SHARED.from_text("10 " * 14), 10, (1, 8, 8)).state_dict())


def test_paths_for_training_are_drawn_as_they_say() -> None:
    rng = np.random.default_rng(0)
    for keep in (0.3, 0.9):
        densities = [SHARED.structure(SHARED.draw_path(rng, keep)).density for _ in range(60)]
        assert np.mean(densities) == pytest.approx(keep, abs=0.06)  # dead edges take a little from sparse ones
    assert SHARED.structure(SHARED.largest()).density == FREE.structure(FREE.largest()).density == 1
    for space, nodes in ((SHARED, 4), (FREE, 2)):
        smallest = [space.draw_smallest(rng) for _ in range(20)]
        assert len(set(smallest)) > 1
        for alpha in (alpha for architecture in smallest for alpha in architecture.cells if any(alpha)):
            assert sum(code.bit_count() for code in alpha) == nodes


# --- studies ------------------------------------------------------------------------------------------------------


def test_structure_of_the_published_small_cell() -> None:
    structure = SHARED.structure(SHARED.from_text(SMALL))
    assert (structure.cells, structure.places, structure.density) == (1, 14, 16 / 28)
    assert structure.convolutions == 7 and structure.budget == "small"
    assert structure.direct_share == 3 / 7  # e1, e4 and e8
    large = SHARED.structure(SHARED.from_text(LARGE))
    assert (large.convolutions, large.budget, large.density) == (13, "large", 22 / 28)


def test_structure_of_free_cells_is_a_mean_over_cells() -> None:
    structure = FREE.structure(
        FREE.from_text("11 11 11 11 11 / 01 00 01 00 00 / 10 10 00 00 01 / 01 01 00 11 00 / 01 11 00 00 01")
    )
    assert (structure.cells, structure.places) == (5, 5)
    assert structure.convolutions == (5 + 2 + 1 + 3 + 3) / 5 and structure.density == (10 + 2 + 3 + 4 + 4) / 50


def test_dead_edges_count_in_the_papers_density_alone() -> None:
    genome = SHARED.encode(SHARED.from_text(SMALL))
    assert SHARED.genome_density(genome) == SHARED.structure(SHARED.decode(genome)).density == 16 / 28
    genome = np.zeros(28, dtype=int)
    genome[1] = genome[4] = genome[18] = 1  # e0, e2 and e9, which read node 0
    assert SHARED.genome_density(genome) == SHARED.structure(SHARED.decode(genome)).density == 3 / 28
    genome[1] = 0  # nothing enters node 2: e4, which leaves it, is dead
    genome[8] = 1
    assert SHARED.genome_density(genome) == 3 / 28 and SHARED.structure(SHARED.decode(genome)).density == 2 / 28
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 2, 28) for _ in range(2000)]
    differ = [SHARED.genome_density(g) != SHARED.structure(SHARED.decode(g)).density for g in drawn]
    assert 0.06 < np.mean(differ) < 0.09
    assert DARTS().genome_density(np.zeros(28, dtype=int)) is None


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("space", [SHARED, chz.replace(SHARED, cells="free", layers=3)], ids=["shared", "free"])
def test_samples_fall_into_the_budget_that_was_asked_for(space: RobNet, budget: str) -> None:
    low, high = {"small": (0, 7), "medium": (8, 10), "large": (11, 14)}[budget]
    rng = np.random.default_rng(0)
    genomes = [space.sample_in(rng, budget) for _ in range(40)]  # type: ignore[arg-type]
    structures = [space.structure(space.decode(genome)) for genome in genomes]
    assert {s.budget for s in structures} == {budget}
    assert all(low <= round(s.convolutions) <= high for s in structures)
    assert len({tuple(genome) for genome in genomes}) == 40
    again = space.sample_in(np.random.default_rng(0), budget)  # type: ignore[arg-type]
    assert np.array_equal(genomes[0], again)


def test_a_budget_that_no_cell_has_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to 2 convolutions are never a medium budget"):
        RobNet(nodes=1).sample_in(np.random.default_rng(0), "medium")


def test_seeds_are_the_published_cells_that_fit() -> None:
    assert SHARED.seeds() == (SHARED.from_text(SMALL), SHARED.from_text(LARGE))
    free = RobNet(cells="free", layers=20)
    alphas = PUBLISHED["free"].alphas
    assert free.seeds() == tuple(free.from_text("/".join(a)) for a in ([SMALL] * 20, [LARGE] * 20, alphas))
    assert len(set(alphas)) == 20
    assert len(chz.replace(free, layers=8).seeds()) == 2
    assert FREE.seeds() == ()


def test_networks_grow_for_final_training() -> None:
    final = RobNet(channels=4, layers=5).for_final_training()
    assert (final.channels, final.layers) == (36, 20)
    assert chz.replace(FREE, final_channels=7).for_final_training() == chz.replace(FREE, final_channels=7, channels=7)


# --- pictures and files -------------------------------------------------------------------------------------------


def drawn(space: RobNet, text: str) -> tuple[list[str], int]:
    """Texts of a picture, and its number of arrows between nodes."""
    figure = Figure(figsize=(10, 2.6))
    space.draw(space.from_text(text), figure)
    patches = [p for p in figure.axes[0].patches if type(p).__name__ == "FancyArrowPatch"]
    return [t.get_text() for t in figure.axes[0].texts], len(patches)


def test_drawings_have_an_arrow_for_every_operation() -> None:
    texts, arrows = drawn(SHARED, SMALL)
    assert [t for t in texts if len(t) <= 3 and t] == ["k−2", "k−1", "2", "3", "4", "5", "out"]
    assert arrows == 16
    assert any("above: separable 3×3 convolution" in t for t in texts) and any("below: identity" in t for t in texts)
    space = chz.replace(FREE, layers=4, nodes=1)
    texts, arrows = drawn(space, "10 10 / 00 00 / 11 00 / 00 01")
    assert [t for t in texts if t.startswith("cell ")] == ["cell 0", "cell 1: empty", "cell 2", "cell 3"]
    assert arrows == 5


def trained(space: RobNet, text: str) -> nn.Module:
    """A network whose running statistics are those of digits."""
    torch.manual_seed(0)
    model = space.build(space.from_text(text), 10, (1, 8, 8))
    with torch.no_grad():
        for _ in range(20):
            model.train()(Digits().load().train.floats(slice(64)))
    return model.eval()


@pytest.mark.parametrize("text", [SMALL, LARGE, "00 00 | 01 10 00 | 10 01 00 01 | 00 00 00 11 00"])
def test_attacks_fold_batch_norm_into_the_convolutions(text: str) -> None:
    model, x = trained(SHARED, text), Digits().load().test.floats(slice(50))
    folded = fold_batch_norm(model, x[:16])
    norms, left = (
        [name for name, m in one.named_modules() if isinstance(m, nn.BatchNorm2d)] for one in (model, folded)
    )
    # what remains follows a concatenation of two convolutions
    assert left == [name for name in norms if name.endswith(".norm")] and len(left) < len(norms)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-3, atol=1e-4)


def test_export_writes_a_network_that_torch_alone_rebuilds(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from test_export import strangers_logits

    space = chz.replace(FREE, layers=3)
    text = "11 10 01 00 11 / 00 00 00 00 00 / 11 00 00 00 10"  # an empty cell and a dead node
    model = trained(space, text)
    genotype = Genotype(space, space.from_text(text), "digits", 10, (1, 8, 8))
    names = export.write(export.Exported(genotype, tmp_path / "out", model), onnx=True)
    assert names == ["genotype.json", "model.onnx", "model.py", "model.safetensors"]
    assert load_genotype(tmp_path / "out") == genotype
    x = Digits().load().test.floats(slice(50)).contiguous()
    with torch.no_grad():
        expected = model(x)
    assert torch.equal(strangers_logits(tmp_path / "out" / "model.py", x)[0], expected)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-3, atol=1e-4)


def test_arguments_are_literals_that_rebuild_the_network() -> None:
    arguments = SHARED.network_arguments(SHARED.from_text(LARGE), 10, (3, 96, 64))
    assert arguments == eval(repr(arguments), {"__builtins__": {}})
    assert arguments["large_images"] is True and len(arguments["cells"]) == 4 and arguments["reductions"] == [1, 2]

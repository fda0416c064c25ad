"""DARTS's space: genomes, notations, what is derived from weights, its networks, its pictures and files."""

from __future__ import annotations

import itertools
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
from evo_robust.attacks.base import Threat
from evo_robust.attacks.fast import fold_batch_norm
from evo_robust.attacks.gradient import FGSM
from evo_robust.data.sets import Digits
from evo_robust.networks.genotype import Genotype, load_genotype
from evo_robust.objectives.fsp import fsp_distances
from evo_robust.spaces import DARTS, InvalidArchitecture
from evo_robust.spaces.darts.codec import OPERATIONS
from evo_robust.spaces.darts.genotypes import PUBLISHED
from evo_robust.spaces.darts.network import DARTSCell
from evo_robust.spaces.structure import BUDGETS

SPACE = DARTS(channels=4, layers=3)
SHARED = chz.replace(SPACE, cells="shared")
FEW = DARTS(cells="shared", operations=("skip_connect", "none", "dil_conv_3x3"), channels=2, layers=2, nodes=2)
seeds = st.integers(0, 2**32 - 1)

V2 = """Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
    ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5],
    reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0),
    ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"""
CELL = "(sep3,0)(sep3,1)|(skip,0)(max,2)|(avg,1)(dil5,3)|(sep5,0)(dil3,4)"


def name_of(space: DARTS) -> str:
    """What sets a space apart from the default."""
    default = DARTS()
    return " ".join(f"{k}={v}" for k, v in chz.asdict(space).items() if v != getattr(default, k))


# --- genomes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [SPACE, SHARED, FEW, chz.replace(SPACE, nodes=6)], ids=name_of)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=seeds)
def test_genomes_architectures_and_all_notations_are_one(space: DARTS, seed: int) -> None:
    genome = space.sample(np.random.default_rng(seed))
    architecture = space.decode(genome)
    assert np.array_equal(space.encode(architecture), genome)
    for text in (space.to_text(architecture), space.to_genotype(architecture)):
        assert space.from_text(text) == architecture


def test_genomes_are_counted_without_repetition() -> None:
    # node 2: 2·2 operations; node 3: 3 pairs of inputs, 2·2 operations
    genomes = list(itertools.product(*map(range, FEW.n_choices)))
    assert len(genomes) == len({FEW.decode(np.array(genome)) for genome in genomes}) == 4 * 12


@pytest.mark.parametrize("space", [SPACE, SHARED, FEW, chz.replace(SPACE, nodes=1)], ids=name_of)
def test_blocks_are_the_nodes_and_cover_the_genome(space: DARTS) -> None:
    genes = [gene for block in space.blocks for gene in range(block.start, block.stop)]
    assert genes == list(range(space.n_genes)) and len(space.blocks) == space.nodes * space.n_described
    for block in space.blocks:
        assert len({name.rpartition(" ")[0] for name in space.gene_names[block]}) == 1
    assert len(set(space.gene_names)) == space.n_genes


def test_what_the_genes_are() -> None:
    assert SPACE.n_choices.tolist() == [7, 7, 3, 7, 7, 6, 7, 7, 10, 7, 7] * 2
    assert SPACE.gene_names[:3] == ("normal node 2 earlier", "normal node 2 later", "normal node 3 inputs")
    assert SPACE.gene_names[-1] == "reduction node 5 later" and SHARED.gene_names[2] == "node 3 inputs"
    # `none` is no choice: gene 0 of FEW is a skip, 1 a dilated convolution; pairs are (0,1), (0,2), (1,2)
    assert FEW.to_text(FEW.decode(np.array([1, 0, 2, 0, 1]))) == (
        "(dil_conv_3x3,0)(skip_connect,1) | (skip_connect,1)(dil_conv_3x3,2)"
    )
    for genome in ([0, 0, 3, 0, 0], [0, 0, 0, 0], [0, -1, 0, 0, 0], [2, 0, 0, 0, 0]):
        with pytest.raises(InvalidArchitecture, match="expected 5 genes below"):
            FEW.decode(np.array(genome))


# --- notations ----------------------------------------------------------------------------------------------------


def test_every_notation_of_a_genotype_is_read_in_any_order() -> None:
    architecture = SPACE.from_text(PUBLISHED["darts-v2"].text)
    normal, reduction = SPACE.to_text(architecture).split(" / ")
    assert normal == (
        "normal (sep_conv_3x3,0)(sep_conv_3x3,1) | (sep_conv_3x3,0)(sep_conv_3x3,1) | "
        "(skip_connect,0)(sep_conv_3x3,1) | (skip_connect,0)(dil_conv_3x3,2)"
    )
    assert reduction.startswith("reduction (max_pool_3x3,0)(max_pool_3x3,1) | (max_pool_3x3,1)(skip_connect,2) | ")
    for text in (V2, f"DARTS_V2 = {V2}", f"{reduction} / {normal}", f"{normal[7:]}\nreduce: {reduction[10:]}"):
        assert SPACE.from_text(text) == architecture
    written = eval(SPACE.to_genotype(architecture), {"Genotype": dict, "range": range})
    assert written["normal"][4:6] == [("skip_connect", 0), ("sep_conv_3x3", 1)]
    assert written["reduce_concat"] == range(2, 6) and len(written["reduce"]) == 8


def test_shared_cells_have_one_description() -> None:
    architecture = SHARED.from_text(CELL)
    assert architecture.normal == architecture.reduction
    assert SHARED.to_text(architecture).startswith(
        "(sep_conv_3x3,0)(sep_conv_3x3,1) | (skip_connect,0)(max_pool_3x3,2) |"
    )
    with pytest.raises(InvalidArchitecture, match=r"expected equal normal and reduction cells \(cells=shared\)"):
        SHARED.from_text(V2)
    with pytest.raises(InvalidArchitecture, match="expected equal normal and reduction"):
        SHARED.encode(SPACE.from_text(V2))


@pytest.mark.parametrize(
    ("space", "text", "message"),
    [
        (SPACE, CELL, "expected a normal and a reduction cell with / between them, got 1 cell in"),
        (SHARED, f"{CELL} / {CELL}", "expected the shared cell alone, got 2 cells"),
        (SPACE, f"normal {CELL} / normal {CELL}", "expected one normal and one reduction cell, got two of a kind"),
        (SHARED, CELL + "|(sep3,0)(sep3,1)", r"expected 4 nodes separated by \|, got 5"),
        (SHARED, CELL.replace("(skip,0)", "(skip 0)"), r"expected pairs such as .* got '\(skip 0\)\(max,2\)'"),
        (SHARED, CELL.replace("(skip,0)", ""), "expected two inputs of node 3, got 1"),
        (SHARED, CELL.replace("max,2", "max,0"), "expected two different predecessors of node 3, got 0 twice: an edge"),
        (SHARED, CELL.replace("max,2", "max,3"), "expected predecessors 0 to 2 of node 3, got 3"),
        (SHARED, CELL.replace("max,2", "none,2"), "got none: leave its edge out"),
        (SHARED, CELL.replace("max,2", "sep_conv_3,2"), "got 'sep_conv_3': did you mean 'sep_conv_3x3'"),
        (FEW, "(skip,0)(dil3,1)|(sep3,0)(dil3,1)", "got 'sep3': this space has skip_connect, dil_conv_3x3"),
        (FEW, "(skip,0)(dil3,1)|(dil_3x3,0)(dil3,1)", "got 'dil_3x3': did you mean 'dil_conv_3x3'"),
        (SPACE, V2[:-1], "expected Genotype"),
        (SPACE, V2.replace("reduce_concat", "reduce_out"), "expected Genotype"),
        (SPACE, V2.replace("[2, 3, 4, 5], ", "[3, 4, 5], ").replace("[2, 3, 4, 5],\n", "[3, 4, 5],\n"), "got .3, 4, 5"),
        (SPACE, V2.replace("('sep_conv_3x3', 0), ", "", 1), "expected 8 pairs for 4 nodes, got 7"),
        (SPACE, V2.replace("('sep_conv_3x3', 0)", "'sep_conv_3x3'", 1), "expected pairs such as"),
        (SPACE, V2.replace("0)", "-1)", 1), "expected predecessors 0 to 1 of node 2, got -1"),
    ],
)
def test_notation_errors_say_what_was_expected(space: DARTS, text: str, message: str) -> None:
    with pytest.raises(InvalidArchitecture, match=message):
        space.from_text(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": 0}, "channels in 1..4096, got 0"),
        ({"layers": 0}, "layers in 1..200, got 0"),
        ({"nodes": 0}, "nodes in 1..20, got 0"),
        ({"partial": 0}, "partial >= 1, got 0"),
        ({"partial": 3}, "expected partial to divide channels=16, got 3"),
        ({"partial": 2, "final": True}, "expected partial = 1 in final networks, got 2"),
        ({"cells": "alike"}, "cells to be 'separate' or 'shared', got 'alike'"),
        ({"operations": ("none", "sep_conv3x3")}, "got 'sep_conv3x3': did you mean 'sep_conv_3x3'"),
        ({"operations": ("none",)}, "at least one besides none"),
        ({"operations": ()}, "at least one besides none"),
        ({"operations": ("skip_connect", "none", "skip_connect")}, "that differ, got 'skip_connect' 2 times"),
    ],
)
def test_impossible_spaces_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DARTS(**values)


def test_architectures_of_other_spaces_are_refused() -> None:
    architecture = SHARED.from_text(CELL)
    for space, message in ((FEW, "cells of 2 nodes, got one of 4"), (chz.replace(FEW, nodes=4), "got 'sep_conv_3x3'")):
        with pytest.raises(InvalidArchitecture, match=message):
            space.build(architecture, 10, (1, 8, 8))
    with pytest.raises(InvalidArchitecture, match="expected an architecture of DARTS, got 3"):
        SPACE.encode(3)


# --- derivation ---------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=seeds)
def test_each_node_keeps_its_two_best_edges_and_their_best_operation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.random(SPACE.mixture_shape) * rng.random((2, 14, 1))
    weights[:, :, OPERATIONS.index("none")] = 2  # never derived, whatever it weighs
    architecture = SPACE.derive(weights)
    for cell, matrix in zip((architecture.normal, architecture.reduction), weights, strict=True):
        for node, pairs in enumerate(cell, 2):
            rows = {s: matrix[e, 1:] for e, (s, target) in enumerate(SPACE.mixture_edges()) if target == node}
            best = sorted(sorted(rows, key=lambda s: rows[s].max())[-2:])
            assert pairs == tuple((OPERATIONS[1 + int(rows[s].argmax())], s) for s in best)


def test_one_hot_weights_derive_their_architecture() -> None:
    for space in (SPACE, SHARED, FEW):
        rng = np.random.default_rng(0)
        for _ in range(10):
            architecture = space.decode(space.sample(rng))
            assert space.derive(weights_of(space, architecture)) == architecture


def weights_of(space: DARTS, architecture: Any) -> np.ndarray:
    """1 for an architecture's operations, 0 for all others."""
    weights = np.zeros(space.mixture_shape)
    for cell, matrix in zip((architecture.normal, architecture.reduction), weights, strict=False):
        for node, pairs in enumerate(cell, 2):
            for name, source in pairs:
                matrix[space.mixture_edges().index((source, node)), space.operations.index(name)] = 1
    return weights


def test_of_equal_weights_the_first_is_derived_and_others_are_refused() -> None:
    assert SPACE.to_text(SPACE.derive(np.ones((2, 14, 8)))).startswith(
        "normal (max_pool_3x3,0)(max_pool_3x3,1) | (max_"
    )
    with pytest.raises(ValueError, match=r"expected weights of shape \(2, 14, 8\), got \(14, 8\)"):
        SPACE.derive(np.ones((14, 8)))
    with pytest.raises(ValueError, match="that are numbers"):
        SPACE.derive(np.full((2, 14, 8), np.nan))
    assert SHARED.mixture_shape == (1, 14, 8) and FEW.mixture_shape == (1, 5, 3)


# --- networks -----------------------------------------------------------------------------------------------------


def run_operation(module: Any, name: str, x: torch.Tensor, stride: int, final: bool) -> torch.Tensor:
    """An operation with batch statistics, from its weights alone."""

    def norm(x: torch.Tensor, layer: Any = None) -> torch.Tensor:
        affine = (layer.weight, layer.bias) if layer is not None else (None, None)
        return F.batch_norm(x, None, None, *affine, training=True)

    def conv(x: torch.Tensor, layer: nn.Conv2d, stride: int = 1, dilation: int = 1) -> torch.Tensor:
        padding = dilation * (layer.kernel_size[0] // 2)
        return F.conv2d(x, layer.weight, None, stride, padding, dilation, layer.groups)

    if name == "skip_connect" and stride == 1:
        return x
    if name == "skip_connect":
        straight = conv(x.relu(), module.straight, 2)
        return norm(torch.cat((straight, conv(x.relu()[:, :, 1:, 1:], module.shifted, 2)), 1), module.norm)
    if "conv" in name:
        size = int(name[-1])
        assert module[0].kernel_size == (size, size) and module[0].groups == x.shape[1]
        dilated = name.startswith("dil")
        y = norm(conv(conv(x.relu(), module[0], stride, 2 if dilated else 1), module[1]), module[2])
        return y if dilated else norm(conv(conv(y.relu(), module[4]), module[5]), module[6])
    patches = F.pad(x, (1, 1, 1, 1), value=-torch.inf).unfold(2, 3, stride).unfold(3, 3, stride).flatten(4)
    if name == "max_pool_3x3":
        pooled = patches.amax(-1)
    else:  # only pixels inside the image count
        inside = patches.isfinite()
        pooled = patches.where(inside, 0.0).sum(-1) / inside.sum(-1)
    return pooled if final else norm(pooled)


def point_conv(module: Any, x: torch.Tensor) -> torch.Tensor:
    y = F.conv2d(x.relu(), module[0].weight)
    return F.batch_norm(y, None, None, module[1].weight, module[1].bias, training=True)


EVERYTHING = (
    "(sep5,0)(sep3,1)|(dil5,0)(max,1)|(skip,1)(avg,2)|(dil3,2)(skip,3)|(avg,0)(skip,1)|(skip,0)(max,1)"  # all kinds
)


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_cell_computes_what_its_notation_says(stride: int, final: bool) -> None:
    torch.manual_seed(0)
    described = chz.replace(SHARED, nodes=6).from_text(EVERYTHING).normal
    cell: Any = DARTSCell(described, 1, final, 5, 6, 4, stride == 2, halved=False).train()
    for layer in cell.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    earlier, before = torch.randn(2, 5, 8, 8), torch.randn(2, 6, 8, 8)
    values = [point_conv(cell.preprocess0, earlier), point_conv(cell.preprocess1, before)]
    first = [0, 2, 5, 9, 14, 20]  # number of the first edge into each node
    for node, pairs in enumerate(described):
        terms = []
        for name, source in pairs:
            module = getattr(cell, f"e{first[node] + source}")[name]
            terms.append(run_operation(module, name, values[source], stride if source < 2 else 1, final))
        values.append(terms[0] + terms[1])
    torch.testing.assert_close(cell(earlier, before), torch.cat(values[2:], 1), rtol=1e-4, atol=1e-5)


def test_partial_channels_pass_by_and_are_shuffled() -> None:
    torch.manual_seed(0)
    space = DARTS(cells="shared", nodes=1, channels=8, partial=4)
    described = space.from_text("(max,0)(skip,1)").normal
    earlier, before = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6)
    cell: Any = DARTSCell(described, 4, False, 3, 3, 8, False, halved=False).train()
    zero, one = point_conv(cell.preprocess0, earlier), point_conv(cell.preprocess1, before)
    seen = run_operation(None, "max_pool_3x3", zero[:, :2], 1, False) + one[:, :2]
    whole = torch.cat((seen, zero[:, 2:] + one[:, 2:]), 1)
    # channel j of the output is the (j // 4)-th of the (j mod 4)-th quarter
    shuffled = torch.stack([whole[:, (j % 4) * 2 + j // 4] for j in range(8)], 1)
    torch.testing.assert_close(cell(earlier, before), shuffled, rtol=1e-4, atol=1e-5)
    halving: Any = DARTSCell(described, 4, False, 3, 3, 8, True, halved=False).train()
    zero, one = point_conv(halving.preprocess0, earlier), point_conv(halving.preprocess1, before)
    passed = F.max_pool2d(zero[:, 2:], 2) + F.max_pool2d(one[:, 2:], 2)
    output = halving(earlier, before)
    assert output.shape == (2, 8, 3, 3)
    torch.testing.assert_close(output[:, [1, 2, 3, 5, 6, 7]], passed[:, [0, 2, 4, 1, 3, 5]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize(
    ("in_shape", "stem", "sizes"),
    [
        ((1, 8, 8), (8, 8), [(8, 8), (4, 4), (2, 2)]),
        ((1, 28, 28), (28, 28), [(28, 28), (14, 14), (7, 7)]),
        ((3, 32, 32), (32, 32), [(32, 32), (16, 16), (8, 8)]),
        ((3, 64, 64), (64, 64), [(64, 64), (32, 32), (16, 16)]),
        ((3, 17, 12), (17, 12), [(17, 12), (9, 6), (5, 3)]),
        # ImageNet: three convolutions of stride 2 before the first cell
        ((3, 70, 65), (18, 17), [(9, 9), (5, 5), (3, 3)]),
    ],
)
def test_image_sizes(in_shape: Any, stem: tuple[int, int], sizes: list[tuple[int, int]], partial: int) -> None:
    space = DARTS(nodes=2, channels=2, layers=3, partial=partial)
    rng = np.random.default_rng(0)
    for _ in range(3):
        model: Any = space.build(space.decode(space.sample(rng)), 10, in_shape).eval()
        seen: list[tuple[int, ...]] = []
        for module in (model.stem, *model.cells):
            module.register_forward_hook(lambda _m, _x, y, seen=seen: seen.append(tuple(y.shape[1:])))
        assert model(torch.rand(2, *in_shape)).shape == (2, 10)
        large = max(in_shape[1:]) > 64
        channels = [2 if large else 6, 4, 8, 16]
        assert seen == [(c, *size) for c, size in zip(channels, [stem, *sizes], strict=True)]
        assert (model.stem2 is None) == (not large)


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_any_depth(layers: int) -> None:
    space = DARTS(nodes=1, channels=2, layers=layers)
    model: Any = space.build(space.largest(), 3, (1, 8, 8)).eval()
    reductions = {layers // 3, 2 * layers // 3}
    assert [cell.stride for cell in model.cells] == [2 if i in reductions else 1 for i in range(layers)]
    assert model.classifier.in_features == 2 * 2 ** len(reductions)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_a_single_channel_is_enough() -> None:
    for in_shape in ((1, 8, 8), (1, 66, 66)):  # the latter halves a single channel before the first cell
        space = DARTS(cells="shared", channels=1, layers=2)
        model = space.build(space.from_text(EVERYTHING.rsplit("|", 2)[0]), 3, in_shape).eval()
        assert model(torch.rand(2, *in_shape)).isfinite().all()


def test_batch_norms_of_search_networks_are_not_affine_and_those_of_final_ones_are() -> None:
    final = chz.replace(SPACE, final_channels=4, final_layers=3).for_final_training()
    for space in (SPACE, final):
        model: Any = space.build(space.from_text(f"{CELL}/{CELL}"), 10, (1, 8, 8))
        norms = {name: m.affine for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
        assert {name for name, affine in norms.items() if affine} == ({"stem.1"} if space is SPACE else set(norms))
        pools = {name for name in norms if "pool" in name}
        assert len(pools) == (0 if space is final else 2 * 3)


def test_networks_grow_for_final_training() -> None:
    final = DARTS(channels=8, layers=5, partial=4).for_final_training()
    assert (final.channels, final.layers, final.partial, final.final) == (36, 20, 1, True)
    assert final.for_final_training() == final


# --- studies ------------------------------------------------------------------------------------------------------


def test_structure_of_a_published_genotype() -> None:
    space = DARTS()
    structure = space.structure(space.from_text(PUBLISHED["darts-v2"].text))
    names = [o.name for o in structure.operations if o.cell == 1]
    assert len(structure.operations) == 16 and names.count("max_pool_3x3") == 5 and names.count("skip_connect") == 3
    assert (structure.cells, structure.places, structure.convolutions) == (2, 8, 6 / 2)
    assert structure.density == 6 / 16 and structure.budget == "small"  # the reduction's skips are from node 2
    assert structure.direct_share == 1 / 6  # node 1 → node 2
    halving = space.structure(space.from_text(PUBLISHED["advrush"].text))
    assert halving.density == (7 + (2 + 1 + 0 + 3)) / 16  # three skips from node 0 halve
    shared = SHARED.structure(SHARED.from_text(CELL))
    assert (shared.cells, shared.convolutions, shared.density) == (1, 5, (5 + 6) / 16)


@pytest.mark.parametrize("budget", BUDGETS)
def test_samples_fall_into_the_budget_that_was_asked_for(budget: Any) -> None:
    rng = np.random.default_rng(0)
    low, high = {"small": (0, 4), "medium": (5, 5), "large": (6, 8)}[budget]
    found = [SPACE.structure(SPACE.decode(SPACE.sample_in(rng, budget))) for _ in range(20)]
    assert all(low <= round(structure.convolutions) <= high for structure in found)


def test_seeds_are_the_published_cells_that_fit() -> None:
    assert len(set(SPACE.seeds())) == len(PUBLISHED) == 8
    assert SPACE.from_text(V2) in SPACE.seeds()
    no_dilation = chz.replace(SPACE, operations=tuple(name for name in OPERATIONS if not name.startswith("dil")))
    assert no_dilation.seeds() == (SPACE.from_text(PUBLISHED["darts-v1"].text),)
    assert SHARED.seeds() == chz.replace(SPACE, nodes=3).seeds() == ()


def test_largest_and_smallest() -> None:
    def size(space: DARTS, architecture: Any) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in space.build(architecture, 10, (1, 8, 8)).parameters())

    rng = np.random.default_rng(0)
    for space in (SPACE, FEW, chz.replace(SPACE, operations=("max_pool_3x3", "skip_connect"))):
        largest = size(space, space.largest())
        assert all(size(space, space.draw_path(rng)) <= largest for _ in range(10))
        smallest = [space.draw_smallest(rng) for _ in range(20)]
        assert len(set(smallest)) > 1
        assert not any(o.convolution for a in smallest for o in space.structure(a).operations)
    only = chz.replace(FEW, operations=("dil_conv_3x3", "sep_conv_5x5"))
    assert "sep" not in only.to_text(only.draw_smallest(rng))


# --- pictures and files -------------------------------------------------------------------------------------------


def drawn(space: DARTS, text: str) -> tuple[list[str], int]:
    """Texts of a picture, and its number of arrows between nodes."""
    figure = Figure(figsize=(10, 2.6))
    space.draw(space.from_text(text), figure)
    patches = [p for p in figure.axes[0].patches if type(p).__name__ == "FancyArrowPatch"]
    return [t.get_text() for t in figure.axes[0].texts], len(patches)


def test_drawings_name_every_operation_at_its_arrow() -> None:
    texts, arrows = drawn(SPACE, PUBLISHED["racl"].text)
    assert arrows == 16 and texts.count("sep 3×3") == 4 + 3 and texts.count("skip") == 3 and texts.count("dil 3×3") == 2
    assert "normal cell" in texts and any(text.startswith("reduction cell") for text in texts)
    texts, arrows = drawn(SHARED, CELL)
    assert arrows == 8 and "normal cell" not in texts
    assert [t for t in texts if len(t) <= 3 and t] == ["k−2", "k−1", "2", "3", "4", "5", "out"]


def trained(space: DARTS, architecture: Any) -> nn.Module:
    """A network whose running statistics are those of digits."""
    torch.manual_seed(0)
    model = space.build(architecture, 10, (1, 8, 8))
    with torch.no_grad():
        for _ in range(20):
            model.train()(Digits().load().train.floats(slice(64)))
    return model.eval()


@pytest.mark.parametrize("space", [SPACE, chz.replace(SPACE, partial=2), chz.replace(SPACE, final=True)], ids=name_of)
def test_attacks_fold_batch_norm_into_the_convolutions(space: DARTS) -> None:
    model, x = trained(space, space.from_text(PUBLISHED["racl"].text)), Digits().load().test.floats(slice(50))
    folded = fold_batch_norm(model, x[:16])
    norms, left = ([n for n, m in one.named_modules() if isinstance(m, nn.BatchNorm2d)] for one in (model, folded))
    # what remains follows a concatenation of two convolutions, or a pool
    assert left == [n for n in norms if n.endswith(".norm") or "pool" in n] and len(left) < len(norms) / 3
    torch.testing.assert_close(folded(x), model(x), rtol=1e-3, atol=1e-4)


def test_the_fsp_distance_sees_every_cell() -> None:
    model, images = trained(SPACE, SPACE.from_text(V2)), Digits().load().val.take(slice(40))
    threat = Threat(norm="linf", eps=0.1)  # type: ignore[arg-type]
    distances = fsp_distances(model, SPACE.cells_of(model), images, FGSM(), threat, torch.Generator().manual_seed(0))
    assert len(distances) == 3 and all(distance is not None and distance > 0 for distance in distances)


@pytest.mark.parametrize("space", [chz.replace(SHARED, partial=2), chz.replace(SPACE, final=True)], ids=name_of)
def test_export_writes_a_network_that_torch_alone_rebuilds(space: DARTS, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from test_export import strangers_logits

    architecture = space.from_text(CELL if space.cells == "shared" else PUBLISHED["wsr-plus"].text)
    model = trained(space, architecture)
    genotype = Genotype(space, architecture, "digits", 10, (1, 8, 8))
    names = export.write(export.Exported(genotype, tmp_path / "out", model), onnx=True)
    assert names == ["genotype.json", "model.onnx", "model.py", "model.safetensors"]
    assert load_genotype(tmp_path / "out") == genotype
    assert "Supernet" not in (tmp_path / "out" / "model.py").read_text()
    x = Digits().load().test.floats(slice(50)).contiguous()
    with torch.no_grad():
        expected = model(x)
    assert torch.equal(strangers_logits(tmp_path / "out" / "model.py", x)[0], expected)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-3, atol=1e-4)


def test_arguments_are_literals_that_rebuild_the_network() -> None:
    arguments = SPACE.network_arguments(SPACE.from_text(V2), 10, (3, 96, 64))
    assert arguments == eval(repr(arguments), {"__builtins__": {}})
    assert arguments["large_images"] is True and arguments["layers"] == 3 and arguments["reductions"] == [1, 2]

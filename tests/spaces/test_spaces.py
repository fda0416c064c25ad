"""Contract of every search space, then the facts of each."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable

import chz
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from toys import Integers

from evo_robust.objectives.cost import count_flops
from evo_robust.spaces import InvalidArchitecture, NSGAPhases, RobNet, SearchSpace
from evo_robust.spaces.base import Architecture
from evo_robust.spaces.nsga.codec import (
    PhaseGraph,
    PhasesArchitecture,
    canonical_inputs,
    connected_nodes,
    decode_phase,
    n_bits,
)
from evo_robust.spaces.nsga.network import Phase, PhasesNetwork
from evo_robust.spaces.structure import Structure

# A new space is under contract as soon as it stands here; networks small enough for many forward passes.
SPACES: dict[str, SearchSpace] = {
    "nsga": NSGAPhases(channels=2),
    "nsga-dense": NSGAPhases(decoder="dense", dense_channels=4),
    "nsga-smallest": NSGAPhases(phases=1, nodes=2, channels=1),
    "nsga-large": NSGAPhases(phases=5, nodes=10, channels=1),
    "nsga-refuse": NSGAPhases(phases=2, nodes=3, channels=2, all_inactive="refuse"),
    "robnet": RobNet(channels=2, layers=4, final_channels=3, final_layers=3),
    "robnet-free": RobNet(cells="free", channels=1, layers=4, nodes=2, final_channels=2),
    "robnet-refuse": RobNet(cells="free", channels=2, layers=3, nodes=3, no_path="refuse", final_channels=2),
    "robnet-smallest": RobNet(channels=1, layers=1, nodes=1, final_channels=1, final_layers=1),
}
IN_SHAPES = ((1, 8, 8), (3, 17, 12))
TABLE_V = """[0][01][000][0000][00000][0]
             [1][00][010][1100][00110][1]
             [0][00][101][0111][10111][1]"""

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None, derandomize=True)
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def sparse_genome(space: SearchSpace, seed: int) -> np.ndarray:
    """A genome whose share of zeros is random too, so that rare structures (isolated nodes, dead phases) appear."""
    rng = np.random.default_rng(seed)
    genome = rng.integers(0, space.n_choices)
    genome[rng.random(len(genome)) < rng.random()] = 0
    return space.repair(genome)


def decode_or_skip(space: SearchSpace, genome: np.ndarray) -> object:
    try:
        return space.decode(genome)
    except InvalidArchitecture:
        return space.decode(space.sample(np.random.default_rng(0)))


# --- contract ---------------------------------------------------------------------------------------------------


@every_space
def test_blocks_cover_the_genome_once(space: SearchSpace) -> None:
    covered = [gene for block in space.blocks for gene in range(space.n_genes)[block]]
    assert sorted(covered) == list(range(space.n_genes))
    assert (space.n_choices >= 1).all()


@every_space
@quick
@given(seed=seeds)
def test_codec_and_notation_round_trip(space: SearchSpace, seed: int) -> None:
    architecture = decode_or_skip(space, sparse_genome(space, seed))
    genome = space.encode(architecture)
    assert genome.shape == (space.n_genes,)
    assert np.issubdtype(genome.dtype, np.integer)
    assert ((genome >= 0) & (genome < space.n_choices)).all()
    assert space.decode(genome) == architecture
    assert hash(space.decode(genome)) == hash(architecture)
    text = space.to_text(architecture)
    assert space.from_text(text) == architecture
    assert space.to_text(space.from_text(text)) == text
    assert pickle.loads(pickle.dumps(architecture)) == architecture


@every_space
@quick
@given(seed=seeds)
def test_samples_are_networks_and_repair_leaves_networks_alone(space: SearchSpace, seed: int) -> None:
    genome = space.sample(np.random.default_rng(seed))
    assert ((genome >= 0) & (genome < space.n_choices)).all()
    space.decode(genome)
    assert np.array_equal(space.repair(genome), genome)
    assert np.array_equal(genome, space.sample(np.random.default_rng(seed)))


@every_space
@settings(quick, max_examples=6)
@given(seed=seeds, in_shape=st.sampled_from(IN_SHAPES), n_classes=st.integers(2, 7))
def test_networks_of_random_genomes_give_finite_logits(space, seed, in_shape, n_classes) -> None:  # type: ignore
    architecture = decode_or_skip(space, sparse_genome(space, seed))
    model = space.build(architecture, n_classes, in_shape)
    logits = model.eval()(torch.rand(3, *in_shape))
    assert logits.shape == (3, n_classes)
    assert logits.isfinite().all()
    model.train()(torch.rand(2, *in_shape)).sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == []


@every_space
def test_networks_depend_on_architecture_and_generator_alone(space: SearchSpace) -> None:
    architecture = space.decode(space.sample(np.random.default_rng(1)))
    states = []
    for twin in (architecture, space.from_text(space.to_text(architecture))):
        torch.manual_seed(5)
        states.append(space.build(twin, 10, (1, 8, 8)).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@every_space
def test_networks_can_be_pickled(space: SearchSpace) -> None:
    architecture = space.decode(space.sample(np.random.default_rng(2)))
    model = space.build(architecture, 10, (1, 8, 8)).eval()
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


@every_space
def test_seeds_belong_to_the_space(space: SearchSpace) -> None:
    for architecture in space.seeds():
        assert space.decode(space.encode(architecture)) == architecture
    assert len(set(space.seeds())) == len(space.seeds())


@every_space
def test_the_final_space_builds_what_was_found(space: SearchSpace) -> None:
    architecture = space.decode(space.sample(np.random.default_rng(3)))
    final = space.for_final_training()
    assert final.from_text(space.to_text(architecture)) == architecture
    assert final.build(architecture, 4, (1, 8, 8)).eval()(torch.rand(1, 1, 8, 8)).shape == (1, 4)


@every_space
@pytest.mark.parametrize("change", [lambda g: g[:-1], lambda g: g - 2, lambda g: g + 1000, lambda g: g + 0.5])
def test_other_than_genomes_are_refused(space, change) -> None:  # type: ignore
    genome = space.sample(np.random.default_rng(4))
    with pytest.raises(InvalidArchitecture, match="expected"):
        space.decode(change(genome))


@every_space
@pytest.mark.parametrize("text", ["", "nonsense", "[[", "/", "[2]"])
def test_other_than_notations_are_refused(space: SearchSpace, text: str) -> None:
    with pytest.raises(InvalidArchitecture, match="expected"):
        space.from_text(text)


@every_space
def test_foreign_architectures_are_refused(space: SearchSpace) -> None:
    with pytest.raises(InvalidArchitecture, match="expected"):
        space.encode(("another", "space"))


@every_space
@settings(quick, max_examples=2)
@given(seed=seeds)
def test_drawings_show_every_text_inside_the_picture(space: SearchSpace, seed: int) -> None:
    figure = Figure(figsize=(10, 2.6))
    space.draw(space.decode(space.sample(np.random.default_rng(seed))), figure)
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    assert texts
    for text in texts:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text.get_text()


@every_space
@quick
@given(seed=seeds)
def test_a_study_knows_names_of_genes_and_what_architectures_are_made_of(space: SearchSpace, seed: int) -> None:
    assert len(set(space.gene_names)) == len(space.gene_names) == space.n_genes
    structure = space.structure(decode_or_skip(space, sparse_genome(space, seed)))
    assert structure is not None and structure.operations
    assert 0 < structure.density <= 1 and 0 <= structure.convolutions <= structure.places
    assert {o.cell for o in structure.operations} <= set(range(structure.cells))
    assert all(o.source < o.target for o in structure.operations)


# --- NSGA phases: identity ----------------------------------------------------------------------------------------


def every_bits(nodes: int) -> list[bytes]:
    return [bytes(bits) + b"\0" for bits in itertools.product((0, 1), repeat=n_bits(nodes) - 1)]


def relabelled(before: tuple[tuple[int, ...], ...], order: tuple[int, ...]) -> frozenset[tuple[int, int]]:
    return frozenset((order[j], order[i]) for i, sources in enumerate(before) for j in sources)


def test_a_six_node_phase_has_the_published_number_of_graphs() -> None:
    strings = every_bits(6)
    assert len(strings) == 32_768
    assert len({connected_nodes(bits) for bits in strings}) == 28_264
    assert len({decode_phase(bits) for bits in strings}) == 5_984


@pytest.mark.parametrize("nodes", [2, 3, 4, 5])
def test_canonical_forms_are_equal_exactly_for_isomorphic_graphs(nodes: int) -> None:
    classes: dict[object, set[object]] = {}
    for bits in every_bits(nodes):
        before = connected_nodes(bits)
        # brute force: the least edge set over all numberings
        least = min(sorted(relabelled(before, order)) for order in itertools.permutations(range(len(before))))
        classes.setdefault(decode_phase(bits), set()).add((len(before), tuple(least)))
    assert all(len(forms) == 1 for forms in classes.values())
    assert len({next(iter(forms)) for forms in classes.values()}) == len(classes)


@quick
@given(seed=seeds, nodes=st.integers(2, 12))
def test_renumbered_phases_decode_equal(seed: int, nodes: int) -> None:
    rng = np.random.default_rng(seed)
    adjacency = np.tril(rng.random((nodes, nodes)) < rng.random(), -1)
    order: list[int] = []
    while len(order) < nodes:  # a random topological order
        ready = [v for v in range(nodes) if v not in order and set(np.flatnonzero(adjacency[v])) <= set(order)]
        order.append(int(rng.choice(ready)))
    moved = adjacency[np.ix_(order, order)]
    bits = [bytes([*m[np.tril_indices(nodes, -1)].astype(np.uint8), 1]) for m in (adjacency, moved)]
    assert decode_phase(bits[0]) == decode_phase(bits[1])


def test_symmetric_graphs_are_numbered_without_factorial_cost() -> None:
    arms = 12  # 12! orders of the arms
    star = [(), *[(0,)] * arms, *[(arm,) for arm in range(1, arms + 1)]]
    pairs = [source for pair in range(arms) for source in ((), (2 * pair,))]
    full = [*[()] * arms, *[tuple(range(arms))] * arms]
    for graph in (star, pairs, full):
        assert len(canonical_inputs(graph)) == len(graph)


def test_identity_ignores_what_builds_no_network() -> None:
    space = NSGAPhases(phases=2, nodes=4)
    text = space.to_text(space.from_text("[0][00][001][0] / [1][01][000][1]"))
    assert text == "[1][00][000][0] / [1][01][000][1]"
    same = ["[0][01][000][0] / [1][01][000][1]", "[0][00][100][0]\n[0][10][001][1]"]  # isolated nodes elsewhere
    assert {space.to_text(space.from_text(t)) for t in same} == {text}
    inactive = [space.from_text(t) for t in ("[0][00][000][1] / [1][01][000][1]", "[1][01][000][1]/[0][00][000][0]")]
    assert inactive[0] == inactive[1]  # a dead phase, its skip bit and its place
    swapped = space.from_text("[1][01][000][1] / [1][00][000][0]")
    assert space.to_text(swapped) != text  # the order of active phases is part of the network
    unskipped = space.from_text("[1][00][000][0] / [1][01][000][0]")
    assert space.to_text(unskipped) != text  # and so is the skip of an active phase


def test_all_inactive_genomes_are_repaired_alike_or_refused() -> None:
    space = NSGAPhases(phases=2, nodes=3)
    dead = [np.array(bits) for bits in ([0] * 8, [0, 0, 0, 1, 0, 0, 0, 1])]
    assert {space.to_text(space.decode(genome)) for genome in dead} == {"[1][00][0] / [0][00][0]"}
    assert {tuple(space.repair(genome)) for genome in dead} == {(1, 0, 0, 0, 0, 0, 0, 0)}
    refusing = chz.replace(space, all_inactive="refuse")
    for genome in dead:
        with pytest.raises(InvalidArchitecture, match="at least one active phase"):
            refusing.decode(genome)
        assert np.array_equal(refusing.repair(genome), genome)
    for one in (space, refusing):
        with pytest.raises(InvalidArchitecture, match="no connection"):
            one.from_text("[0][00][1] / [0][00][0]")


def test_structure_of_phases_has_one_convolution_per_node() -> None:
    space = NSGAPhases(phases=3, nodes=4)
    # phase 1: node 2 reads 1, node 3 reads 1; phase 2: a chain of three with skip; the third is inactive
    architecture = space.from_text("[1][10][000][0] / [1][01][000][1] / [0][00][000][0]")
    structure = space.structure(architecture)
    assert {(o.cell, o.source, o.target) for o in structure.operations} == {
        *((0, 0, 1), (0, 1, 2), (0, 1, 3)),
        *((1, 0, 1), (1, 1, 2), (1, 2, 3)),
    }
    assert all(o.convolution and o.name == "conv 3x3" for o in structure.operations)
    assert (structure.cells, structure.places, structure.convolutions) == (2, 4, 3)
    assert structure.density == 4 / 12  # the connections between nodes; inputs and skip bits aside
    assert structure.direct_share == 5 / 6
    full = space.structure(space.seeds()[2])
    assert (full.density, full.convolutions, full.budget) == (1, 4, "large")


def test_genes_of_phases_are_named() -> None:
    space = NSGAPhases(phases=2, nodes=3)
    names = ["node 1→2", "node 1→3", "node 2→3", "skip"]
    assert list(space.gene_names) == [f"phase {k} {name}" for k in (1, 2) for name in names]


def test_seeds_are_the_hand_made_networks() -> None:
    texts = [NSGAPhases(phases=1, nodes=4).to_text(a) for a in NSGAPhases(phases=1, nodes=4).seeds()]
    assert texts == ["[1][01][001][0]", "[1][01][001][1]", "[1][11][111][1]"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[0][1][1]", "expected 2 phases separated by '/', got 1"),
        ("[1][10][0] / [1][0]", r"expected 3 groups \(of nodes 2..3 and the skip bit\) in phase 2, got 2"),
        ("[1][10][0] / [1][102][0]", "expected groups of 0 and 1 .* in phase 2"),
        ("[1][101][0] / [1][10][0]", "expected 2 bits for node 3 in phase 1, got .101."),
        ("[11][10][0] / [1][10][0]", "expected 1 bit for node 2 in phase 1"),
        ("[1][10][0] / [1][10][01]", "expected 1 skip bit last in phase 2"),
    ],
)
def test_notation_errors_say_where_and_what(text: str, message: str) -> None:
    with pytest.raises(InvalidArchitecture, match=message):
        NSGAPhases(phases=2, nodes=3).from_text(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"phases": 0}, "phases in 1..10, got 0"),
        ({"nodes": 1}, "nodes in 2..20, got 1"),
        ({"channels": 0}, "channels in 1..4096, got 0"),
        ({"decoder": "dense", "dense_channels": 7}, "even number"),
        ({"decoder": "dens"}, "decoder to be 'residual' or 'dense', got 'dens'"),
        ({"all_inactive": "drop"}, "all_inactive to be 'repair' or 'refuse', got 'drop'"),
    ],
)
def test_impossible_spaces_are_refused(values: dict, message: str) -> None:  # type: ignore
    with pytest.raises(ValueError, match=message):
        NSGAPhases(**values)


def test_architectures_too_large_for_a_space_are_refused() -> None:
    architecture = NSGAPhases(phases=3, nodes=6).seeds()[0]
    with pytest.raises(InvalidArchitecture, match="at most 4 nodes"):
        NSGAPhases(phases=3, nodes=4).encode(architecture)
    with pytest.raises(InvalidArchitecture, match="1 to 2 active phases, got 3"):
        NSGAPhases(phases=2, nodes=6).build(architecture, 10, (3, 32, 32))


# --- NSGA phases: networks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "flops", "params"),
    [
        (lambda space: space, 32_223_744, 338_394),  # as Table V prints it: 32.22M
        (NSGAPhases.for_final_training, 127_373_312, 1_348_522),
        (NSGAPhases.with_dense_decoder, 628_869_824, 2_637_706),
    ],
    ids=["searched", "final", "dense"],
)
def test_table_v_network_has_its_operations_and_parameters(
    change: Callable[[NSGAPhases], NSGAPhases], flops: int, params: int
) -> None:
    space = change(NSGAPhases())
    model = space.build(space.from_text(TABLE_V), 10, (3, 32, 32))
    assert count_flops(model, (3, 32, 32), "nsga") == flops
    assert sum(p.numel() for p in model.parameters()) == params


def test_dense_network_has_the_channels_of_nsga_net() -> None:
    space = NSGAPhases(phases=1, nodes=3).with_dense_decoder()
    model = space.build(space.from_text("[1][11][1]"), 10, (3, 32, 32))
    shapes = [tuple(m.weight.shape[:2]) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    # stem; nodes 1, 2 (reads 1), 3 (reads 1 and 2); output of node 3 and the phase's input
    assert shapes == [(128, 3), (256, 128), (64, 256), (256, 64), (64, 256), (256, 128), (64, 256), (128, 192)]


@pytest.mark.parametrize(
    ("in_shape", "sizes"),
    [
        ((3, 32, 32), [30, 15, 7]),
        ((3, 64, 64), [62, 31, 15]),
        ((1, 28, 28), [26, 13, 6]),
        ((1, 8, 8), [6, 3, 1]),
        ((1, 4, 4), [2, 1, 1]),  # no pool over a single pixel
        ((1, 3, 3), [1, 1, 1]),
    ],
)
@pytest.mark.parametrize("decoder", ["residual", "dense"])
def test_image_sizes(in_shape: tuple[int, int, int], sizes: list[int], decoder: str) -> None:
    space = NSGAPhases(nodes=2, channels=2, decoder=decoder, dense_channels=2)  # type: ignore
    model = space.build(space.seeds()[0], 10, in_shape).eval()
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, Phase):
            module.register_forward_hook(lambda _m, _x, y: seen.append(y.shape[-1]))
    assert model(torch.rand(2, *in_shape)).shape == (2, 10)
    assert seen == sizes


def test_images_without_room_for_a_convolution_are_refused() -> None:
    space = NSGAPhases()
    with pytest.raises(ValueError, match="at least 3×3 pixels, got 2×32"):
        space.build(space.seeds()[0], 10, (3, 2, 32))


def test_residual_network_computes_the_decoded_graph() -> None:
    # phase 1: nodes 1 and 2 read the input, node 3 both, node 4 reads 1; 3, 4 and the input go to the output
    inputs = ((0,), (0,), (1, 2), (1,))
    model = PhasesNetwork([(inputs, True), (((0,), (1,)), False)], "residual", 2, 5, (1, 9, 9)).eval()
    stem1, phase1, pool, stem2, phase2 = model.features
    x = torch.rand(4, 1, 9, 9)
    first = stem1(model.normalize(x))
    assert first.shape == (4, 2, 7, 7)
    n1, n2 = phase1.nodes[0](first), phase1.nodes[1](first)
    n3, n4 = phase1.nodes[2](torch.cat([n1, n2], 1)), phase1.nodes[3](n1)
    second = stem2(pool(phase1.output(torch.cat([first, n3, n4], 1))))
    assert second.shape == (4, 4, 3, 3)
    last = phase2.output(phase2.nodes[1](phase2.nodes[0](second)))
    expected = model.classifier(last.mean((2, 3)))
    torch.testing.assert_close(model(x), expected)


def test_phases_are_the_cells_of_a_network_and_leave_no_trace_in_its_weights() -> None:
    model = PhasesNetwork([([(0,), (1,)], True)] * 2, "residual", 2, 5, (1, 9, 9))
    before = list(model.state_dict())
    cells = NSGAPhases(phases=2, nodes=2).cells_of(model)
    assert list(cells) == [m for m in model.features if isinstance(m, Phase)] and len(cells) == 2
    assert list(model.state_dict()) == before and not any(name.startswith("cells") for name in before)


def test_values_are_released_after_their_last_reader() -> None:
    chain = Phase([(0,), (1,), (2,), (3,)], False, 2, "residual")
    assert chain.finished == [[0], [1], [2], [3]]
    skipped = Phase([(0,), (1,), (1, 2)], True, 2, "residual")
    assert skipped.finished == [[], [], [1, 2]]  # the phase's input is kept for the output


def test_equal_architectures_cost_the_same_as_their_raw_genomes() -> None:
    from evo_robust.objectives.cost import count_flops, count_params

    space = NSGAPhases(phases=1, nodes=5, channels=2)
    rng = np.random.default_rng(0)
    for _ in range(25):
        bits = bytes(space.sample(rng).astype(np.uint8))
        raw = [tuple(j + 1 for j in sources) or (0,) for sources in connected_nodes(bits)]
        as_written = PhasesNetwork([(raw, bool(bits[-1]))], "residual", 2, 10, (1, 8, 8))
        canonical = space.build(space.decode(np.frombuffer(bits, np.uint8)), 10, (1, 8, 8))
        assert count_params(as_written) == count_params(canonical)
        assert count_flops(as_written, (1, 8, 8), "macs") == count_flops(canonical, (1, 8, 8), "macs")


@pytest.mark.parametrize("decoder", ["residual", "dense"])
def test_arguments_are_literals_that_rebuild_the_network(decoder: str) -> None:
    space = NSGAPhases(channels=2, decoder=decoder, dense_channels=4)  # type: ignore
    architecture = space.from_text(TABLE_V)
    model = space.build(architecture, 10, (1, 8, 8)).eval()
    arguments = eval(repr(space.network_arguments(architecture, 10, (1, 8, 8))), {"__builtins__": {}})
    twin = PhasesNetwork(**arguments).eval()
    twin.load_state_dict(model.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(twin(x), model(x))


@pytest.mark.parametrize("decoder", ["residual", "dense"])
def test_networks_can_be_traced_and_exported(decoder: str) -> None:
    space = NSGAPhases(phases=2, nodes=3, channels=2, decoder=decoder, dense_channels=4)  # type: ignore
    model = space.build(space.seeds()[-1], 10, (1, 8, 8)).eval()
    x = torch.rand(3, 1, 8, 8)
    expected = model(x)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), expected)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    torch.testing.assert_close(exported.module()(x[:2]), expected[:2])


def test_drawings_name_phases_channels_and_pools() -> None:
    space = NSGAPhases(channels=8)
    final, dense = space.for_final_training(), space.with_dense_decoder()
    for one, channels in ((space, (8, 16, 32)), (final, (32, 64, 128)), (dense, (128, 128, 128))):
        figure = Figure(figsize=(10, 2.6))
        one.draw(one.from_text(TABLE_V), figure)
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert [text for text in texts if "channels" in text] == [f"{n} channels" for n in channels]
        assert texts.count("max pool") == 2
        assert [text for text in texts if text.isdigit()] == list("12") + list("123456") * 2


@pytest.mark.parametrize(("skip", "legends"), [("0", 0), ("1", 1)])
def test_the_legend_of_skip_connections_stands_where_there_are_any(skip: str, legends: int) -> None:
    space, figure = NSGAPhases(phases=2, nodes=5, channels=8), Figure(figsize=(10, 2.6))
    space.draw(space.from_text(f"[0][10][011][0000][0] / [1][01][000][0000][{skip}]"), figure)
    assert sum("skip connection" in text.get_text() for text in figure.axes[0].texts) == legends


def test_arrows_keep_clear_of_nodes() -> None:
    from evo_robust.spaces import drawing

    start, middle, end = np.array((0.0, 0.0)), np.array(((1.0, 0.0),)), np.array((2.0, 0.0))
    bend = drawing._clear_bend(start, end, middle, [], 0.14)
    assert np.linalg.norm(drawing._arc(start, end, bend) - middle, axis=1).min() > 0.14
    assert drawing._clear_bend(start, end, np.zeros((0, 2)), [], 0.14) == 0


def test_phase_graph_knows_its_outputs() -> None:
    graph = PhaseGraph(((0,), (0,), (1,), (1, 2)), skip=False)
    assert graph.n_nodes == 4
    assert graph.outputs == (3, 4)
    assert PhasesArchitecture((graph,)) == PhasesArchitecture((PhaseGraph(graph.inputs, False),))


@chz.chz
class Refusing(Integers):
    """One gene; 0 is no network, 1 is one of a small budget."""

    genes: int = 1
    choices: int = 2
    refused: bool = True

    def structure(self, architecture: Architecture) -> Structure:
        return Structure(operations=(), cells=1, places=14, density=0.0)


def test_genomes_that_are_no_network_are_drawn_again_within_a_budget() -> None:
    space, rngs = Refusing(), [np.random.default_rng(seed) for seed in range(10)]
    assert any(space.sample(rng)[0] == 0 for rng in rngs)
    assert [int(space.sample_in(rng, "small")[0]) for rng in rngs] == [1] * 10
    with pytest.raises(ValueError, match="random architectures of Refusing has a large budget"):
        space.sample_in(rngs[0], "large")

"""Feature denoising: filters against closed forms, where blocks go, and that such networks train."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from evo_robust import zoo
from evo_robust.attacks.fast import fold_batch_norm
from evo_robust.zoo.denoising import FILTERS, Denoised, DenoisingBlock, Filter

KINDS = tuple(FILTERS)
SHAPE = (1, 16, 16)
FAMILIES = {
    "lenet": ("stage-1", "stage-2"),
    "resnet": ("stage-1", "stage-2", "stage-3"),
    "resnet-18": ("stage-1", "stage-2", "stage-3", "stage-4"),
    "wrn-28-10": ("stage-1", "stage-2", "stage-3"),
    "densenet": ("stage-1", "stage-2", "stage-3"),
    "vgg-19": ("stage-1", "stage-2", "stage-3", "stage-4", "stage-5"),
    "robnet-free": ("stage-1", "stage-2", "stage-3"),
    "wsr-basic": ("stage-1", "stage-2", "stage-3"),
    "roco-table5": ("stage-1", "stage-2", "stage-3"),
}


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(name: str, **chosen: object) -> nn.Module:
    """A small network of the zoo with weights from seed 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        channels = None if name == "lenet" else 4
        return zoo.build(name, 5, SHAPE, channels=channels, **chosen)  # type: ignore[arg-type]


def filtered(kind: Filter, x: Tensor) -> Tensor:
    found = FILTERS[kind](x.shape[1])(x)
    assert found.shape == x.shape
    return found


def test_mean_by_hand() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    # a corner has four pixels, an edge six, the middle nine
    expected = torch.tensor([[2.0, 2.5, 3.0], [3.5, 4.0, 4.5], [5.0, 5.5, 6.0]])
    assert torch.equal(filtered("mean", x)[0, 0], expected)


def test_median_by_hand() -> None:
    x = torch.tensor([[9.0, 0.0, 0.0], [0.0, 5.0, 1.0], [2.0, 3.0, 4.0]]).reshape(1, 1, 3, 3)
    found = filtered("median", x)[0, 0]
    assert found[1, 1] == 2  # 0 0 0 1 2 3 4 5 9
    # the corner sees 9 9 0 / 9 9 0 / 0 0 5 once the border is repeated
    assert found[0, 0] == 5
    spike = torch.zeros(2, 3, 5, 5)
    spike[:, :, 2, 2] = 100
    assert torch.equal(filtered("median", spike), torch.zeros_like(spike))


def test_dot_product_is_the_sum_over_all_pixels() -> None:
    x = maps(2, 6, 3, 4)
    flat = x.flatten(2)
    weights = torch.einsum("nci,ncj->nij", flat, flat) / 12
    expected = torch.einsum("nij,ncj->nci", weights, flat).view_as(x)
    assert torch.allclose(filtered("dot-product", x), expected, atol=1e-5)


def test_gaussian_is_a_softmax_of_embedded_pixels() -> None:
    x, module = maps(2, 6, 3, 4), FILTERS["gaussian"](6)
    theta, phi = (
        torch.einsum("dc,nchw->ndhw", part.weight[:, :, 0, 0], x) + part.bias[:, None, None]
        for part in (module.theta, module.phi)
    )
    assert theta.shape[1] == 3
    expected = torch.empty_like(x)
    for n in range(2):
        for i in range(12):
            weights = torch.stack([theta[n].flatten(1)[:, i] @ phi[n].flatten(1)[:, j] for j in range(12)])
            weights = (weights / math.sqrt(3)).softmax(0)
            expected[n].flatten(1)[:, i] = (x[n].flatten(1) * weights).sum(1)
    assert torch.allclose(module(x), expected, atol=1e-6)
    # with equal weights it is the mean of all pixels
    nn.init.zeros_(module.theta.weight)
    nn.init.zeros_(module.theta.bias)
    assert torch.allclose(module(x), x.mean((2, 3), keepdim=True).expand_as(x), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_adds_what_it_filtered(kind: Filter) -> None:
    block = DenoisingBlock(4, kind)
    x = maps(3, 4, 6, 5)
    assert torch.equal(block.train()(x), x) and torch.equal(block.eval()(x), x)  # its scale begins at zero
    block.norm.reset_running_stats()
    nn.init.ones_(block.norm.weight)
    mixed = torch.einsum("dc,nchw->ndhw", block.mix.weight[:, :, 0, 0], block.filter(x))
    expected = x + mixed / math.sqrt(1 + 1e-5)  # running statistics are 0 and 1
    assert torch.allclose(block(x), expected, atol=1e-5)
    nn.init.zeros_(block.mix.weight)
    assert torch.equal(block(x), x)
    extra = 2 * (4 * 2 + 2) if kind == "gaussian" else 0
    assert sum(p.numel() for p in block.parameters()) == 4 * 4 + 2 * 4 + extra


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_go_after_every_stage_and_change_nothing_at_first(name: str) -> None:
    plain, denoised = build(name), build(name, denoise="mean")
    blocks = [module for module in denoised.modules() if isinstance(module, Denoised)]
    assert len(blocks) == len(FAMILIES[name])
    x = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), denoised.eval()(x))
        assert torch.equal(plain.train()(x), denoised.train()(x))
    renamed = {key.replace(".inner.", "."): value for key, value in denoised.state_dict().items()}
    assert all(torch.equal(renamed[key], value) for key, value in plain.state_dict().items())
    named = build(name, denoise="mean", denoise_after=FAMILIES[name])
    assert list(named.state_dict()) == list(denoised.state_dict())
    one = build(name, denoise="mean", denoise_after=FAMILIES[name][1:2])
    assert sum(isinstance(module, Denoised) for module in one.modules()) == 1


def test_stages_end_where_maps_shrink() -> None:
    """Right after a block the maps get smaller, and the last block sees the smallest."""
    for name in set(FAMILIES) - {"lenet"}:
        sides: list[int] = []

        def note(_: nn.Module, inputs: object, out: Tensor, sides: list[int] = sides) -> None:
            sides.append(out.shape[-1])

        model = build(name, denoise="mean").eval()
        for module in model.modules():
            if isinstance(module, DenoisingBlock):
                module.register_forward_hook(note)
        with torch.no_grad():
            model(torch.zeros(1, *SHAPE))
        assert sides == sorted(set(sides), reverse=True) and len(sides) == len(FAMILIES[name]), name


def test_blocks_go_after_cells() -> None:
    model = build("robnet-small", layers=6, denoise="median", denoise_after=("cell-0", "cell-4"))
    assert [isinstance(cell, Denoised) for cell in model.cells] == [True, False, False, False, True, False]
    model = build("wsr-basic", layers=5, denoise="dot-product", denoise_after=("cells",))
    assert all(isinstance(cell, Denoised) for cell in model.cells)
    # the last cell before a reduction ends a stage: one block, however often it is named
    model = build("wsr-basic", layers=6, denoise="mean", denoise_after=("stages", "cell-1", "cell-5"))
    assert [isinstance(cell, Denoised) for cell in model.cells] == [False, True, False, True, False, True]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["resnet", "wrn-28-10", "robnet-small", "roco-table5"])
def test_such_a_network_trains_and_can_be_attacked(name: str, kind: Filter) -> None:
    layers = {"resnet": 8, "wrn-28-10": 10, "robnet-small": 3}.get(name)
    model = build(name, layers=layers, denoise=kind).train()
    x = torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(1))
    y = torch.arange(16) % 5
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    blocks = [module for module in model.modules() if isinstance(module, DenoisingBlock)]
    assert all(block.norm.weight.abs().sum() > 0 for block in blocks)  # the scale left zero
    model.eval()
    image = x.clone().requires_grad_()
    model(image).logsumexp(1).sum().backward()
    assert image.grad is not None and image.grad.isfinite().all() and image.grad.abs().sum() > 0
    # attacks run on a folded copy, which must know the blocks
    folded = fold_batch_norm(model, x)
    with torch.no_grad():
        assert torch.allclose(folded(x), model(x), atol=1e-3)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) < sum(
        isinstance(m, nn.BatchNorm2d) for m in model.modules()
    )


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("resnet-18", {"denoise": "gauss"}, "did you mean 'gaussian'"),
        ("resnet-18", {"denoise": "mean", "denoise_after": ("stage-5",)}, "stages, stage-1 to stage-4, got 'stage-5'"),
        ("resnet-18", {"denoise": "mean", "denoise_after": ("cells",)}, "stage-1 to stage-4, got 'cells'"),
        ("wsr-basic", {"denoise": "mean", "denoise_after": ("cell-20",)}, "cell-0 to cell-19, got 'cell-20'"),
        ("wsr-basic", {"denoise": "mean", "denoise_after": ("stag-2",)}, "did you mean 'stage-2'"),
        ("wsr-basic", {"denoise": "mean", "denoise_after": ()}, "denoise_after with at least one place"),
        ("wsr-basic", {"denoise_after": ("stage-1",)}, "expected denoise=NAME with denoise_after=stage-1"),
    ],
)
def test_places_that_are_not_there(name: str, chosen: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **chosen)

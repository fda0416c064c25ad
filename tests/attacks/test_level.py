from __future__ import annotations

import chz
import cma
import numpy as np
import pytest
import torch
from pymoo.algorithms.soo.nonconvex.de import DE as PymooDE
from pymoo.core.problem import Problem
from sklearn.datasets import load_digits
from torch import Tensor, nn

from evo_robust.attacks.level.attack import CMAES, DE, QueryAttack
from evo_robust.attacks.level.base import LevelResult
from evo_robust.attacks.level.encoding import Boxes, Pixels, Tone, Values, reflect_
from evo_robust.attacks.level.network import HalvingMaxPool, for_queries
from evo_robust.attacks.level.optimizers import BatchCMAES, BatchDE, BatchOptimizer, BatchSepCMAES
from evo_robust.spaces.ops import Normalize

ATTACKS = [
    CMAES(norm="l0", level=3, max_iter=20),
    CMAES(norm="linf", level=24, max_iter=20),
    CMAES(norm="l0", level=3, max_iter=20, start="raster", sigma=63 / 4),
    DE(norm="l0", level=3, max_iter=4, pop_size=40),
    DE(norm="linf", level=48, max_iter=10, pop_size=40),
]
NAMES = [f"{type(a).__name__}-{a.norm}" + "-paper" * (getattr(a, "start", "") == "raster") for a in ATTACKS]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    raw = load_digits()
    pixels = torch.tensor(np.rint(raw.images * 255 / 16), dtype=torch.uint8).unsqueeze(1)
    return pixels.float() / 255, torch.tensor(raw.target)


@pytest.fixture(scope="module")
def victim(digits: tuple[Tensor, Tensor]) -> nn.Module:
    x, y = digits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            Normalize(1), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(5):
            for part in torch.randperm(1400).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[part]), y[part]).backward()
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model.eval()


@pytest.fixture(scope="module")
def images(victim: nn.Module, digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """48 digits of which the victim knows most and misses at least one."""
    x, y = digits
    with torch.no_grad():
        right = victim(x).argmax(1) == y
    index = torch.cat([right.nonzero()[1400:1445, 0], (~right).nonzero()[-3:, 0]])
    return x[index], y[index]


def pixels_of(x: Tensor) -> Tensor:
    return (x * 255).round().to(torch.int64)


@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_stays_within_the_level_and_succeeds(
    attack: QueryAttack, victim: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    x, y = images
    with torch.no_grad():
        right = victim(x).argmax(1) == y
    result = attack.perturb_levels(victim, x, y, seeded())
    assert torch.equal(result.x_adv, pixels_of(result.x_adv).float() / 255)
    change = (pixels_of(result.x_adv) - pixels_of(x)).abs()
    if attack.norm == "l0":
        assert (change.amax(1) > 0).sum((1, 2)).max() <= attack.level
    else:
        assert change.max() <= attack.level
    with torch.no_grad():
        wrong = victim(result.x_adv).argmax(1) != y
    assert torch.equal(result.success, right & wrong)
    assert not result.success[~right].any() and (result.queries[~right] == 0).all()
    assert torch.equal(result.x_adv[~result.success], x[~result.success])
    assert result.success[right].float().mean() > 0.25
    pop_size = attack.pop_size or {"l0": 4 + int(3 * np.log(9)), "linf": 4 + int(3 * np.log(64))}[attack.norm]
    assert (result.queries[right] % pop_size == 0).all()
    assert (result.queries[right & ~result.success] == attack.max_iter * pop_size).all()


def same(a: LevelResult, b: LevelResult) -> bool:
    return bool(
        torch.equal(a.x_adv, b.x_adv) and torch.equal(a.success, b.success) and torch.equal(a.queries, b.queries)
    )


@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_results_depend_on_the_generator_and_not_on_neighbours(
    attack: QueryAttack, victim: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    x, y = images
    whole = attack.perturb_levels(victim, x, y, seeded())
    assert same(whole, attack.perturb_levels(victim, x, y, seeded()))
    assert not same(whole, attack.perturb_levels(victim, x, y, seeded(1)))
    # queue and places: one image at a time, and a few that come and go
    for candidates in (1, 100):
        other = chz.replace(attack, batch_size=candidates)
        assert same(whole, other.perturb_levels(victim, x, y, seeded()))
    # a seed per image, drawn up front: the first images alone meet the same fate
    first = attack.perturb_levels(victim, x[:7], y[:7], seeded())
    assert same(first, LevelResult(whole.x_adv[:7], whole.success[:7], whole.queries[:7]))


def test_normalisation_at_the_front_is_only_a_short_cut(victim: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = victim

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    x, y = images
    attack = CMAES(norm="linf", level=24, max_iter=5)
    short, long = (attack.perturb_levels(model, x, y, seeded()) for model in (victim, Wrapped().eval()))
    assert short.success.any() and torch.equal(short.success, long.success)


def test_the_copy_that_is_asked_gives_the_same_logits(victim: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    pixels = pixels_of(images[0]).to(torch.uint8)
    tone, fast = for_queries(victim, pixels)
    assert sum(isinstance(module, HalvingMaxPool) for module in fast.modules()) == 2
    assert not any(isinstance(module, nn.BatchNorm2d | Normalize) for module in fast.modules())
    with torch.no_grad():
        got = fast(tone(pixels.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        torch.testing.assert_close(got, victim(images[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 6, 7, 9)])
def test_halving_equals_max_pooling(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=seeded())
    assert torch.equal(HalvingMaxPool()(x), nn.MaxPool2d(2)(x))


def test_leaves_the_model_as_it_was(victim: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    victim.train()
    victim[3].eval()
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    result = ATTACKS[0].perturb_levels(victim, x[:8], y[:8], seeded())
    assert victim.training and not victim[3].training and victim[2].training
    assert all(torch.equal(before[name], value) for name, value in victim.state_dict().items())
    assert all(p.grad is None for p in victim.parameters())
    # the images are ordinary tensors that training may use
    assert not result.x_adv.is_inference()
    victim.eval()


class Threshold(nn.Module):
    """Class 0 unless the mean of all pixels, in grey steps, rises or falls beyond a bound."""

    def __init__(self, centre: float, step: float) -> None:
        super().__init__()
        self.centre, self.step = centre, step

    def forward(self, x: Tensor) -> Tensor:
        moved = (x.mean((1, 2, 3)) * 255 - self.centre) * self.step
        return torch.stack([0.01 * torch.ones_like(moved), moved], 1)


@pytest.mark.parametrize("attack", [CMAES(norm="linf", level=1), DE(norm="linf", level=1, max_iter=20)])
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_both_signs_are_reachable_at_level_one(attack: QueryAttack, direction: float) -> None:
    # a mean that moves by .4 of a grey step needs hundreds of single steps in the right direction
    x = torch.full((2, 1, 8, 8), 100 / 255)
    result = attack.perturb_levels(Threshold(100 + 0.4 * direction, direction), x, torch.zeros(2).long(), seeded())
    assert result.success.all()
    moved = (pixels_of(result.x_adv) - 100) * int(direction)
    assert (moved == 1).float().mean() > 0.4 and moved.max() == 1


class Spot(nn.Module):
    """Class 1 where there is light near a place: ``needed`` white channels' worth of it."""

    def __init__(self, row: int, column: int, needed: float) -> None:
        super().__init__()
        self.row, self.column, self.needed = row, column, needed

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = torch.arange(x.shape[2]).view(-1, 1) - self.row, torch.arange(x.shape[3]) - self.column
        bump = torch.exp(-(rows**2 + columns**2) / 200)
        seen = (x.sum(1) * bump).sum((1, 2))
        return torch.stack([torch.full_like(seen, self.needed), seen], 1)


@pytest.mark.parametrize("attack", [CMAES(max_iter=200), DE(max_iter=20)])
@pytest.mark.parametrize("corner", [(0, 0), (0, 31), (31, 0), (31, 31), (14, 3)])
def test_every_pixel_and_colour_is_reachable(attack: QueryAttack, corner: tuple[int, int]) -> None:
    # CMA-ES may settle too early: of five courses at least one gets there
    result = attack.perturb_levels(Spot(*corner, 2.0), torch.zeros(5, 3, 32, 32), torch.zeros(5).long(), seeded())
    assert result.success.any()


def test_de_gives_up_when_all_members_are_one_image() -> None:
    attack = DE(pop_size=50, max_iter=400)
    result = attack.perturb_levels(Spot(14, 3, 4.0), torch.zeros(3, 3, 32, 32), torch.zeros(3).long(), seeded())
    assert not result.success.any()
    assert (result.queries < 200 * 50).all() and (result.queries > 5 * 50).all()


def test_more_than_one_generation_is_run(victim: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    one = CMAES(level=2, max_iter=1).perturb_levels(victim, x, y, seeded())
    many = CMAES(level=2, max_iter=40).perturb_levels(victim, x, y, seeded())
    assert many.success.sum() > one.success.sum()
    assert (many.success | ~one.success).all(), "a larger budget continues the same course"


def test_without_images_or_correct_ones(victim: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    empty = CMAES().perturb_levels(victim, x[:0], y[:0], seeded())
    assert empty.x_adv.shape == (0, 1, 8, 8) and len(empty.success) == 0
    wrong = CMAES().perturb_levels(victim, x[:5], (y[:5] + 1) % 10, seeded())
    assert not wrong.success.any() and not wrong.queries.any() and torch.equal(wrong.x_adv, x[:5])


def test_a_network_of_nan_is_no_success(images: tuple[Tensor, Tensor]) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            clean = x.flatten(1).sum(1, keepdim=True) == images[0][:1].sum()
            logits = torch.eye(10)[images[1][0]].expand(len(x), -1)
            return torch.where(clean, logits, torch.full_like(logits, torch.nan))

    result = CMAES(max_iter=3).perturb_levels(Broken(), images[0][:1], images[1][:1], seeded())
    assert result.queries.all() and not result.success.any()


def test_pixels_are_drawn_in_order() -> None:
    encoding = Pixels(2, (3, 4, 5), raster=True)
    images = torch.arange(60, dtype=torch.uint8).view(1, 3, 4, 5)
    assert encoding.boxes(images).start.tolist() == [[0, 0, 0, 20, 40, 0, 1, 1, 21, 41]]
    assert Pixels(1, (3, 4, 5)).boxes(images).start.tolist() == [[2, 2, 12, 32, 52]]
    assert encoding.steps(encoding.boxes(images))[0, :5].tolist() == [3 / 8, 4 / 8, 255 / 4, 255 / 4, 255 / 4]
    assert encoding.boxes(images).upper[0, :5].tolist() == [3, 4, 255, 255, 255]
    values = torch.tensor([[[1.0, 2, 7, 8, 9, 1, 2, 1, 2, 3], [3, 4, 7, 8, 9, 0, 0, 1, 2, 3]]])
    out = encoding.render(values, images, Tone(torch.ones(3), torch.zeros(3)))
    assert out[0, :, 1, 2].tolist() == [1, 2, 3], "the last colour of a pixel counts"
    assert out[1, :, 3, 4].tolist() == [7, 8, 9] and out[1, :, 0, 0].tolist() == [1, 2, 3]
    assert (out[1] != images[0]).any(0).sum() == 2


def test_values_are_the_image() -> None:
    images = torch.arange(24, dtype=torch.uint8).view(1, 2, 3, 4)
    encoding = Values(2, (2, 3, 4))
    tone = Tone(torch.tensor([1.0, 2.0]), torch.tensor([0.0, -1.0]))
    out = encoding.render(encoding.boxes(images).start.unsqueeze(1), images, tone)
    assert torch.equal(out[:, 0], images[:, 0].float()) and torch.equal(out[:, 1], 2 * images[:, 1].float() - 1)


def test_values_stay_within_the_grey_range() -> None:
    images = torch.tensor([0, 3, 128, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    boxes = Values(5, (1, 2, 2)).boxes(images)
    assert boxes.lower.tolist() == [[0, 0, 123, 250]] and boxes.upper.tolist() == [[5, 8, 133, 255]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": 0}, "level >= 1"),
        ({"norm": "linf", "level": 256}, "level"),
        ({"norm": "l2"}, "norm"),
        ({"max_iter": 0}, "max_iter"),
        ({"pop_size": 1}, "pop_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"sigma": 0.0}, "sigma"),
        ({"start": "corner"}, "start"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CMAES(**settings)


def test_bad_images(victim: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    with pytest.raises(ValueError, match="64 pixels"):
        CMAES(level=65).perturb_levels(victim, x, y, seeded())
    with pytest.raises(ValueError, match="multiples of 1/255"):
        CMAES().perturb_levels(victim, (x + 0.3 / 255) / 2, y, seeded())
    with pytest.raises(ValueError, match="got values from 0 to 255: divide by 255"):
        CMAES().perturb_levels(victim, x * 255, y, seeded())
    with pytest.raises(ValueError, match="labels"):
        CMAES().perturb_levels(victim, x, y[:-1], seeded())


# --- optimisers against the libraries -------------------------------------------------------------------------------

DIMENSION = 8


def sphere(u: Tensor) -> Tensor:
    return ((u - 1.5) ** 2).sum(-1)


def ellipsoid(u: Tensor) -> Tensor:
    return ((u - 1.5) ** 2 * 1e4 ** torch.linspace(0, 1, u.shape[-1], dtype=u.dtype)).sum(-1)


def turned_ellipsoid(u: Tensor) -> Tensor:
    turn = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=seeded(5), dtype=u.dtype)).Q
    return ellipsoid((u - 1.5) @ turn + 1.5)


def evaluations(kind: type[BatchOptimizer], function: object, pop_size: int, target: float) -> list[int]:
    """Evaluations that each of 15 problems needs to the target."""
    n = 15
    like = torch.zeros(n, DIMENSION, dtype=torch.float64)
    boxes = Boxes(like - 5, like + 5, like)
    optimizer = kind(
        boxes,
        like + 1,
        pop_size,
        lambda u, _: reflect_(u, like[:1, None] - 5, like[:1, None] + 5),
        [seeded(i) for i in range(n)],
    )
    needed = [0] * n
    for generation in range(1, 1500):
        fitness = function(optimizer.ask())  # type: ignore[operator]
        optimizer.tell(fitness)
        for i in (fitness.amin(1) < target).nonzero()[:, 0].tolist():
            needed[i] = needed[i] or generation * pop_size
        if all(needed):
            break
    return needed


@pytest.mark.parametrize(
    ("kind", "function", "diagonal"),
    [
        (BatchCMAES, sphere, False),
        (BatchCMAES, turned_ellipsoid, False),
        (BatchSepCMAES, sphere, True),
        (BatchSepCMAES, ellipsoid, True),
    ],
)
def test_cmaes_converges_like_the_library(kind: type[BatchOptimizer], function: object, diagonal: bool) -> None:
    ours = np.median(evaluations(kind, function, 10, 1e-8))
    theirs = []
    for seed in range(1, 6):
        options = {
            "verbose": -9, "seed": seed, "popsize": 10, "ftarget": 1e-8, "CMA_diagonal": diagonal,
            "CMA_active": False, "bounds": [-5, 5],
        }  # fmt: skip
        peer = cma.CMAEvolutionStrategy(DIMENSION * [0.0], 1.0, options)
        while not peer.stop():
            points = peer.ask()
            peer.tell(points, function(torch.tensor(np.array(points))).tolist())  # type: ignore[operator]
        theirs.append(peer.result.evaluations)
    assert 0 < ours < 1.3 * np.median(theirs)


@pytest.mark.parametrize("function", [sphere, ellipsoid])
def test_de_converges_like_the_library(function: object) -> None:
    ours = np.median(evaluations(BatchDE, function, 60, 1e-6))

    class Peer(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=DIMENSION, n_obj=1, xl=-5.0, xu=5.0)

        def _evaluate(self, x: np.ndarray, out: dict, *args: object, **kwargs: object) -> None:
            out["F"] = function(torch.tensor(x)).numpy()  # type: ignore[operator]

    theirs = []
    for seed in range(1, 4):
        peer = PymooDE(pop_size=60, variant="DE/best/1/bin", CR=1.0, F=0.75, prob_mut=0.0)
        peer.setup(Peer(), termination=("n_gen", 400), seed=seed)
        while peer.has_next() and (peer.opt is None or peer.opt[0].F[0] >= 1e-6):
            peer.next()
        theirs.append(peer.evaluator.n_eval)
    assert 0 < ours < 1.3 * np.median(theirs)


def test_reflection_keeps_distances_inside() -> None:
    lower, upper = torch.tensor(-1.0), torch.tensor(2.0)
    out = reflect_(torch.tensor([-1.0, 0.5, 2.0, 2.5, -1.5, 5.5, 9.0]), lower, upper)
    assert out.tolist() == [-1.0, 0.5, 2.0, 1.5, -0.5, -0.5, 1.0]

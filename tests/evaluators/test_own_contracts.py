"""Parts of one's own say for themselves what the package asks of any part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import chz
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evo_robust.algorithms.base import Algorithm
from evo_robust.algorithms.evolution import NSGA2
from evo_robust.algorithms.random import RandomSearch
from evo_robust.analysis.study import study_of
from evo_robust.attacks.base import Attack, Norm, Threat, check_attack, check_eps
from evo_robust.attacks.gradient import FGSM
from evo_robust.data.base import DataSet
from evo_robust.data.images import Augment, Images
from evo_robust.data.sets import Digits
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.final_training.settings import Retraining
from evo_robust.networks.genotype import Genotype, save_genotype
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.objectives.errors import CleanError, RobustError
from evo_robust.objectives.fsp import FSPDistance
from evo_robust.parts.base import Fraction, UserError
from evo_robust.problem.value import Problem
from evo_robust.record.view import view_of
from evo_robust.retrain import RetrainOptions, settings_from
from evo_robust.search import search
from evo_robust.spaces import NSGAPhases
from evo_robust.spaces.base import SearchSpace
from evo_robust.spaces.genome import GenomeSpace
from evo_robust.training import learning_picture
from evo_robust.training.epochs import EpochLog
from evo_robust.training.learning_curve import LearningCurve
from evo_robust.training.recipes import PGDTraining, Recipe


def problem(objective: Objective | None = None, recipe: Recipe | None = None) -> Problem:
    return Problem(
        space=NSGAPhases(phases=1, nodes=3, channels=2),
        data=Digits(train_limit=60),
        objectives=(objective or CleanError(),),
        evaluator=FromScratch(epochs=0, recipe=recipe or PGDTraining()),
        algorithm=RandomSearch(pop_size=2, n_gen=1),
    )


# ---- balls and attacks, and the images that a problem has


@chz.chz
class Blur(Attack):
    """An attack that knows balls of L∞ alone, and no images of a single row."""

    def check(self, threat: Threat, in_shape: tuple[int, int, int], key: str = "") -> None:
        if threat.norm != "linf" or in_shape[1] < 2:
            raise ValueError(f"expected {key or 'an attack '}in linf on rows, got {threat.norm} on {in_shape}")

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
        return x


@chz.chz
class Shift(Objective):
    """An objective with a ball of its own."""

    attack: Attack = chz.field(default_factory=Blur)
    size: float = 0.1
    metric: Norm = "linf"

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        check_eps(self.size, self.metric, in_shape, name=f"{key}size")
        self.attack.check(Threat(norm=self.metric, eps=Fraction(self.size)), in_shape, f"{key}attack.")

    def measure(self, candidate: Candidate) -> float:
        return 0.0


@chz.chz
class Blurred(Recipe):
    """A recipe with an attack of its own."""

    attack: Attack = chz.field(default_factory=Blur)
    norm: Norm = "l2"

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        check_attack(self.attack, (0.1, 0.5), self.norm, in_shape, key)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def test_an_attack_refuses_a_ball_before_anything_is_written() -> None:
    problem(RobustError(attack=Blur()))
    for make, key in (
        (lambda: problem(RobustError(attack=Blur(), norm="l2")), "objectives.0.attack."),
        (lambda: problem(Shift(metric="l2")), "objectives.0.attack."),
        (lambda: problem(recipe=Blurred()), "evaluator.recipe.attack."),
        (lambda: Retraining(network="lenet", data=Digits(), attack=Blur(), norm="l2"), "attack."),
    ):
        with pytest.raises(ValueError, match=rf"expected {key}in linf on rows, got l2 on \(1, 8, 8\)"):
            make()


def test_a_ball_of_ones_own_is_held_to_the_images() -> None:
    problem(Shift(size=7.9, attack=RobustError().attack, metric="l2"))
    with pytest.raises(ValueError, match=r"expected objectives.0.size in \(0, 8\] with norm=l2 and images \(1, 8, 8\)"):
        problem(Shift(size=8.1, attack=RobustError().attack, metric="l2"))


# ---- what a data set says of its files


@chz.chz
class Dots(DataSet):
    """Dots that are read from a file, and counted whenever they are."""

    n_classes = 2
    in_shape = (1, 4, 4)
    default_augment = Augment(crop_padding=0)
    reads: ClassVar[list[Path]] = []

    def _read(self, root: Path) -> tuple[Images, Images]:
        self.reads.append(root)
        seed = int((root / "seed.txt").read_text())
        x = torch.randint(256, (40, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        y = torch.arange(40) % 2
        return Images(x[:30], y[:30]), Images(x[30:], y[30:])


@chz.chz
class Stamped(Dots):
    """The same, which tells when its file changes."""

    def stamp(self, root: Path) -> object:
        return (root / "seed.txt").read_text()


@chz.chz
class Verified(Dots):
    """The same, which checks its file."""

    def _read(self, root: Path) -> tuple[Images, Images]:
        if (root / "seed.txt").read_text() != "1":
            raise ValueError("expected the one and only dots")
        return super()._read(root)

    def verified(self, root: Path) -> bool:
        return True


@chz.chz
class Scrawls(Digits):
    """Other images under a shipped data set, whose word for its own does not count."""

    def _read(self, root: Path) -> tuple[Images, Images]:
        pool, test = super()._read(root)
        return Images(255 - pool.x, pool.y), test


def test_a_data_set_of_ones_own_tells_when_its_files_change(tmp_path: Path) -> None:
    def reads(kind: type[Dots]) -> list[str]:
        Dots.reads.clear()
        found = []
        for seed in "112":
            (tmp_path / "seed.txt").write_text(seed)
            found.append(kind(root=str(tmp_path)).digest())
        assert found[0] == found[1] != found[2]
        return found

    (unstamped, n), (stamped, m) = ((reads(kind), len(Dots.reads)) for kind in (Dots, Stamped))
    assert unstamped == stamped and (n, m) == (3, 2)


def test_a_data_set_of_ones_own_may_vouch_for_its_images(tmp_path: Path) -> None:
    (tmp_path / "seed.txt").write_text("1")
    assert (Verified(root=str(tmp_path)).digest(), Verified(root=str(tmp_path)).key()) == ("", ())
    assert len(Dots(root=str(tmp_path)).digest()) == len(Scrawls().digest()) == 16 and Digits().digest() == ""


def test_what_a_data_set_must_say_is_asked_for_where_it_is_made() -> None:
    @chz.chz
    class Unsaid(DataSet):
        n_classes = 2
        default_augment = Augment()

        def _read(self, root: Path) -> tuple[Images, Images]:
            raise NotImplementedError

    with pytest.raises(TypeError, match="Unsaid .*in_shape"):
        Unsaid()  # type: ignore[abstract]


# ---- what a space says of its networks


class Rows(nn.Module):
    """A network of two blocks and a classifier."""

    def __init__(self, widths: Sequence[int], n_classes: int, channels: int) -> None:
        super().__init__()
        ends = (channels, *widths)
        self.blocks = nn.Sequential(*(nn.Conv2d(*pair, 3, 2, 1) for pair in zip(ends, widths, strict=False)))
        self.end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], n_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.blocks(x))


@chz.chz
class Pairs(GenomeSpace):
    """Two widths."""

    factor: int = 2
    spare: int = 1

    @property
    def n_choices(self) -> np.ndarray:
        return np.array([3, 3])

    def build(self, architecture: Any, n_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
        return Rows([self.factor * (1 + gene) for gene in architecture], n_classes, in_shape[0])

    def cells_of(self, network: nn.Module) -> Sequence[nn.Module]:
        assert isinstance(network, Rows)
        return tuple(network.blocks)

    def decoders(self) -> Mapping[str, SearchSpace]:
        return {**super().decoders(), "wide": chz.replace(self, factor=8)}

    def without_effect(self) -> Mapping[str, str]:
        return {"spare": "space.factor"}


def test_cells_of_a_space_of_ones_own_have_distances(tmp_path: Path) -> None:
    measured = chz.replace(problem(FSPDistance(limit=20, cells="all")), space=Pairs())
    run = search(measured, tmp_path / "run", device="cpu", workers=1)
    for row in run.evaluations:
        cells = row["figures"]["fsp_distance"]["cells"]
        assert len(cells) == 2 and min(cells) > 0
        assert row["objectives"]["fsp_distance"] == pytest.approx(sum(cells) / 2)


def test_a_space_of_ones_own_names_decoders_and_fields_without_effect(tmp_path: Path) -> None:
    file = tmp_path / "genotype.json"
    save_genotype(Genotype(Pairs(), (0, 2), "digits", 10, (1, 8, 8)), file)

    def space(decoder: str, **given: str) -> SearchSpace | None:
        return settings_from(RetrainOptions(genotype=str(file), decoder=decoder), given)[0].space

    assert (space("final"), space("search"), space("wide")) == (Pairs(), Pairs(), Pairs(factor=8))
    with pytest.raises(UserError, match="decoder=wid: Pairs has no such decoder: did you mean 'wide'"):
        space("wid")
    with pytest.raises(UserError, match=r"space.spare=2 has no effect: expected space.factor"):
        space("wide", **{"space.spare": "2"})


# ---- what pictures of a training ask of a recipe


@pytest.mark.parametrize(
    ("recipe", "said"), [(Blurred(), "training error"), (PGDTraining(), "adversarial training error")]
)
def test_a_training_error_is_called_adversarial_where_the_recipe_says_so(
    recipe: Recipe, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(learning_picture, "draw_learning", lambda *given, **more: told.extend(map(str, given)))
    curve = LearningCurve(tmp_path, 1, told.append, tmp_path / "none")
    curve.add(EpochLog(1, 2.0, 0.5, 0.1, 1.0))
    curve.draw(recipe, Pairs(), Digits(), "single paths")
    assert said in told


# ---- what studies ask of algorithms and objectives


@chz.chz
class Draws(RandomSearch):
    """A random search that likes some networks better."""

    @property
    def caution(self) -> str:
        return "Wide networks were drawn more often."


@chz.chz
class Mistakes(Objective):
    """A clean error of one's own."""

    is_clean_error = True
    unit = "fraction"

    def measure(self, candidate: Candidate) -> float:
        return 1 - candidate.correct().double().mean().item()


def test_a_study_reads_the_clean_error_and_the_caution_that_parts_tell(tmp_path: Path) -> None:
    own = Problem(
        space=Pairs(),
        data=Digits(train_limit=60),
        objectives=(Mistakes(), RobustError(attack=FGSM(), limit=5)),
        evaluator=FromScratch(epochs=0),
        algorithm=Draws(pop_size=4, n_gen=1),
    )
    study = study_of(view_of(search(own, tmp_path / "run", device="cpu", workers=1)), "robust_error")
    assert study.caution == "Wide networks were drawn more often."
    assert np.isfinite(study.columns["clean"]).all()


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        (RandomSearch(), ""),
        (RandomSearch(budgets=("small",)), "As many networks were drawn from each budget"),
        (NSGA2(), "not independent"),
    ],
)
def test_only_a_random_sample_needs_no_caution(algorithm: Algorithm, said: str) -> None:
    assert said in algorithm.caution and bool(algorithm.caution) == bool(said)


def test_an_algorithm_of_ones_own_can_refuse_to_run(tmp_path: Path) -> None:
    @chz.chz
    class ByHand(RandomSearch):
        def check_runs(self) -> None:
            raise UserError("expected a person")

    with pytest.raises(UserError, match="expected a person"):
        search(chz.replace(problem(), algorithm=ByHand(pop_size=2, n_gen=1)), tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""Early stop and model choice by a validation split of the training images."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import PGD
from evo_robust.data.images import Images
from evo_robust.data.sets import Digits
from evo_robust.files import read_tensors
from evo_robust.final_training.settings import Retraining, load_result
from evo_robust.final_training.work import retrain
from evo_robust.inference.predictions import clean_error
from evo_robust.parts.base import Fraction, UserError
from evo_robust.retrain import main
from evo_robust.spaces.ops import Normalize
from evo_robust.training.choice import ByValidation
from evo_robust.training.loop import train
from evo_robust.training.recipes import MultiStrengthTraining, PGDTraining, Recipe, Standard


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(Normalize(1), nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)),
        )


def same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def digits() -> tuple[Images, Images]:
    splits = Digits(train_limit=300).load()
    return splits.train, splits.val


# the rate is so high that the error goes up and down
WILD = Standard(lr=2.0, batch_size=40, schedule="constant")


def test_the_best_epochs_weights_are_kept() -> None:
    images, held_out = digits()
    states: list[dict[str, Tensor]] = []
    model = network()
    choice = ByValidation(held_out, WILD, "best", None, seed=0)

    def note(log: object) -> None:
        states.append({name: value.clone() for name, value in model.state_dict().items()})

    logs = train(model, images, WILD, 8, seed=1, on_epoch=note, choice=choice)
    errors = [log.validation_error for log in logs]
    best = errors.index(min(errors))  # type: ignore[type-var]
    assert best != len(logs) - 1, "a choice that chooses the last epoch shows nothing"
    assert choice.kept_epoch == choice.best_epoch == best + 1
    assert all(torch.equal(value, states[best][name]) for name, value in model.state_dict().items())
    assert clean_error(model, held_out) == min(errors)  # type: ignore[type-var]
    for state, error in zip(states, errors, strict=True):
        model.load_state_dict(state)
        assert clean_error(model, held_out) == error


def test_looking_changes_nothing() -> None:
    images, held_out = digits()
    recipe = PGDTraining(lr=0.1, batch_size=40, attack=PGD(steps=1))
    looked, alone = network(), network()
    train(looked, images, recipe, 3, seed=1, choice=ByValidation(held_out, recipe, "last", None, seed=0))
    train(alone, images, recipe, 3, seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(looked.state_dict().values(), alone.state_dict().values(), strict=True)
    )


def test_training_stops_when_it_no_longer_gets_better() -> None:
    images, held_out = digits()
    whole = train(network(), images, WILD, 12, seed=1, choice=ByValidation(held_out, WILD, "last", None, seed=0))
    errors: list[Any] = [log.validation_error for log in whole]
    patience = 2
    # by hand: the first epoch at which the two last ones brought no smaller error
    end = next(n for n in range(1, 13) if n - (errors[:n].index(min(errors[:n])) + 1) >= patience)
    assert end < 12
    choice = ByValidation(held_out, WILD, "best", patience, seed=0)
    logs = train(network(), images, WILD, 12, seed=1, choice=choice)
    assert [log.validation_error for log in logs] == errors[:end]
    assert choice.kept_epoch == end - patience


@pytest.mark.parametrize(
    ("recipe", "eps"),
    [
        (PGDTraining(threat=Threat(eps=Fraction(0.1))), [0.1]),
        (MultiStrengthTraining(eps=(Fraction(0.05), Fraction(0.15))), [0.05, 0.15]),
    ],
)
def test_a_recipe_with_attacks_is_judged_in_its_own_balls(recipe: Recipe, eps: list[float]) -> None:
    images, held_out = digits()
    model = network()
    train(model, images, Standard(lr=0.1, batch_size=40), 6, seed=0)
    found = ByValidation(held_out, recipe, "last", None, seed=5).look(model, 1)
    errors = []
    for strength in eps:
        generator = torch.Generator().manual_seed(0)
        moved = PGD(steps=10).perturb(model, held_out.floats(), held_out.y, Threat(eps=Fraction(strength)), generator)
        with torch.no_grad():
            errors.append((model(moved).argmax(1) != held_out.y).double().mean().item())
    assert found == pytest.approx(sum(errors) / len(errors), abs=0.06)  # other starts
    assert found > clean_error(model, held_out) + 0.05


class Stop(Exception):
    """Ends a training from outside."""


@pytest.mark.parametrize("stop_after", [1, 4])
def test_an_interrupted_choice_ends_like_one_never_interrupted(stop_after: int, tmp_path: Path) -> None:
    images, held_out = digits()
    recipe = Standard(lr=1.0, batch_size=40, schedule="constant", ema=0.9)

    def choice() -> ByValidation:
        return ByValidation(held_out, recipe, "best", 3, seed=0)

    whole = network()
    logs = train(whole, images, recipe, 8, seed=2, choice=choice())
    file = tmp_path / "checkpoint.safetensors"

    def stop(log: Any) -> None:
        if log.epoch == stop_after:
            raise Stop

    with pytest.raises(Stop):
        train(network(), images, recipe, 8, seed=2, checkpoint=file, choice=choice(), on_epoch=stop)
    for _ in range(2):  # the second time nothing is left to do
        torn = network()
        again = train(torn, images, recipe, 8, seed=2, checkpoint=file, choice=choice())
        assert [log.validation_error for log in again] == [log.validation_error for log in logs]
        assert all(
            torch.equal(a, b) for a, b in zip(torn.state_dict().values(), whole.state_dict().values(), strict=True)
        )
    for other in (None, ByValidation(held_out, recipe, "best", 4, seed=0)):
        with pytest.raises(UserError, match="belongs to another training"):
            train(network(), images, recipe, 8, seed=2, checkpoint=file, choice=other)


# --- the command


def test_held_out_images_are_training_images_and_are_not_trained_on() -> None:
    data = Digits(train_limit=200)

    def rows(images: Images) -> set[bytes]:
        return {x.numpy().tobytes() for x in images.x}

    plain, nothing, test = Retraining(network="lenet", data=data).images("cpu")
    assert nothing is None
    for validation, size in ((0.1, 20), (30, 30)):
        left, held_out, same = Retraining(network="lenet", data=data, validation=float(validation)).images("cpu")
        assert held_out is not None and (len(held_out), len(left)) == (size, 200 - size)
        assert not rows(left) & rows(held_out) and rows(left) | rows(held_out) == rows(plain)
        assert not rows(held_out) & rows(test) and torch.equal(same.x, test.x)
        assert held_out.y.bincount().min() >= size // 10 - 1  # classes in proportion


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep": "best"}, "expected keep last without validation=, got 'best'"),
        ({"patience": "3"}, "expected patience None without validation=, got 3"),
        ({"validation": "0.1", "patience": "0"}, "expected patience >= 1"),
        ({"validation": "-1"}, "expected validation a share in"),
        ({"validation": "2.5"}, "or a whole number of images"),
        ({"validation": "60"}, "validation=60 leaves 0 of 60 images to train on"),
        ({"validation": "0.1", "keep": "first"}, "keep=first: expected 'last' or 'best'"),
    ],
)
def test_bad_choices_are_one_message(
    tmp_path: Path, given: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["network=lenet", "data=digits", "data.train_limit=60", "epochs=1", "device=cpu", f"out={tmp_path / 'out'}"]
    assert main([*line, *(f"{key}={value}" for key, value in given.items())]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_the_command_chooses_and_says_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    line = [
        "network=lenet",
        "recipe=standard",
        "data=digits",
        "data.train_limit=300",
        "data.test_limit=60",
        "epochs=30",
    ]
    line += ["recipe.lr=0.5", "recipe.schedule=constant", "recipe.batch_size=60", "eps=0.1", "attack.steps=1"]
    line += ["validation=0.2", "keep=best", "patience=3", "device=cpu", f"out={out}"]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "validation error" in said and "stopped after epoch " in said
    result = load_result(out)
    assert result.n_train == 240 and result.kept_epoch == result.epochs - 3
    assert f"(weights of epoch {result.kept_epoch}, chosen by validation)" in result.how()
    with (out / "training.csv").open(newline="") as file:
        errors = [float(row["validation_error"]) for row in csv.DictReader(file)]
    assert len(errors) == result.epochs and errors.index(min(errors)) + 1 == result.kept_epoch
    settings = Retraining(network="lenet", data=Digits(train_limit=300, test_limit=60), validation=0.2)
    held_out = settings.images("cpu")[1]
    model = settings.build()
    model.load_state_dict(read_tensors(out / "model.safetensors")[0])
    assert held_out is not None and clean_error(model, held_out) == pytest.approx(min(errors))


def test_without_validation_nothing_changed(tmp_path: Path) -> None:
    settings = Retraining(
        network="lenet", data=Digits(train_limit=60, test_limit=20), recipe=Standard(), epochs=1, eps=(Fraction(0.1),)
    )
    result = retrain(settings, tmp_path / "out", device="cpu")
    assert result.kept_epoch is None and result.how() == "Standard, 1 epochs on 60 images of digits"
    assert (tmp_path / "out" / "training.csv").read_text().splitlines()[0] == "epoch,loss,train_error,lr,seconds"
    # what an earlier version wrote has no such key
    text = (tmp_path / "out" / "result.json").read_text()
    (tmp_path / "out" / "result.json").write_text(text.replace(',\n  "kept_epoch": null', ""))
    assert load_result(tmp_path / "out") == dataclasses.replace(result, seconds=load_result(tmp_path / "out").seconds)

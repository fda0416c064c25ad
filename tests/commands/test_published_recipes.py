"""``retrain recipe=robnet``: the papers' recipes by name, what they bring, and what a key beside them changes."""

from __future__ import annotations

import json
from pathlib import Path

import chz
import numpy as np
import pytest

from evo_robust.__main__ import main as door
from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import FGSM, PGD
from evo_robust.data.images import Augment
from evo_robust.data.sets import CIFAR10
from evo_robust.final_training.published import PUBLISHED
from evo_robust.final_training.settings import Retraining
from evo_robust.networks.genotype import Genotype, save_genotype
from evo_robust.parts.base import Fraction, UserError, unused_later
from evo_robust.retrain import RetrainOptions, main, settings_from
from evo_robust.spaces.nsga.space import NSGAPhases
from evo_robust.training.recipes import TRADES, FastTraining, PGDTraining, Standard

F = Fraction
STEP = F(2 / 255)


def settings(network: str = "resnet-18", data: str = "cifar10", **given: str) -> Retraining:
    return settings_from(RetrainOptions(network=network), {"data": data, **given})[0]


def test_robnet_trains_as_its_public_code() -> None:
    found = settings("robnet-small")
    assert found.recipe == PGDTraining(
        attack=PGD(steps=7, step=STEP), threat=Threat(eps=F(8 / 255)), lr=1.2, lr_end=0.001, warmup=20,
        warmup_from=0.02, momentum=0.9, weight_decay=1e-4, decay_bn=False, batch_size=1536, clip=None,
    )  # fmt: skip
    assert (found.epochs, found.eps, found.attack) == (170, (8 / 255,), PGD(steps=20, step=STEP))
    rates = [found.recipe.lr_at(epoch, 170) for epoch in (0, 10, 20, 170)]
    assert rates == pytest.approx([0.02, 0.61, 1.2, 0.001])
    assert found.recipe.for_data(CIFAR10()).augment == Augment(crop_padding=4, flip=True)
    large = settings("robnet-large-v2").recipe
    assert large == chz.replace(found.recipe, augment=Augment(cutout=16))
    assert settings("robnet-large", "digits").recipe.augment is None  # 8×8 digits would be nothing but cutout


def test_its_rates_grow_with_the_batch_unless_they_are_given() -> None:
    half = settings(recipe="robnet", **{"recipe.batch_size": "768"}).recipe
    assert (half.lr, half.warmup_from, half.lr_end, half.batch_size) == pytest.approx((0.6, 0.01, 0.0005, 768))
    own = settings(recipe="RobNet", **{"recipe.batch_size": "768", "recipe.lr": "1.0"}).recipe
    assert (own.lr, own.lr_end) == pytest.approx((1.0, 0.0005))
    with pytest.raises(UserError, match="batch_size"):
        settings(recipe="robnet", **{"recipe.batch_size": "many"})
    with pytest.raises(UserError, match="expected batch_size >= 2"):
        settings(recipe="robnet", **{"recipe.batch_size": "0"})


def test_wsr_trains_fast_on_imagenet() -> None:
    found = settings("wsr-basic", "imagenet", channels="74")
    assert isinstance(found.recipe, FastTraining)
    assert (found.epochs, found.recipe.threat.eps, found.recipe.step_ratio) == (90, 4 / 255, 1.0)
    assert found.eps == (0.015, 0.03, 0.045, 0.06, 0.075, 0.09)


def test_racl_has_other_strengths_on_mnist() -> None:
    found = settings(recipe="racl")
    assert isinstance(found.recipe, PGDTraining) and found.recipe.threat.eps == 8 / 255
    assert (found.attack, found.eps) == (PGD(steps=20, step=STEP), (8 / 255,))
    mnist = settings("lenet", "MNIST", recipe="racl")
    assert isinstance(mnist.recipe, PGDTraining) and mnist.recipe.threat.eps == pytest.approx(76.5 / 255)
    assert mnist.recipe.attack == PGD(steps=7, step=F(20 / 255))
    assert (mnist.attack, mnist.eps) == (PGD(steps=20, step=F(20 / 255)), (76.5 / 255,))
    plain = settings(recipe="racl-standard")
    assert isinstance(plain.recipe, Standard) and plain.attack == PGD(steps=10, step=F(F(8 / 255) / 10))
    assert settings("lenet", "mnist", recipe="racl-standard").attack == PGD(steps=10, step=F(F(76.5 / 255) / 10))


def test_wsr_divides_its_rate_at_epochs_100_and_150() -> None:
    found = settings("wsr-basic")
    assert [found.recipe.lr_at(epoch, found.epochs) for epoch in (99, 100, 149, 150)] == pytest.approx(
        [0.1, 0.01, 0.01, 0.001]
    )
    assert isinstance(found.recipe, PGDTraining) and found.recipe.clip == 5 and found.recipe.threat.eps == 0.031
    assert found.recipe.attack.budget(0.031).step == pytest.approx(0.031 * 2.5 / 7)
    assert found.eps == (0.03, 0.10, 0.17, 0.25)
    trades = settings(recipe="wsr-trades").recipe
    assert isinstance(trades, TRADES)
    assert (trades.beta, trades.attack_mode, trades.start_noise, trades.attack.loss) == (1, "eval", 0.001, "kl")
    six = settings(recipe="wsr-trades", **{"recipe.beta": "6"}).recipe
    assert six == chz.replace(trades, beta=6.0)


def test_a_shorter_training_divides_its_rate_too() -> None:
    short = settings("wsr-basic", epochs="20")
    assert short.recipe.milestones == (10, 15)
    assert [short.recipe.lr_at(epoch, 20) for epoch in (0, 10, 15)] == pytest.approx([0.1, 0.01, 0.001])
    assert settings("wsr-basic", epochs="2").recipe.milestones == (1, 2)
    assert settings("wsr-basic", epochs="20", **{"recipe.milestones": "5"}).recipe.milestones == (5,)


def test_roco_trains_its_networks_without_attacks(tmp_path: Path) -> None:
    space = NSGAPhases(phases=2, nodes=3, channels=4)
    architecture = space.decode(space.sample(np.random.default_rng(2)))
    save_genotype(Genotype(space, architecture, "digits", 10, (1, 8, 8)), tmp_path / "genotype.json")
    found, _ = settings_from(RetrainOptions(genotype=str(tmp_path)), {"recipe": "roco"})
    assert found.recipe == Standard(lr=0.025, momentum=0.9, weight_decay=3e-4, batch_size=128, clip=5.0)
    assert (found.epochs, found.eps) == (120, (1 / 255,))
    assert found.space == chz.replace(space, channels=32)


def test_every_key_goes_over_a_papers_recipe() -> None:
    found = settings(recipe="robnet", epochs="3", eps="0.1,0.2", attack="FGSM", **{"recipe.attack.steps": "2"})
    assert (found.epochs, found.eps, found.attack) == (3, (0.1, 0.2), FGSM())
    assert isinstance(found.recipe, PGDTraining) and found.recipe.attack == PGD(steps=2, step=STEP)
    longer = settings(recipe="racl", **{"attack.steps": "100"})
    assert longer.attack == PGD(steps=100, step=STEP)


@pytest.mark.parametrize(
    ("network", "recipe"),
    [("robnet-free", "robnet"), ("racl", "racl"), ("wsr-plus", "wsr"), ("resnet-18", "pgd"), ("pc-darts", "pgd")],
)
def test_a_published_network_is_trained_as_in_its_paper(network: str, recipe: str) -> None:
    assert settings(network) == settings(network, recipe=recipe)


def test_the_first_line_says_which_recipe_and_what_was_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["data=digits", "data.train_limit=60", "data.test_limit=10", "epochs=1", "attack.steps=1", "device=cpu"]
    # a tiny batch of a tiny set: the network is the published one
    assert main(["network=racl", "recipe.attack.steps=1", f"out={tmp_path / 'one'}", *small]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("racl is trained as in its paper, since no recipe= is given: recipe=racl (RACL, 2020): ")
    assert "Chosen here, since the paper does not say: SGD" in first
    assert json.loads((tmp_path / "one" / "retrain.json").read_text())["recipe"] == "racl"
    assert main(["network=lenet", "recipe=wsr", f"out={tmp_path / 'two'}", *small]) == 0
    assert capsys.readouterr().out.startswith("recipe=wsr (Wsr-NAS, AAAI 2023): ")
    assert main(["network=lenet", "recipe=standard", f"out={tmp_path / 'three'}", *small]) == 0
    assert "recipe=" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "here"),
    [
        ([], ""),
        (["decoder=final"], ""),
        (["decoder=search"], "; here it is the residual network with 4 channels"),
        (["space.channels=6"], "; here it is the residual network with 6 channels"),
        (["decoder=dense"], "; here it is the dense network with 8 channels"),
    ],
)
def test_the_first_line_tells_the_channels_that_are_trained(
    given: list[str], here: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = NSGAPhases(phases=1, nodes=2, channels=4, dense_channels=8)
    architecture = space.decode(space.sample(np.random.default_rng(2)))
    save_genotype(Genotype(space, architecture, "digits", 10, (1, 8, 8)), tmp_path / "genotype.json")
    small = ["data.train_limit=40", "data.test_limit=10", "epochs=1", "attack.steps=1", "device=cpu"]
    line = [f"genotype={tmp_path}", "recipe=roco", *given, *small, f"out={tmp_path / 'out'}"]
    assert main(line) == 0
    first = " ".join(capsys.readouterr().out.partition("training ")[0].split()) + " "
    assert f"The paper trains the residual network with 32 channels{here}." in first
    assert "Given beside it: epochs=1, attack.steps=1." in first


def test_the_first_line_names_a_network_that_is_not_the_papers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["data=digits", "data.train_limit=40", "data.test_limit=10", "epochs=1", "attack.steps=1", "device=cpu"]
    assert main(["network=lenet", "recipe=roco", f"out={tmp_path / 'out'}", *small]) == 0
    assert "32 channels; here it is lenet." in " ".join(capsys.readouterr().out.split())


def test_a_misspelt_recipe_is_one_message_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["network=lenet", "data=digits", "recipe=robnett"]) == 2
    assert "did you mean 'robnet'?" in capsys.readouterr().err
    assert main(["network=lenet", "data=digits", "recipe=wsr-trade"]) == 2
    assert "did you mean 'wsr-trades'?" in capsys.readouterr().err


def test_list_and_help_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["list"], ["retrain", "--help"]):
        assert door(command) == 0
        text = capsys.readouterr().out
        assert all(f"  recipe={name} (" in text for name in PUBLISHED)
        assert "Chosen here" in text


def test_a_folder_of_an_earlier_version_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["network=lenet", "recipe=trades", "data=digits", "data.train_limit=40", "data.test_limit=10", "epochs=1"]
    command += ["attack.steps=1", "recipe.attack.steps=1", "device=cpu", f"out={out}"]
    assert main(command) == 0
    told = json.loads((out / "retrain.json").read_text())
    later = unused_later(settings("lenet", "digits", recipe="trades"))
    assert {"recipe.ema", "recipe.label_smoothing", "recipe.attack_mode", "recipe.start_noise"} <= {*later}
    for key in later:  # no such fields then
        del told["identity"][key], told["values"][key]
    del told["recipe"]
    (out / "retrain.json").write_text(json.dumps(told))
    (out / "result.json").unlink()
    capsys.readouterr()
    assert main(command) == 0
    assert "training " in capsys.readouterr().out
    (out / "retrain.json").write_text(json.dumps(told))
    assert main([*command, "recipe.ema=0.9"]) == 2
    assert "recipe.ema: (absent) → 0.9" in capsys.readouterr().err

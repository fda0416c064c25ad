"""Retraining with chosen channels, depth, stem and denoising blocks, by the command: folders, names, messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evo_robust import export, retrain, zoo
from evo_robust.commands import listing
from evo_robust.data.sets import Digits
from evo_robust.final_training.settings import Retraining, load_result
from evo_robust.inference.predictions import clean_error
from evo_robust.judging.subjects import of_folder, of_zoo
from evo_robust.networks.genotype import Genotype, save_genotype
from evo_robust.parts.base import UserError, digest
from evo_robust.retrain import RetrainOptions, settings_from
from evo_robust.spaces import NSGAPhases
from evo_robust.spaces.robnet.space import RobNet
from evo_robust.zoo.denoising import Denoised

TINY = (
    "data=digits", "recipe=standard", "recipe.batch_size=32", "epochs=1", "data.train_limit=64", "data.test_limit=40",
    "attack.steps=2", "eps=0.1", "device=cpu",
)  # fmt: skip


def settings(network: str, **given: str) -> Retraining:
    return settings_from(RetrainOptions(network=network), {"data": "digits", **given})[0]


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """Genotype file of a RobNet network of three cells."""
    space = RobNet(channels=2, layers=3, nodes=2)
    path = tmp_path / "found" / "genotype.json"
    path.parent.mkdir()
    architecture = space.from_text("11 11 | 01 10 11")
    save_genotype(Genotype(space, architecture, "digits", 10, (1, 8, 8)), path)
    return path


@pytest.mark.parametrize(
    "chosen",
    [
        ("network=wsr-basic", "channels=2", "layers=3", "denoise=gaussian", "denoise_after=stage-1,cell-2"),
        ("network=resnet", "layers=8", "denoise=mean"),
        ("network=wrn-28-10", "channels=4", "layers=10"),
        ("network=roco-table5", "channels=2", "denoise=median"),
    ],
)
def test_a_folder_builds_its_network_again(chosen: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert retrain.main([*chosen, *TINY, f"out={out}"]) == 0
    result, subject = load_result(out), of_folder(out)
    assert result.network == " ".join(chosen).removeprefix("network=")
    model = subject.make()
    assert clean_error(model, Digits(train_limit=64, test_limit=40).load().test) == result.clean_error
    assert sum(p.numel() for p in model.parameters()) == result.params
    # a network of another size is not the one of the papers' tables
    assert subject.zoo == result.network
    # it is finished, and another choice is another training
    assert retrain.main([*chosen, *TINY, f"out={out}"]) == 0
    assert retrain.main([*(text for text in chosen if "channels" not in text), *TINY, f"out={out}", "seed=1"]) == 2


def test_folders_and_figures_without_choices_are_as_they_were(tmp_path: Path) -> None:
    plain = settings("lenet")
    assert plain.network_text == "lenet" and digest(plain.network_text) == digest("lenet")
    same = settings("resnet", layers="20", channels="16")
    for one, other in zip(settings("resnet").build().parameters(), same.build().parameters(), strict=True):
        assert torch.equal(one, other)
    out = tmp_path / "out"
    command = ["network=lenet", *TINY, f"out={out}"]
    assert retrain.main(command) == 0
    # a folder of the time before these keys is known again
    file = out / "retrain.json"
    content = json.loads(file.read_text())
    for part in ("identity", "values"):
        for key in ("channels", "layers", "stem", "denoise", "denoise_after"):
            del content[part][key]
    file.write_text(json.dumps(content))
    (out / "result.json").unlink()
    before = (out / "curve.csv").read_text()
    assert retrain.main(command) == 0
    assert (out / "curve.csv").read_text() == before


def test_a_found_network_is_denoised_too(found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = [f"genotype={found}", "decoder=search", *TINY, "denoise=dot-product", f"out={out}"]
    assert retrain.main(command) == 0
    result, subject = load_result(out), of_folder(out)
    assert result.network.endswith(" denoise=dot-product")
    model = subject.make()
    assert [isinstance(cell, Denoised) for cell in model.cells] == [True, True, True]
    assert clean_error(model, Digits(train_limit=64, test_limit=40).load().test) == result.clean_error
    # model.py would build another network
    capsys.readouterr()
    assert export.main([f"run={out}", f"out={tmp_path / 'exported'}"]) == 2
    said = capsys.readouterr()
    assert "denoise=dot-product" in said.err + said.out and "weights=false" in said.err + said.out
    assert not (tmp_path / "exported").exists()
    assert export.main([f"run={out}", f"out={tmp_path / 'exported'}", "weights=false"]) == 0


def test_phases_of_a_found_network_are_stages_and_cells(tmp_path: Path) -> None:
    space = NSGAPhases(phases=2, nodes=3, channels=4)
    architecture = space.decode(np.array([1, 0, 0, 1, 1, 0, 0, 0]))
    path = tmp_path / "genotype.json"
    save_genotype(Genotype(space, architecture, "digits", 10, (1, 8, 8)), path)
    options = RetrainOptions(genotype=str(path), decoder="search")
    built = [
        settings_from(options, {"denoise": "mean", "denoise_after": after})[0].build() for after in ("cells", "stages")
    ]
    keys = [[key for key in model.state_dict() if "block" in key] for model in built]
    assert keys[0] == keys[1] and len(keys[0]) == 2 * 6  # mix, and five tensors of batch normalisation


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("network=lenet", "channels=8"), "no channels= with lenet"),
        (("network=resnet-18", "layers=20"), "no layers= with resnet-18"),
        (("network=wrn-28-10", "layers=30"), "6n+4 (10, 16, 22, 28, …)"),
        (("network=wsr-basic", "channels=many"), "channels"),
        (("network=wsr-basic", "stem=imagnet"), "did you mean 'imagenet'"),
        (("network=wsr-basic", "stem=imagenet"), "at least 32 pixels for stem=imagenet, got 8"),
        (("network=wsr-basic", "denoise=avarage"), "denoise=avarage"),
        (("network=wsr-basic", "denoise=mean", "denoise_after=stage-9"), "stage-1 to stage-3"),
        (("network=wsr-basic", "denoise_after=stage-1"), "expected denoise=NAME"),
        (("network=wrn-34-10", "channels=4096", "layers=196"), "at most 1,000,000,000 parameters"),
        (("network=wsr-basic", "chanels=8"), "did you mean 'channels'"),
        (("genotype={found}", "channels=8"), "expected space.channels=8 for a found network"),
        (("genotype={found}", "stem=cifar"), "no stem= with a found network"),
        (("genotype={found}", "denoise=mean", "denoise_after=cell-40"), "cell-0 to cell-19"),
    ],
)
def test_one_message_and_nothing_written(
    given: tuple[str, ...], words: str, found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert retrain.main([*(text.format(found=found) for text in given), *TINY, f"out={out}"]) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.strip().splitlines()) <= 2
    assert not out.exists()


def test_retraining_in_python_refuses_the_same() -> None:
    chosen: dict[str, Any] = {"network": "resnet-18", "layers": 3}
    with pytest.raises(ValueError, match="no layers= with resnet-18"):
        Retraining(data=Digits(), **chosen)


def test_weights_of_a_chosen_network_are_judged_by_its_text(tmp_path: Path) -> None:
    text = "resnet channels=4 layers=8 denoise=mean denoise_after=stage-2"
    network = zoo.from_text(text)
    weights = tmp_path / "mine.pt"
    torch.save(network.build(10, (1, 8, 8)).state_dict(), weights)
    subject = of_zoo(text, weights, Digits())
    assert subject.name == subject.zoo == text
    images = Digits(train_limit=64, test_limit=10).load().test.floats()
    assert subject.make()(images).shape == (10, 10)
    with pytest.raises(UserError, match="does not fit resnet channels=8 on digits"):
        of_zoo("resnet channels=8", weights, Digits()).make()
    with pytest.raises(UserError, match="no channels= with lenet"):
        of_zoo("lenet channels=8", weights, Digits())
    with pytest.raises(UserError, match="at least 32 pixels"):
        of_zoo("resnet stem=imagenet", weights, Digits()).make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the name of a network in the zoo, got ''"),
        (
            "wsr-basic chanels=7",
            "wsr-basic with channels=, layers=, stem=, denoise=, denoise_after=, width=, got 'chan",
        ),
        ("wsr-basic channels=x", "channels=x: expected a whole number"),
        ("wsr-basic 7", "got '7'"),
        ("wsr-basic layers=3 layers=4", "got 'layers=4'"),
        ("wsrbasic", "did you mean 'wsr-basic'"),
        ("lenet channels=9", "no channels= with lenet"),
        ("wsr-basic denoise=gaus", "did you mean 'gaussian'"),
        ("wsr-basic name=lenet", "got 'name=lenet'"),
    ],
)
def test_texts_that_are_no_network(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.from_text(text)


def test_texts_and_networks_are_one() -> None:
    for text in ("lenet", "wsr-basic channels=74 stem=imagenet", "vgg-19 channels=8 denoise=median width=0.5",
                 "resnet-18 denoise=gaussian denoise_after=stage-2,stage-4"):  # fmt: skip
        assert zoo.from_text(text).text == text
    assert zoo.from_text("LeNet") == zoo.Network(name="lenet")


def test_the_list_tells_networks_and_what_they_leave(capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.main([]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(f" {name}: " in said for name in zoo.names())
    assert "wsr-basic: Wsr-NAS, Basic and Robust (Cheng et al., AAAI 2023); channels=45 layers=20 stem=auto" in said
    assert "robnet-medium" in said and "never published" in said

"""Images made on one network judge another: planted cases, what is kept, what is refused, tables and picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from evo_robust import judge as door
from evo_robust import zoo
from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import BIM
from evo_robust.data.sets import Digits
from evo_robust.inference.predictions import classes
from evo_robust.judging import transfer, transfer_picture
from evo_robust.judging.judgement import Judgement
from evo_robust.judging.subjects import Subject
from evo_robust.judging.trials import trials
from evo_robust.judging.work import Judging, judge
from evo_robust.parts.base import Fraction, UserError

EPS = 0.1
DATA = Digits(train_limit=400, test_limit=100)


class Linear(nn.Module):
    """Logits W·x, with a function of the images before it."""

    def __init__(self, seed: int, before: Callable[[Tensor], Tensor] = torch.clone) -> None:
        super().__init__()
        train = DATA.load().train
        means = torch.stack([train.floats()[train.y == k].flatten(1).mean(0) for k in range(10)])
        noise = torch.randn(means.shape, generator=torch.Generator().manual_seed(seed))
        self.w = nn.Parameter(8 * (means - means.mean(0)) + noise)
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        return self.before(x).flatten(1) @ self.w.T


def subject(name: str, network: nn.Module) -> Subject:
    return Subject(name, name, lambda: network.eval(), data=DATA, n_classes=10, in_shape=(1, 8, 8))


def crossed(
    folder: Path, targets: list[Subject], sources: list[Subject], attacks: str, *, copies: bool = False
) -> Judgement:
    named = tuple(trials(attacks, (EPS,), (), None, "linf"))
    judging = Judging(tuple(targets), DATA, named, sources=tuple(sources), copies=copies)
    return judge(judging, folder, device="cpu")


def rights(judgement: Judgement) -> dict[tuple[str, str, str], int]:
    return {(t.source, t.target, t.figure.column): t.figure.right for t in judgement.transfers}


def test_figures_of_linear_networks_are_those_of_the_closed_form(tmp_path: Path) -> None:
    one, other = Linear(1), Linear(2)
    found = rights(crossed(tmp_path, [subject("b", other)], [subject("a", one)], "fgsm"))
    test = DATA.load().test
    x, y = test.floats().flatten(1), test.y
    # the gradient of the cross-entropy is Wᵀ(p − 1_y)
    wrong = (x @ one.w.T).softmax(1) - nn.functional.one_hot(y, 10)
    moved = (x + EPS * (wrong @ one.w).sign()).clamp(0, 1)
    expected = int(((moved @ other.w.T).argmax(1) == y).sum())
    assert found == {("a", "b", "FGSM 0.1"): expected}
    assert expected < int(((x @ other.w.T).argmax(1) == y).sum()), "it does transfer"


def test_a_source_that_is_the_target_is_white_box(tmp_path: Path) -> None:
    one, other = subject("a", Linear(1)), subject("b", Linear(2))
    judgement = crossed(tmp_path, [one, other], [one, other], "fgsm,bim-7")
    kinships = {(t.source, t.target): t.kinship for t in judgement.transfers}
    assert kinships == {("a", "a"): "same", ("b", "b"): "same", ("a", "b"): "copy", ("b", "a"): "copy"}
    found, network, test = rights(judgement), one.make(), DATA.load().test
    assert found["a", "a", "FGSM 0.1"] == judgement.verdicts[0].figure("FGSM 0.1").right
    # every image is attacked to the last step, and counts as what it is there
    attack, generator = BIM(steps=7), torch.Generator().manual_seed(0)
    last = attack.perturb(network, test.floats(), test.y, Threat(eps=Fraction(EPS)), generator, keep_going=True)
    assert found["a", "a", "BIM-7 0.1"] == int((classes(network(last)) == test.y).sum())
    # white-box is no transfer: the lowest figure of each network is that of the other's images
    assert judgement.verdicts[0].figure("transfer BIM-7 0.1").right == found["b", "a", "BIM-7 0.1"]


def test_nothing_transfers_from_a_network_without_slope(tmp_path: Path) -> None:
    flat = subject("flat", Linear(1, torch.round))
    judgement = crossed(tmp_path, [subject("b", Linear(2))], [flat], "fgsm,bim-5,mim-5")
    assert len(judgement.transfers) == 3
    assert {t.figure.right for t in judgement.transfers} == {judgement.verdicts[0].figure("clean").right}
    assert {t.kinship for t in judgement.transfers} == {"copy"}, "equal layers as they print themselves"


def test_the_lowest_figure_is_over_all_sources(tmp_path: Path) -> None:
    sources = [subject(name, Linear(seed)) for name, seed in (("a", 1), ("c", 3), ("d", 4))]
    judgement = crossed(tmp_path, [subject("b", Linear(2))], sources, "pgd-4")
    each = [t.figure.right for t in judgement.transfers]
    assert len(set(each)) > 1
    assert judgement.verdicts[0].figure("transfer PGD-4 0.1").right == min(each)


def test_an_image_must_survive_every_attack_of_a_joined_trial(tmp_path: Path) -> None:
    pair = [subject("b", Linear(2))], [subject("a", Linear(1))]
    apart = rights(crossed(tmp_path, *pair, "fgsm,pgd-4"))
    joined = rights(crossed(tmp_path, *pair, "fgsm+pgd-4"))
    assert joined["a", "b", "FGSM+PGD-4 0.1"] <= min(apart.values())
    assert joined["a", "b", "FGSM+PGD-4 0.1"] >= sum(apart.values()) - 100


class Counted:
    """Counts batches of images that are made; the one after ``most`` is a kill."""

    def __init__(self, most: int, patch: pytest.MonkeyPatch) -> None:
        self.calls, self.most, self.make = 0, most, transfer._Maker.make
        patch.setattr(transfer._Maker, "make", lambda *given: self(*given))

    def __call__(self, *given: object) -> Tensor:
        if self.calls == self.most:
            raise KeyboardInterrupt
        self.calls += 1
        return self.make(*given)  # type: ignore[arg-type]


def test_an_interrupted_judgement_ends_like_one_never_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "CHUNK", 40)
    networks = [subject(name, Linear(seed)) for name, seed in (("a", 1), ("b", 2))]
    whole = crossed(tmp_path / "whole", networks, networks, "fgsm,pgd-3")
    with monkeypatch.context() as patch:
        first = Counted(4, patch)
        with pytest.raises(KeyboardInterrupt):
            crossed(tmp_path / "cut", networks, networks, "fgsm,pgd-3")
    assert not (tmp_path / "cut" / "judgement.json").exists()
    assert first.calls == 4
    with monkeypatch.context() as patch:
        rest = Counted(99, patch)
        again = crossed(tmp_path / "cut", networks, networks, "fgsm,pgd-3")
    assert rest.calls == 2 * 2 * 3 - 4, "two sources, two attacks, three batches; four of them were kept"
    assert rights(again) == rights(whole)


def test_what_is_known_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = (subject(name, Linear(seed)) for name, seed in (("a", 1), ("b", 2), ("c", 3)))
    before = crossed(tmp_path, [a, b], [c], "fgsm")
    with monkeypatch.context() as patch:
        counted = Counted(99, patch)
        assert rights(crossed(tmp_path, [a, b], [c], "fgsm")) == rights(before)
        assert counted.calls == 0
        assert rights(before).items() <= rights(crossed(tmp_path, [a, b], [c], "fgsm,mim-3")).items()
        assert counted.calls == 1, "another attack costs itself"
        assert rights(before).items() <= rights(crossed(tmp_path, [a, b], [c, a], "fgsm")).items()
        assert counted.calls == 2, "another source costs itself"


def weights(folder: Path, *named: str) -> None:
    """Files of fresh weights, such as ``lenet-0``."""
    for name in named:
        network, _, seed = name.rpartition("-")
        with torch.random.fork_rng():
            torch.manual_seed(int(seed))
            save_file(zoo.build(network, 10, (1, 8, 8)).state_dict(), folder / f"{name}.safetensors")


def lines(file: str) -> list[dict[str, str]]:
    with Path(file).open(encoding="utf-8") as content:
        return list(csv.DictReader(content))


SMALL = ("data=digits", "data.test_limit=60", "device=cpu", "out=out", "eps=.1")


def test_one_command_makes_the_whole_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weights(tmp_path, "lenet-0", "lenet-1", "resnet-0")
    networks = "networks=lenet@lenet-0.safetensors,lenet@lenet-1.safetensors,resnet@resnet-0.safetensors"
    assert door.main([networks, "sources=networks", *SMALL]) == 0
    found = lines("out/transfer.csv")
    assert len(found) == 9 * 2
    assert {row["trial"] for row in found} == {"FGSM", "PGD-20"}, "the attacks where none are named"
    assert [row["kinship"] for row in found[:9]] == ["same", "copy", "other", "copy", "same", "other"] + [
        *("other", "other", "same")
    ]
    assert all(float(row["low"]) <= float(row["accuracy"]) <= float(row["high"]) for row in found)
    told = capsys.readouterr().out
    assert "images made on" in told
    assert "* white-box" in told
    text = Path("out/transfer.md").read_text()
    assert text.count("| no attack |") == 2
    assert text.count("| * ") == 6
    assert Path("out/transfer.tex").read_text().count(r"\toprule") == 2
    with Image.open("out/transfer.png") as image:
        assert image.width > 900
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 50, "cells have colours"
    lowest = [row for row in lines("out/judgement.csv") if row["trial"] == "transfer FGSM"]
    assert [row["network"] for row in lowest] == ["lenet (1)", "lenet (2)", "resnet"]
    for row in lowest:
        others = [r for r in found if r["trial"] == "FGSM" and r["target"] == row["network"] and r["kinship"] != "same"]
        assert int(row["right"]) == min(int(r["right"]) for r in others)
    assert len(json.loads(Path("out/judgement.json").read_text())["transfers"]) == 18


def test_one_command_pairs_each_network_with_its_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weights(tmp_path, "lenet-0", "lenet-1", "resnet-0", "resnet-1")
    networks = "networks=lenet@lenet-0.safetensors,resnet@resnet-0.safetensors"
    sources = "sources=resnet@resnet-1.safetensors,lenet@lenet-1.safetensors"
    assert door.main([networks, sources, "copies=yes", "attacks=fgsm", "norm=l2", *SMALL]) == 0
    found = lines("out/transfer.csv")
    assert {(row["source_origin"], row["target"], row["kinship"]) for row in found} == {
        ("lenet@lenet-1.safetensors", "lenet (1)", "copy"),
        ("resnet@resnet-1.safetensors", "resnet (1)", "copy"),
    }
    assert {row["norm"] for row in found} == {"l2"}
    assert Path("out/transfer.md").read_text().count("\n| ") == 4, "one table, a line for each network"
    assert Path("out/transfer.png").is_file()
    capsys.readouterr()
    assert door.main([networks, "sources=lenet@lenet-1.safetensors,networks", "copies=yes", *SMALL]) == 2
    assert "resnet has no copy among the sources" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sources=nowhere",), "sources=nowhere: there is no such folder"),
        (("sources=,",), "sources=networks for these"),
        (("copies=yes",), "expected sources= with copies=yes"),
        (("sources=networks", "attacks=fgsm,square"), "Square makes no images for other networks. Expected attacks by"),
        (("sources=networks", "attacks=robnet:eps=.1"), "attacks=DeepFool"),
        (("sources=networks", "attacks=adversarial-set"), "attacks=adversarial-set"),
        (("sources=networks", "attacks=fgsm,level-l0:eps=3"), "CMAES makes no images"),
        (("sources=networks", "copies=yes"), "lenet has no copy among the sources. Expected a network with the same"),
    ],
)
def test_a_wrong_argument_gets_one_clear_message(
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    weights(tmp_path, "lenet-0")
    assert door.main(["networks=lenet@lenet-0.safetensors", *arguments, *SMALL]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown
    assert not Path("out").exists(), "nothing half-written stays behind"


def test_a_source_without_gradients_or_for_other_images_is_refused(tmp_path: Path) -> None:
    target = subject("b", Linear(2))
    blind = subject("blind", Linear(1, lambda x: x.detach()))
    with pytest.raises(UserError, match="sources=blind: .*gradient"):
        crossed(tmp_path, [target], [blind], "fgsm")
    large = Subject("large", "large", lambda: Linear(1), in_shape=(3, 32, 32))
    with pytest.raises(UserError, match=r"large does not fit data=digits: .*\(3, 32, 32\)"):
        crossed(tmp_path, [target], [large], "fgsm")


def test_long_names_stay_apart_in_the_picture() -> None:
    names = [f"retrain-PGDTraining-cifar10-{key}" for key in ("77aa11", "ee12aa")]
    short = [transfer_picture._short(name) for name in names]
    assert len(set(short)) == 2
    assert {len(name) for name in short} == {transfer_picture._LONGEST}
    assert transfer_picture._short("racl") == "racl"


def test_a_folder_is_one_network_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net").mkdir()
    Path("link").symlink_to("net")
    known = [subject("net", Linear(1))]
    others = {text: [subject(text, Linear(1))] for text in ("./net", str(tmp_path / "net"), "link")}
    monkeypatch.setattr(door, "subjects_of", lambda texts, *rest, **more: others[texts[0]])
    options = door.Judge(networks="net", sources=",".join([*others, "networks"]))
    assert door._sources(options, known, "cpu", print) == known


def test_weights_of_a_search_are_made_once_for_all(tmp_path: Path) -> None:
    made = []

    def again() -> nn.Module:
        made.append(1)
        return Linear(1).eval()

    searched = Subject("searched", "run, pick=0", again, in_shape=(1, 8, 8), fresh=lambda: Linear(9), key="key")
    found = crossed(tmp_path, [searched, subject("b", Linear(2))], [searched, subject("c", Linear(3))], "fgsm")
    assert len(made) == 1
    assert found.transfers[0].kinship == "same"
    pairs = transfer.pairs_of([searched, subject("c", Linear(3))], [searched], copies=True)
    assert [(source.name, [t.name for t in targets]) for source, targets in pairs] == [("c", ["searched"])]
    assert len(made) == 1, "layers are compared without training"

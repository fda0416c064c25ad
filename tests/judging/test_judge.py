"""The judge on real digits: every kind of network, what is kept, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from evo_robust import export, zoo
from evo_robust import judge as door
from evo_robust import retrain as training
from evo_robust.attacks.curve import robust_curve
from evo_robust.attacks.gradient import PGD
from evo_robust.data.sets import Digits
from evo_robust.files import write_tensors
from evo_robust.inference.predictions import clean_error
from evo_robust.judging import levels
from evo_robust.judging.judgement import worst_cases
from evo_robust.judging.named import KINDS, SETS
from evo_robust.judging.store import Store
from evo_robust.judging.subjects import of_folder, subjects_of
from evo_robust.judging.trials import Trial, trials
from evo_robust.judging.weights import fitted, identity
from evo_robust.networks.genotype import Genotype, save_genotype
from evo_robust.spaces.nsga.space import NSGAPhases

EPS = "eps=.05,.1"
DIGITS = ("data=digits", "data.test_limit=120")


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network that was trained for a moment."""
    folder = tmp_path_factory.mktemp("judged") / "net"
    words = ["network=lenet", "data=digits", "recipe=standard", "recipe.lr=.03", "recipe.batch_size=16", "epochs=6"]
    small = ["data.train_limit=400", "data.test_limit=120", "attack.steps=1", "eps=.1", "device=cpu"]
    assert training.main([*words, *small, f"out={folder}"]) == 0
    return folder


def network(retrained: Path) -> nn.Module:
    return fitted(zoo.build("lenet", 10, (1, 8, 8)), retrained / "model.safetensors", "lenet")


def figures(folder: Path) -> dict[tuple[str, str], float]:
    with (folder / "judgement.csv").open(encoding="utf-8") as file:
        return {(row["trial"], row["eps"]): float(row["accuracy"]) for row in csv.DictReader(file)}


def judged(*arguments: str) -> int:
    """The exit status; signs of masked gradients, which would add attacks, have tests of their own."""
    return door.main([*arguments, "signs=no", "device=cpu"])


def test_figures_are_those_of_the_attacks(retrained: Path, tmp_path: Path) -> None:
    assert judged(f"networks={retrained}", "attacks=pgd-5,compact", EPS, f"out={tmp_path}") == 0
    found = figures(tmp_path)
    test = Digits(train_limit=400, test_limit=120).load().test
    model = network(retrained)
    assert found["clean", ""] == pytest.approx(1 - clean_error(model, test), abs=1e-6)
    curve = robust_curve(model, test, PGD(steps=5), (0.05, 0.1), generator=torch.Generator().manual_seed(3))
    for eps, error in zip(curve.eps, curve.error, strict=True):
        assert found["PGD-5", str(eps)] == pytest.approx(1 - error, abs=0.03)
        assert found["compact", str(eps)] <= found["PGD-5", str(eps)] + 1e-9
        assert found["worst case", str(eps)] <= found["compact", str(eps)] + 1e-9
    content = json.loads((tmp_path / "judgement.json").read_text())
    assert content["n"] == 120
    assert content["networks"][0]["params"] == sum(p.numel() for p in model.parameters())
    assert "Standard, 6 epochs" in (tmp_path / "judgement.md").read_text()
    assert r"\toprule" in (tmp_path / "judgement.tex").read_text()


def test_an_attack_in_linf_keeps_its_strength_beside_those_in_l2(retrained: Path, tmp_path: Path) -> None:
    arguments = ["attacks=square-1,fgsm", "norm=l2", "images=5", f"out={tmp_path}"]
    assert judged(f"networks={retrained}", *arguments) == 0
    assert {key for key in figures(tmp_path) if key[1]} == {("Square-1", str(8 / 255)), ("FGSM l2", "0.5")}


def test_a_folder_may_have_any_name(retrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(retrained, "a, b:c@d é")
    named = ["networks=a, b:c@d é", "sources=a, b:c@d é", "attacks=fgsm", "images=5", "out=o, p"]
    assert judged(*named) == 0
    assert [entry["name"] for entry in json.loads(Path("o, p/judgement.json").read_text())["networks"]] == [
        "a, b:c@d é"
    ]


def test_a_network_is_judged_once_however_it_is_written(
    retrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(retrained)
    shutil.copytree(retrained, tmp_path / "copy")
    folders = [str(retrained), f"{retrained}/", os.path.relpath(retrained), "link", "copy"]
    files = ["lenet@copy/model.safetensors", "lenet@./copy/model.safetensors"]
    found = subjects_of([*folders, *files], Digits(), "front", "cpu", print, trust=False)
    assert [subject.name for subject in found] == [retrained.name, "copy", "lenet"]


def test_a_later_attack_costs_that_attack_alone(
    retrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judged(f"networks={retrained}", "attacks=pgd-5,apgd-5", EPS, f"out={tmp_path}") == 0
    first, attacked = figures(tmp_path), []
    under = levels._under

    def counted(judged_: object, attack: object, *rest: object) -> Tensor:
        attacked.append(attack)
        return under(judged_, attack, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(levels, "_under", counted)
    # the second attack of a joined trial runs on what the first one is known to have left
    assert judged(f"networks={retrained}", "attacks=pgd-5,apgd-5,apgd-5+square-9", EPS, f"out={tmp_path}") == 0
    assert [type(attack).__name__ for attack in attacked] == ["Square"]
    assert {key: figures(tmp_path)[key] for key in first if key[0] != "worst case"} == {
        key: value for key, value in first.items() if key[0] != "worst case"
    }


def test_an_interrupted_judgement_ends_like_one_never_interrupted(
    retrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "GRADIENT_CHUNK", 50)
    monkeypatch.setattr(levels, "QUERY_CHUNK", 50)
    arguments = (f"networks={retrained}", "attacks=pgd-3,square-5", EPS)
    assert judged(*arguments, f"out={tmp_path / 'whole'}") == 0
    under, calls = levels._under, 0

    def killed(*given: object) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return under(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(levels, "_under", killed)
    assert judged(*arguments, f"out={tmp_path / 'cut'}") == 130
    assert not (tmp_path / "cut" / "judgement.csv").exists()
    calls = 100
    assert judged(*arguments, f"out={tmp_path / 'cut'}") == 0
    assert calls == 100 + 4, "two of six batches were kept"
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")


DAMAGES = {
    "truncated": lambda content: content[:-3],
    "a head alone": lambda content: content[:20],
    "empty": lambda content: b"",
    "garbage": lambda content: bytes(range(256)) * 4,
    "text": lambda content: b"half a line",
    "one bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "another file's": lambda content: save({"a": torch.zeros(9)}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_set_aside_and_judged_again(
    damage: Callable[[bytes], bytes], retrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # answers of transfers, clean levels and levels under two attacks lie there
    arguments = (f"networks={retrained}", f"sources={retrained}", "attacks=fgsm,pgd-3", "images=40", f"out={tmp_path}")
    assert judged(*arguments) == 0
    first, files = figures(tmp_path), sorted((tmp_path / "levels").iterdir())
    assert len(files) == 5
    whole = {path: path.read_bytes() for path in files}
    for path in files:
        path.write_bytes(damage(whole[path]))
        capsys.readouterr()
        assert judged(*arguments) == 0
        told = capsys.readouterr()
        assert "".join(told.out.split()).count(f"{path}isdamaged(") == 1 and not told.err
        assert figures(tmp_path) == first
        assert path.with_name(f"{path.name}.damaged").read_bytes() == damage(whole[path])
        others = [other for other in files if other != path]
        assert {other: other.read_bytes() for other in others} == {other: whole[other] for other in others}
        path.write_bytes(whole[path])  # the same but for its seconds


def test_a_second_damage_takes_no_name_of_the_first(tmp_path: Path) -> None:
    said: list[str] = []
    store = Store(tmp_path, said.append)
    for k, name in enumerate(("damaged", "damaged-2", "damaged-3")):
        (tmp_path / "key.safetensors").write_bytes(bytes([k]))
        assert store.masks("key") is None and len(store.get("key").level) == 0
        assert f"it is now key.safetensors.{name}, and is made again" in said[-1]
    assert len(said) == 3 and [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [b"\0", b"\1", b"\2"]
    write_tensors(tmp_path / "key.safetensors", {"level": torch.zeros(2)})  # without its seconds
    assert len(store.get("key").level) == 0 and "damaged-4" in said[-1]


def test_networks_come_from_everywhere(retrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from evo_robust import zoo\ndef make():\n    return zoo.build('lenet', 10, (1, 8, 8))\n"
    )
    weights = network(retrained).state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}, "epoch": 3}, "mine.pth")
    save_file(weights, "foreign.safetensors")
    named = f"{retrained},lenet@{retrained}/model.safetensors,mine.py:make@mine.pth,mine:make@foreign.safetensors"
    assert judged(f"networks={named}", "attacks=pgd-2", "eps=.1", "out=all", *DIGITS) == 0
    networks = json.loads(Path("all/judgement.json").read_text())["networks"]
    assert [entry["name"] for entry in networks] == ["net", "lenet", "make (1)", "make (2)"]
    assert len({json.dumps([f["right"] for f in entry["figures"]]) for entry in networks}) == 1
    assert len(list(Path("all/levels").iterdir())) == 2, "equal weights are judged once"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("recipe=trades recipe.beta=2 recipe.attack.steps=1 recipe.threat.eps=.1 seed=3", "TRADES beta=2 eps=0.1"),
        ("recipe=standard seed=4", "Standard"),
    ],
)
def test_an_exported_network_tells_its_training_as_the_retrained_one_does(
    recipe: str, words: str, tmp_path: Path
) -> None:
    space = NSGAPhases(phases=1, nodes=2, channels=4)
    found = Genotype(space, space.decode(np.array([1, 0])), "digits", 10, (1, 8, 8), provenance={"seed": 7})
    save_genotype(found, tmp_path / "genotype.json")
    small = ["decoder=search", "data.train_limit=40", "data.test_limit=10", "epochs=1", "attack.steps=1", "device=cpu"]
    out, exported = tmp_path / "trained", tmp_path / "exported"
    assert training.main([f"genotype={tmp_path}", *recipe.split(), *small, f"out={out}"]) == 0
    assert export.main([f"run={out}", f"out={exported}", "onnx=false"]) == 0
    one, other = of_folder(out), of_folder(exported)
    assert (one.recipe, one.seed, one.eps) == (other.recipe, other.seed, other.eps)
    assert one.recipe == f"{words}, 1 epochs"
    content = json.loads((exported / "genotype.json").read_text())
    told = content["provenance"]["retrained"]
    del told["training"], told["seed"]  # as earlier versions wrote it
    (exported / "genotype.json").write_text(json.dumps(content))
    assert (of_folder(exported).recipe, of_folder(exported).seed) == (f"{words.split()[0]}, 1 epochs", None)
    del content["provenance"]["retrained"]  # as a network with the search's own weights has it
    (exported / "genotype.json").write_text(json.dumps(content))
    assert (of_folder(exported).recipe, of_folder(exported).seed) == ("as in the search", 7)


def test_weights_of_a_torch_file_with_objects_are_never_loaded(
    retrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(network(retrained), tmp_path / "whole.pt")
    assert judged(f"networks=lenet@{tmp_path / 'whole.pt'}", "data=digits") == 2
    assert "save model.state_dict() alone" in capsys.readouterr().err


class Odd(nn.Module):
    """Gives logits that are not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10] * self.weight / 0.0


class Scans(nn.Module):
    """A network for other images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("networks=nowhere",), "there is no such folder"),
        (("networks=resnet18", "data=digits"), "did you mean resnet-18@FILE"),
        (("networks=lenet@", "data=digits"), "expected a file of weights behind @"),
        (("run=nowhere",), "run=nowhere: there is no such folder"),
        (("networks={net}", "pick=3"), "pick=3 belongs to the folder of a search"),
        (("networks=resnet-18", "data=digits"), "expected weights too, such as resnet-18@FILE"),
        (("networks=resnet-81@{weights}", "data=digits"), "did you mean 'resnet-18'"),
        (("networks=lenet@nothing.pt", "data=digits"), "no weights at nothing.pt"),
        (("networks=lenet@{weights}",), "expected data=NAME"),
        (("networks=resnet@{weights}", "data=digits"), "does not fit resnet on digits: expected body"),
        (("networks={net}", "data=mnist"), "net does not fit data=mnist: its shape of images is (1, 8, 8)"),
        (("networks={net}", "attacks=pgdd"), "did you mean 'pgd'"),
        (("networks={net}", "eps=8"), "did you mean 8/255"),
        (("networks={net}", "eps=.1,.05"), "ascending"),
        (("networks={net}", "images=0"), "expected images >= 1"),
        (("networks={net}", "device=gpu"), "expected auto, cpu, cuda"),
        (("networks={net}", "atacks=pgd"), "did you mean 'attacks'"),
        (("pick=knee",), "expected networks=DIR"),
        (("networks={net}", "attacks=level-l0:eps=70"), "expected level <= 64 pixels"),
    ],
)
def test_a_wrong_argument_gets_one_clear_message(
    retrained: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [a.format(net=retrained, weights=retrained / "model.safetensors") for a in arguments]
    assert door.main(filled) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown
    assert not Path("runs").exists(), "nothing half-written stays behind"


MINE = """
import sys, torch
from torch import nn
class Wide(nn.Linear):
    def __init__(self): super().__init__(64, 100)
    def forward(self, x): return super().forward(x.flatten(1))
class Fails(Wide):
    def forward(self, x): raise KeyError("inside")
def good(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def boom(): raise KeyError("broken")
def needs(width): return good()
def ends(): sys.exit(3)
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
def meta(): return good().to("meta")
def half(): return good().half()
def nothing(): return nn.Flatten()
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine.py:boom", "KeyError: 'broken' (mine.py, line 10)"),
        ("mine.py:needs", "expected a function without arguments"),
        ("mine.py:ends", "SystemExit: 3"),
        ("mine.py:lazy", "got none yet for 1.weight"),
        ("mine.py:meta", "got none yet for 1.weight"),
        ("mine.py:half", "expected weights in float32, got float16"),
        ("mine.py:good", "expected 1.weight (10, 64), got none"),
        ("mine.py:Wide", "expected 10 logits, one for each class, got 100"),
        ("mine.py:Fails", "KeyError: 'inside'"),
        ("syntax.py:make", "the file cannot be run: SyntaxError"),
        ("imports.py:make", "the file cannot be run: ModuleNotFoundError"),
        ("imports:make", "the module cannot be imported: ModuleNotFoundError"),
        ("json:loads", "expected a function without arguments"),
    ],
)
def test_a_network_of_ones_own_that_fails_gets_one_clear_message(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    Path("syntax.py").write_text("def make(:")
    Path("imports.py").write_text("import nothing_of_that_name")
    torch.save(nn.Linear(64, 100).state_dict(), "w.pt")
    assert judged(f"networks={name}@w.pt", "data=digits", "images=20", "out=o") == 2
    shown = capsys.readouterr().err.replace(f"{tmp_path}/", "")
    assert said in shown
    assert len(shown.splitlines()) == 1
    assert not Path("o").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "w.pt is damaged (it is empty)"),
        (b"hello" * 100, "it is no file of torch.save"),
        (pickle.dumps({"a": object}), "objects could run code and are never loaded"),
        (save({"a": torch.zeros(9)})[:-5], "w.pt is damaged ("),
    ],
)
def test_a_damaged_file_of_weights_is_told_as_what_it_is(
    content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    assert judged(f"networks=lenet@{tmp_path}/w.pt", "data=digits") == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown) < 400


@pytest.mark.parametrize(("kind", "said"), [(Odd, "expected finite logits"), (Scans, "mat1 and mat2")])
def test_a_network_that_does_not_answer_is_refused(
    kind: type[nn.Module],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    torch.save(kind().state_dict(), tmp_path / "w.pt")
    name = f"test_judge:{kind.__name__}@{tmp_path / 'w.pt'}"
    assert judged(f"networks={name}", "data=digits", "data.test_limit=20", f"out={tmp_path / 'o'}") == 2
    assert said in capsys.readouterr().err


def test_the_worst_case_is_pointwise() -> None:
    trials = [Trial(name, (), "linf", (0.1, 0.2)) for name in ("one", "other")]
    found = worst_cases([(trials[0], torch.tensor([2, 0, 1, -1])), (trials[1], torch.tensor([0, 2, 2, -1]))])
    assert [(figure.column, figure.right, figure.n) for figure in found] == [
        ("worst case 0.1", 1, 4),
        ("worst case 0.2", 0, 4),
    ]


def test_grey_steps_and_radii_share_a_worst_case() -> None:
    (pgd,) = trials("pgd-20:eps=8/255:0.2", (), (), None, "linf")
    (grey,) = trials("level-linf:eps=8:51", (), (), None, "linf")
    (pixels,) = trials("level-l0:eps=8:51", (), (), None, "linf")
    broken = [(pgd, torch.tensor([2, 0, 1, -1])), (grey, torch.tensor([0, 2, 2, -1])), (pixels, torch.tensor([0] * 4))]
    found = worst_cases(broken)
    assert [(f.column, f.eps, f.right) for f in found] == [("worst case 8/255", 8 / 255, 1), ("worst case 0.2", 0.2, 0)]


def test_other_weights_are_another_network(retrained: Path, tmp_path: Path) -> None:
    one, other = network(retrained), network(retrained)
    assert identity(one) == identity(other)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    assert identity(one) != identity(other)
    assert len(Store(tmp_path).get("nothing").level) == 0


def test_help_names_every_attack_and_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main(["--help"]) == 0
    told = capsys.readouterr().out.partition("attacks by name")[2]
    assert all(f"\n  {name} " in told for name in [*KINDS, *SETS])
    assert "fgsm:eps=8/255, pgd-20:step=2/255:eps=8/255" in " ".join(told.split())

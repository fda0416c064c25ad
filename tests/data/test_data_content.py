"""What was read is part of what was measured: digests of images in caches, records and checkpoints."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import chz
import numpy as np
import pytest
import torch
from PIL import Image
from places import DATA

from evo_robust import (
    NSGA2,
    AdversarialSet,
    CleanError,
    FromScratch,
    NSGAPhases,
    Params,
    Problem,
    RobNet,
    Standard,
    SupernetTraining,
    plot,
    search,
)
from evo_robust.data import base
from evo_robust.data.base import DataSet
from evo_robust.data.images import Augment, Images
from evo_robust.data.sets import CIFAR10, MNIST, SVHN, Digits, TinyImageNet
from evo_robust.evaluators.pool import PoolSession
from evo_robust.files import read_tensors, write_tensors
from evo_robust.final_training.settings import Retraining
from evo_robust.final_training.work import retrain
from evo_robust.parts.base import UserError, digest
from evo_robust.progress import Silent
from evo_robust.record.reading import Run, load_run
from evo_robust.record.rebuild import rebuild
from evo_robust.training.loop import train

SET = AdversarialSet(victims=("lenet",))
SUPERNET = SupernetTraining(epochs=1)


@chz.chz
class Noise(DataSet):
    """Somebody's own data set: an array of noise in a file."""

    n_classes = 2
    in_shape = (1, 8, 8)
    default_augment = Augment(crop_padding=0)

    def _read(self, root: Path) -> tuple[Images, Images]:
        x = torch.from_numpy(np.load(root / "images.npy"))
        y = torch.arange(len(x)) % 2
        return Images(x[:-10], y[:-10]), Images(x[-10:], y[-10:])


def noise(folder: Path, seed: int) -> Noise:
    folder.mkdir(exist_ok=True)
    np.save(folder / "images.npy", np.random.default_rng(seed).integers(0, 256, (50, 1, 8, 8), dtype=np.uint8))
    return Noise(root=str(folder))


def pictures(folder: Path, grey: int, classes: tuple[str, ...] = ("ant", "bee")) -> TinyImageNet:
    for part in ("train", "val"):
        for label, name in enumerate(classes):
            for k in range(8):
                path = folder / part / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (grey + k, 100 * label, 0)).save(path)
    return TinyImageNet(root=str(folder), size=8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def problem(data: DataSet, n_gen: int = 1) -> Problem:
    return Problem(
        space=NSGAPhases(phases=1, nodes=3, channels=2),
        data=data,
        objectives=(CleanError(), Params()),
        evaluator=FromScratch(epochs=1, recipe=Standard(lr=0.1, batch_size=16)),
        algorithm=NSGA2(pop_size=2, n_gen=n_gen),
    )


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def searched(data: DataSet, folder: Path, n_gen: int = 1) -> tuple[Run, list[str]]:
    told = Lines()
    return search(problem(data, n_gen), folder, device="cpu", workers=1, reporter=told), told.lines


# --- digests and names


@pytest.mark.parametrize("make", [noise, pictures])
def test_the_same_images_elsewhere_are_the_same_data_and_others_are_not(make, tmp_path: Path) -> None:
    one, other = make(tmp_path / "one", 1), make(tmp_path / "other", 2)
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    moved = chz.replace(one, root=str(tmp_path / "moved"))
    assert one.digest() == moved.digest() != other.digest() and len(one.digest()) == 16
    assert SET.folder(one, tmp_path) == SET.folder(moved, tmp_path) != SET.folder(other, tmp_path)
    space = RobNet(channels=4, layers=3)
    folders = [SUPERNET.folder(space, data, tmp_path, "cpu") for data in (one, moved, other)]
    assert folders[0] == folders[1] != folders[2]
    sessions = [problem(data).start("cpu", 1) for data in (one, moved, other)]
    prints = [session.fingerprint for session in sessions]
    assert prints[0] == prints[1] != prints[2]


def test_names_of_classes_are_part_of_the_data(tmp_path: Path) -> None:
    one, other = pictures(tmp_path / "a", 5), pictures(tmp_path / "b", 5, ("ant", "cow"))
    assert torch.equal(one.load().train.x, other.load().train.x) and one.digest() != other.digest()


@pytest.mark.parametrize("make", [noise, pictures])
def test_files_that_are_replaced_in_place_are_read_anew(make, tmp_path: Path) -> None:
    data = make(tmp_path / "one", 1)
    before, place, first = data.digest(), data.on("cpu"), SET.folder(data, tmp_path)
    assert data.on("cpu") is place, "once per process while nothing changes"
    pinned = data.pinned()
    make(tmp_path / "one", 2)
    assert pinned.on("cpu") is place, "a search under way keeps what it was begun with"
    assert data.digest() != before and data.on("cpu") is not place and SET.folder(data, tmp_path) != first
    with pytest.raises(UserError, match=rf"not the expected ones .*expected {before}"):
        pinned.load()


def test_a_search_without_a_record_keeps_its_images_too(tmp_path: Path) -> None:
    data = noise(tmp_path / "one", 1)
    session = problem(data).start("cpu", 1)
    assert isinstance(session, PoolSession)
    assert session.job.context.data == data.pinned() != data
    assert problem(Digits()).to_pymoo(device="cpu", workers=1).session.job.context.data == Digits()  # type: ignore[attr-defined]


def test_another_root_from_the_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(tmp_path / "one", 1), noise(tmp_path / "other", 2)
    found = []
    for name in ("one", "other"):
        monkeypatch.setenv("EVO_ROBUST_DATA", str(tmp_path / name))
        found.append((Noise().digest(), Noise().on("cpu").train.x))
    assert found[0][0] != found[1][0] and not torch.equal(found[0][1], found[1][1])


def test_digits_and_published_files_have_the_names_they_had(tmp_path: Path) -> None:
    assert Digits().digest() == "" and Digits().pinned() == Digits()
    assert SET.folder(Digits(), tmp_path).name == digest(1, SET, Digits())
    if (DATA / "cifar-10-batches-py").is_dir():
        data = CIFAR10(root=str(DATA), train_limit=100, test_limit=100)
        assert data.key() == () and SET.folder(data, tmp_path).name == digest(1, SET, data)


@pytest.mark.skipif(not (DATA / "MNIST").is_dir(), reason=f"no MNIST in {DATA}")
def test_files_that_are_not_mnists_do_not_pass_for_it(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (DATA / "MNIST" / "raw").glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    plain = MNIST(root=str(tmp_path), download=False)
    assert MNIST(root=str(DATA)).digest() == plain.digest() == ""
    labels = raw / "train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[-1] = 9 - content[-1]
    labels.write_bytes(bytes(content))
    assert len(plain.digest()) == 16


def test_somebodys_own_kind_of_a_published_set_has_a_digest_of_its_own(tmp_path: Path) -> None:
    @chz.chz
    class Harder(SVHN):
        in_shape = (1, 8, 8)
        n_classes = 2

        def _read(self, root: Path) -> tuple[Images, Images]:
            return Noise._read(self, root)  # type: ignore[arg-type]

    noise(tmp_path, 1)
    assert len(Harder(root=str(tmp_path)).digest()) == 16


# --- records


@pytest.mark.parametrize("make", [noise, pictures])
def test_a_search_goes_on_with_its_images_alone(make, tmp_path: Path) -> None:
    one, other = make(tmp_path / "one", 1), make(tmp_path / "other", 2)
    first, told = searched(one, tmp_path / "run")
    assert not [line for line in told if line.startswith("warning")]
    assert json.loads((tmp_path / "run" / "problem.json").read_text())["identity"]["data.content"] == one.digest()
    files = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r"was searched on images other than the present ones"):
        searched(other, tmp_path / "run", 2)
    assert {path: path.read_bytes() for path in files} == files, "nothing was changed"
    shutil.move(tmp_path / "one", tmp_path / "moved")
    again, _ = searched(chz.replace(one, root=str(tmp_path / "moved")), tmp_path / "run", 2)
    assert again.evaluations[:2] == first.evaluations and len(again.evaluations) > 2
    assert len({row["fingerprint"] for row in again.evaluations}) == 1


def test_weights_are_not_made_again_from_other_images(tmp_path: Path) -> None:
    run, _ = searched(noise(tmp_path / "one", 1), tmp_path / "run")
    model, _ = rebuild(run, run.evaluations[0], "cpu")
    assert sum(1 for _ in model.parameters())
    noise(tmp_path / "one", 2)
    base._load.cache_clear()  # as another process
    with pytest.raises(UserError, match="not the expected ones"):
        rebuild(load_run(tmp_path / "run"), run.evaluations[0], "cpu")


@pytest.mark.parametrize("make", [noise, pictures])
def test_a_record_of_before_goes_on_after_one_line(make, tmp_path: Path) -> None:
    data = make(tmp_path / "one", 1)
    first, _ = searched(data, tmp_path / "run")
    # as it was written while nothing told of images
    session = problem(data).start("cpu", 1)
    assert isinstance(session, PoolSession)
    job = session.job
    parts = (job.evaluator.version, job.evaluator, job.context.space, data, list(job.objectives), [], [], ["", ""])
    before = digest(*parts, 0, "cpu")
    path = tmp_path / "run" / "problem.json"
    info = json.loads(path.read_text())
    del info["identity"]["data.content"], info["values"]["data.content"]
    path.write_text(json.dumps(info))
    ledger = tmp_path / "run" / "evaluations.jsonl"
    ledger.write_text(ledger.read_text().replace(first.evaluations[0]["fingerprint"], before))

    read = load_run(tmp_path / "run")
    assert [row["fingerprint"] for row in read.evaluations] == [before] * 2
    told = Lines()
    assert rebuild(read, read.evaluations[0], "cpu", told.say)
    assert len([line for line in told.lines if "cannot be verified" in line]) == 1
    for n_gen in (2, 3):
        again, lines = searched(data, tmp_path / "run", n_gen)
        assert len([line for line in lines if "before images were checked" in line]) == 1
        assert {row["fingerprint"] for row in again.evaluations} == {before}
        assert len(again.evaluations) > 2


def test_a_retraining_goes_on_with_its_images_alone(tmp_path: Path) -> None:
    settings = Retraining(network="lenet", data=noise(tmp_path / "one", 1), recipe=Standard(batch_size=16), epochs=1)
    retrain(settings, tmp_path / "out", device="cpu")
    other = chz.replace(settings, data=noise(tmp_path / "other", 2))
    with pytest.raises(UserError, match=r"holds another retraining: data.content: \w+ → \w+"):
        retrain(other, tmp_path / "out", device="cpu")
    path = tmp_path / "out" / "retrain.json"
    info = json.loads(path.read_text())
    del info["identity"]["data.content"]
    path.write_text(json.dumps(info))
    told: list[str] = []
    retrain(settings, tmp_path / "out", device="cpu", say=told.append)
    assert len([line for line in told if "cannot be verified" in line]) == 1


# --- checkpoints


def test_a_training_goes_on_with_its_images_alone(tmp_path: Path) -> None:
    images = Digits(train_limit=50).load().train
    others = Images(images.x.flip(0), images.y.flip(0))
    file = tmp_path / "checkpoint.safetensors"

    def net() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    recipe = Standard(lr=0.1, batch_size=25)
    train(net(), images, recipe, 3, seed=0, checkpoint=file, until=1)
    with pytest.raises(UserError, match="belongs to another training .*images differ"):
        train(net(), others, recipe, 3, seed=0, checkpoint=file)
    assert len(train(net(), images, recipe, 3, seed=0, checkpoint=file, until=2)) == 2

    tensors, info = read_tensors(file)
    del info["images"]  # as checkpoints were
    write_tensors(file, tensors, info)
    assert len(train(net(), images, recipe, 3, seed=0, checkpoint=file)) == 3


def test_runs_on_other_images_are_no_repetitions_and_compare_with_care(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("x-0", "x-1")):
        searched(noise(tmp_path / name, number), tmp_path / "runs" / name)
    assert plot.main([f"run={tmp_path}/runs/x-0,{tmp_path}/runs/x-1", f"out={tmp_path}/plots"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "not measured alike, so that figures compare with care: data.content: " in shown
    assert not (tmp_path / "plots" / "compare_groups.csv").exists(), "two searches, not one with two seeds"

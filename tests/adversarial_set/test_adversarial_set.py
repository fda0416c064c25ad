"""The adversarial set: where its images come from, that it is made once, and that nothing but settings changes it."""

from __future__ import annotations

import csv
import json
import multiprocessing
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import chz
import pytest
import torch

from evo_robust import zoo
from evo_robust.adversarial_set import making as adversarial_set
from evo_robust.adversarial_set.making import AdversarialSet, load
from evo_robust.adversarial_set.samples import AdversarialImages, Row, Samples
from evo_robust.attacks.level.attack import CMAES, DE
from evo_robust.data.images import Images
from evo_robust.data.sets import Digits
from evo_robust.files import read_tensors
from evo_robust.inference.predictions import predictions
from evo_robust.objectives.base import Candidate, Context
from evo_robust.objectives.transfer import TransferError
from evo_robust.parts.base import UserError
from evo_robust.spaces.nsga.space import NSGAPhases
from evo_robust.training.recipes import Standard

DATA = Digits()
TINY = AdversarialSet(
    victims=("lenet", "resnet"),
    width=0.25,
    epochs=4,
    recipe=Standard(lr=0.1, batch_size=64),
    l0_levels=(1, 5),
    linf_levels=(48,),
    optimiser=CMAES(max_iter=15),
    sources=16,
)


class Lines(list[str]):
    """Takes progress text."""

    __call__ = list.append

    def about(self, text: str) -> list[str]:
        return [line for line in self if text in line]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AdversarialImages, Lines]:
    """A cache with the tiny set in it, built by one process, and what was said."""
    cache = tmp_path_factory.mktemp("cache")
    lines = Lines()
    images = TINY.build_or_load(DATA, cache, say=lines)
    return cache, images, lines


@pytest.fixture
def copy(built: tuple[Path, AdversarialImages, Lines], tmp_path: Path) -> Path:
    """A cache of one's own with the set in it."""
    return Path(shutil.copytree(built[0], tmp_path / "cache"))


def victim(folder: Path, name: str) -> torch.nn.Module:
    model = zoo.build(name, 10, DATA.in_shape, width=TINY.width)
    model.load_state_dict(read_tensors(folder / f"victim-{name}.safetensors")[0])
    return model.eval()


def same(a: Samples, b: Samples) -> bool:
    tensors = ((s.images.x, s.images.y, s.row, s.source) for s in (a, b))
    return a.rows == b.rows and all(torch.equal(p, q) for p, q in zip(*tensors, strict=True))


def equal(a: AdversarialImages, b: AdversarialImages) -> bool:
    return same(a.search_samples, b.search_samples) and same(a.judge_samples, b.judge_samples)


@pytest.mark.parametrize("split", ["search", "judge"])
def test_samples_are_what_they_claim(built: tuple[Path, AdversarialImages, Lines], split: str) -> None:
    cache, images, _ = built
    samples = getattr(images, f"{split}_samples")
    splits = DATA.load()
    sources = splits.val if split == "search" else splits.test
    originals = sources.take(samples.source)
    assert int(samples.source.max()) < TINY.sources
    assert torch.equal(samples.images.y, originals.y)
    changed = (samples.images.x.int() - originals.x.int()).abs()
    for index, row in enumerate(samples.rows):
        mask = samples.row == index
        assert int(mask.sum()) == row.successes <= row.attacked <= TINY.sources
        distance = (
            changed[mask].amax(1).flatten(1).gt(0).sum(1) if row.norm == "l0" else changed[mask].flatten(1).amax(1)
        )
        assert bool((distance <= row.level).all()) and bool((distance > 0).all())
        model = victim(TINY.folder(DATA, cache), row.victim)
        attacked = sources.take(slice(TINY.sources))
        right = predictions(model, attacked) == attacked.y
        assert int(right.sum()) == row.attacked
        # only sources that the victim knows were attacked, and it is fooled by every sample
        assert bool(right[samples.source[mask]].all())
        if row.successes:
            assert not bool((predictions(model, samples.images.take(mask)) == originals.y[mask]).any())


def test_search_and_judge_come_from_different_images(built: tuple[Path, AdversarialImages, Lines]) -> None:
    splits = DATA.load()
    known = {bytes(x.numpy().tobytes()) for x in splits.test.x}
    assert not any(x.numpy().tobytes() in known for x in splits.val.x[: TINY.sources])
    assert not same(built[1].search_samples, built[1].judge_samples)


def test_parts_in_declared_order(built: tuple[Path, AdversarialImages, Lines]) -> None:
    for samples in (built[1].search_samples, built[1].judge_samples):
        assert [(row.victim, row.norm, row.level) for row in samples.rows] == [
            (v, n, level) for v in ("lenet", "resnet") for n, level in (("l0", 1), ("l0", 5), ("linf", 48))
        ]
        assert bool((samples.row.diff() >= 0).all())
        assert len(samples) == sum(row.successes for row in samples.rows) > 10


def test_progress_and_warning(built: tuple[Path, AdversarialImages, Lines]) -> None:
    lines = built[2]
    assert lines.about("building the adversarial set of digits")
    assert lines.about("victim lenet: trained")
    assert lines.about("12 of 12 attacks (100%), 0 s left")
    assert lines.about("warning: the adversarial set has only")


def test_table(built: tuple[Path, AdversarialImages, Lines]) -> None:
    cache, images, _ = built
    with (TINY.folder(DATA, cache) / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for split, samples in (("search", images.search_samples), ("judge", images.judge_samples)):
        mine = [row for row in rows if row["set"] == split]
        assert sum(int(row["successes"]) for row in mine) == len(samples)
        assert all(float(row["rate"]) == round(int(row["successes"]) / int(row["attacked"]), 4) for row in mine)
    text = images.text()
    total = sum(row.attacked for row in images.search_samples.rows)
    assert str(total) in text and f"{100 * len(images.search) / total:.1f}%" in text
    assert max(map(len, text.splitlines())) <= 120


def test_settings_file_says_what_it_is(built: tuple[Path, AdversarialImages, Lines]) -> None:
    info = json.loads((TINY.folder(DATA, built[0]) / "settings.json").read_text())
    assert info["set"]["sources"] == 16 and info["set"]["optimiser"] == "CMAES"
    assert info["data"]["class"] == "digits" and "root" not in info["data"]


def test_reused_without_building(copy: Path, built: tuple[Path, AdversarialImages, Lines], monkeypatch: Any) -> None:
    monkeypatch.setattr(adversarial_set, "_build", lambda *_: pytest.fail("built again"))
    lines = Lines()
    assert equal(TINY.build_or_load(DATA, copy, say=lines), built[1])
    assert not lines.about("building")


def test_another_folder_or_download_setting_is_the_same_set() -> None:
    moved = Digits(root="elsewhere", download=False)
    assert TINY.folder(moved, Path()) == TINY.folder(DATA, Path())


@pytest.mark.parametrize(
    "change",
    [
        {"victims": ("lenet",)},
        {"width": 0.5},
        {"epochs": 5},
        {"recipe": Standard(lr=0.05, batch_size=64)},
        {"norms": ("l0",)},
        {"l0_levels": (1, 3)},
        {"linf_levels": (32,)},
        {"optimiser": CMAES(max_iter=16)},
        {"optimiser": DE(max_iter=15)},
        {"sources": 17},
        {"seed": 1},
    ],
)
def test_key_depends_on_every_setting(change: dict[str, Any]) -> None:
    assert chz.replace(TINY, **change).folder(DATA, Path()) != TINY.folder(DATA, Path())


def test_key_depends_on_the_split() -> None:
    for data in (Digits(split_seed=1), Digits(val_share=0.3), Digits(train_limit=500), Digits(test_limit=50)):
        assert TINY.folder(data, Path()) != TINY.folder(DATA, Path())


def test_killed_and_resumed_is_the_same(built: tuple[Path, AdversarialImages, Lines], tmp_path: Path) -> None:
    folder = TINY.folder(DATA, tmp_path)
    process = multiprocessing.get_context("spawn").Process(target=TINY.build_or_load, args=(DATA, tmp_path))
    process.start()
    deadline = time.monotonic() + 60
    while len(list(folder.glob("parts/*.safetensors"))) < 3:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "settings.json").exists()
    leftover = folder / "parts" / ".search-resnet-l0-5.safetensors.12345"
    leftover.write_bytes(b"half")
    finished = {file: file.stat().st_mtime_ns for file in folder.glob("parts/*.safetensors")}
    lines = Lines()
    # the dead process held the lock
    assert equal(TINY.build_or_load(DATA, tmp_path, say=lines), built[1])
    assert all(file.stat().st_mtime_ns == then for file, then in finished.items())
    assert lines.about(f"{len(finished)} of 12 attacks are done already") and lines.about("trained already")
    assert not leftover.exists()


def test_killed_while_training_goes_on_from_the_checkpoint(
    built: tuple[Path, AdversarialImages, Lines], copy: Path, monkeypatch: Any
) -> None:
    folder = TINY.folder(DATA, copy)
    for file in (*folder.glob("*.*"), *folder.glob("parts/*resnet*")):
        file.unlink()
    train, epochs = adversarial_set.train, []

    class Killed(BaseException):
        pass

    def interrupted(*arguments: Any, **keywords: Any) -> None:
        def on_epoch(log: Any) -> None:
            epochs.append(log.epoch)
            if len(epochs) == 2:
                raise Killed

        train(*arguments, **keywords, on_epoch=on_epoch)

    monkeypatch.setattr(adversarial_set, "train", interrupted)
    with pytest.raises(Killed):
        TINY.build_or_load(DATA, copy)
    assert equal(TINY.build_or_load(DATA, copy), built[1])
    assert epochs == [1, 2, 3, 4, 1, 2, 3, 4]
    assert not list(folder.glob("*.checkpoint"))


def test_two_workers_make_the_same(built: tuple[Path, AdversarialImages, Lines], tmp_path: Path) -> None:
    assert equal(TINY.build_or_load(DATA, tmp_path, workers=2), built[1])


def test_second_process_waits_for_the_first(copy: Path, built: tuple[Path, AdversarialImages, Lines]) -> None:
    import filelock

    folder = TINY.folder(DATA, copy)
    (folder / "settings.json").rename(folder / "kept")
    first = filelock.FileLock(folder / ".lock")
    first.acquire()
    lines = Lines()

    def say(line: str) -> None:
        lines.append(line)
        if "waiting" in line:
            # the first process finishes
            (folder / "kept").rename(folder / "settings.json")
            first.release()

    assert equal(TINY.build_or_load(DATA, copy, say=say), built[1])
    assert lines.about("another process builds the set") and not lines.about("building")


@pytest.mark.parametrize("damage", ["flipped", "cut", "text"])
def test_damaged_file_is_named(copy: Path, damage: str) -> None:
    path = TINY.folder(DATA, copy) / "search.safetensors"
    content = path.read_bytes()
    broken = {
        "flipped": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "cut": content[:-100],
        "text": b"hello",
    }
    path.write_bytes(broken[damage])
    with pytest.raises(UserError, match=r"search\.safetensors is damaged .* delete it"):
        TINY.build_or_load(DATA, copy)


def test_deleting_the_damaged_file_mends_it(copy: Path, built: tuple[Path, AdversarialImages, Lines]) -> None:
    folder = TINY.folder(DATA, copy)
    (folder / "search.safetensors").unlink()
    lines = Lines()
    assert equal(TINY.build_or_load(DATA, copy, say=lines), built[1])
    assert lines.about("trained already") and not lines.about("s left")


def test_nobody_fooled(tmp_path: Path) -> None:
    settings = chz.replace(
        TINY, victims=("resnet",), norms=("linf",), linf_levels=(1,), optimiser=CMAES(max_iter=1), sources=8
    )
    with pytest.raises(UserError, match=r"no attack on the victims succeeded \(linf_levels=\(1,\)\): raise the levels"):
        settings.build_or_load(DATA, tmp_path)
    assert not (settings.folder(DATA, tmp_path) / "settings.json").exists()


def test_no_validation_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no validation images to attack \(data.val_share=0\?\)"):
        TINY.build_or_load(Digits(val_share=0.0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_loading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no complete adversarial set"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"victims": ("lenet", "vgg16")}, "got 'vgg16': did you mean 'vgg-16'"),
        ({"victims": ()}, "at least one of victims"),
        ({"victims": ("lenet", "lenet")}, "each once"),
        ({"norms": ("l2",)}, "norms to be a tuple, each of it 'l0' or 'linf'"),
        ({"norms": ()}, "at least one of norms"),
        ({"l0_levels": (0, 1)}, "expected l0_levels >= 1"),
        ({"linf_levels": (1, 256)}, "<= 255"),
        ({"linf_levels": ()}, "at least one of linf_levels"),
        ({"width": 0.0}, "expected width > 0"),
        ({"epochs": 0}, "expected epochs >= 1"),
        ({"sources": 0}, "expected sources >= 1"),
        ({"seed": -1}, "expected seed >= 0"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialSet(**change)


def test_the_papers_settings_are_the_default() -> None:
    settings = AdversarialSet()
    assert settings.victims == ("lenet", "densenet", "resnet", "vgg-16")
    assert settings.levels("l0") == settings.levels("linf") == (1, 3, 5, 10)


def candidate(cache: Path, model: torch.nn.Module) -> Candidate:
    context = Context(space=NSGAPhases(phases=1, nodes=2), data=DATA, seed=0, device="cpu", workers=1, cache=cache)
    return Candidate(context, architecture=(), text="", seed=0, splits=DATA.load(), model=model)


def test_transfer_error_of_the_victims_themselves(copy: Path, built: tuple[Path, AdversarialImages, Lines]) -> None:
    objective = TransferError(adversarial_set=TINY)
    samples = built[1].search_samples
    for name in TINY.victims:
        them = candidate(copy, victim(TINY.folder(DATA, copy), name))
        objective.prepare(them.context)
        error = objective.measure(them)
        figures = them.figures["transfer_error"]
        own = sum(row.successes for row in samples.rows if row.victim == name)
        # every sample made for a network fools it
        assert own / len(samples) <= error <= 1
        assert figures["n"] == len(samples)
        weights = {
            (norm, level): sum(r.successes for r in samples.rows if (r.norm, str(r.level)) == (norm, level))
            for norm in ("l0", "linf")
            for level in figures[norm]
        }
        total = sum(figures[norm][level] * n for (norm, level), n in weights.items())
        assert total / len(samples) == pytest.approx(error)


def test_transfer_error_reads_the_search_set_alone(copy: Path) -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    me = candidate(copy, Constant())
    error = TransferError(adversarial_set=TINY).measure(me)
    samples = load(TINY.folder(DATA, copy)).search_samples
    assert error == pytest.approx((samples.images.y != 3).double().mean().item())


def test_transfer_error_before_the_set_is_built(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no complete adversarial set"):
        TransferError(adversarial_set=TINY).measure(candidate(tmp_path, torch.nn.Identity()))


def test_rates_leave_empty_groups_out() -> None:
    rows = (Row("a", "l0", 1, 4, 2, 9), Row("b", "l0", 1, 4, 1, 9), Row("a", "linf", 3, 4, 0, 9))
    images = Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    samples = Samples(images, rows, torch.tensor([0, 0, 1]), torch.arange(3))
    assert samples.rates(torch.tensor([True, False, True])) == {"l0": {"1": pytest.approx(2 / 3)}}

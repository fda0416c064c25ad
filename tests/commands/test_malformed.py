"""Hundreds of commands and files that nobody can mean: each is one clear message, and nothing is written."""

from __future__ import annotations

import collections
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from malformed import commands
from spoiled import COMMANDS, damages

from evo_robust import analyze, export, plot, retrain, run
from evo_robust.final_training import work
from evo_robust.final_training.settings import load_result
from evo_robust.networks.genotype import load_genotype
from evo_robust.record.reading import load_run

BOM = b"\xef\xbb\xbf"
MAINS = {"run": run.main, "plot": plot.main, "export": export.main, "analyze": analyze.main, "retrain": retrain.main}
HERE = ("workers=1", "device=cpu", "plot=false")
SMALL = ("problem=roco_baseline", *HERE, "space.phases=1", "space.nodes=3", "space.channels=4", "evaluator.epochs=1",
         "data.train_limit=100", "algorithm.pop_size=2", "algorithm.n_gen=1")  # fmt: skip
SEARCH = (*SMALL, "recorded=", "out=new")
SET = "recorded.0.adversarial_set"
WITH_SET = (*SMALL, f"{SET}.victims=lenet,resnet", f"{SET}.epochs=4", f"{SET}.sources=16", f"{SET}.norms=linf",
            f"{SET}.linf_levels=64", f"{SET}.optimiser.max_iter=15")  # fmt: skip
TRAINING = ("recipe=standard", "epochs=1", "decoder=search", "device=cpu", "eps=0.1", "attack.steps=1",
            "data.train_limit=100", "train_on=train")  # fmt: skip


def _interrupted(seconds: float) -> str:
    raise KeyboardInterrupt  # as Ctrl-C does; a signal itself is ignored by what runs in the background


class Place:
    """A folder with what commands read: runs, a genotype, retrainings and the cache that they use."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.words = {name: str(root / name) for name in ("run", "other", "retrained", "begun", "folder", "nowhere")}
        self.words |= {"genotype": str(root / "genotype.json"), "file": str(root / "file")}

    def make(self) -> None:
        """Make all of it by real commands, as small as they can be."""
        (self.root / "folder").mkdir()
        (self.root / "folder" / "thesis.tex").write_text("mine")
        (self.root / "file").write_text("mine")
        assert run.main(filled((f"out={self.words['run']}",), WITH_SET)) == 0
        assert run.main([*SMALL, "recorded=", "seed=1", f"out={self.words['other']}"]) == 0
        assert export.main([f"run={self.words['run']}", "weights=false", f"out={self.root / 'exported'}"]) == 0
        shutil.move(self.root / "exported" / "genotype.json", self.root / "genotype.json")
        (self.root / "exported").rmdir()
        assert retrain.main(self.retraining("retrained")) == 0
        begun = self.retraining("begun", "epochs=2")
        with pytest.MonkeyPatch.context() as patch:  # killed after its first epoch
            patch.setattr(work, "duration", _interrupted)
            assert retrain.main(begun) == 130
        assert (self.root / "begun" / "checkpoint.safetensors").is_file()

    def retraining(self, folder: str, *more: str) -> list[str]:
        return filled((f"genotype={self.words['genotype']}", *more, f"out={self.words[folder]}"), TRAINING)

    def restore(self, tree: Mapping[str, bytes | None]) -> None:
        """Make it again what ``tree`` was, so that one fault does not hide the next ones."""
        shutil.rmtree(self.root / "runs", ignore_errors=True)
        shutil.rmtree(self.root / "new", ignore_errors=True)
        for name, content in tree.items():
            if content is not None and not (self.root / name).is_dir():
                (self.root / name).write_bytes(content)

    def tree(self) -> dict[str, bytes | None]:
        """Every file and folder, with its content."""
        return {
            str(path.relative_to(self.root)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.root.rglob("*"))
        }


def filled(arguments: Sequence[str], base: Sequence[str]) -> list[str]:
    """The arguments, and those of ``base`` whose keys they do not have, nor the part that has such a key."""
    given = tuple(argument.partition("=")[0] for argument in arguments)
    below = tuple(f"{key}." for key in given if key)
    kept = [text for text in base if text.partition("=")[0] not in given and not text.startswith(below)]
    return [*arguments, *kept]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("malformed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVO_ROBUST_CACHE", str(place.root / "cache"))
        patch.chdir(place.root)
        place.make()
        yield place


def fault_of(
    name: str, arguments: Sequence[str], said: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> str | None:
    """What is wrong with how a command answers; None where it is as it should be. The place is left as it was."""
    before = place.tree()
    capsys.readouterr()
    try:
        status = MAINS[name](list(arguments))
    except BaseException as error:  # whatever it is, it is what this test looks for
        return f"{type(error).__name__}: {error}"[:300]
    err, after = capsys.readouterr().err, place.tree()
    if after != before:
        place.restore(before)
        return (
            f"status {status}, and it changed {[k for k in {**before, **after} if after.get(k, 0) != before.get(k, 0)]}"
        )
    if status != 2:
        return f"status {status}"
    lines = err.splitlines()
    if not err.startswith("error: ") or sum(line.startswith("error: ") for line in lines) != 1 or len(lines) > 8:
        return f"not one message: {err[:300]}"
    return None if said in err and "Traceback" not in err else f"does not say {said!r}: {err[:300]}"


def test_there_are_hundreds_of_each_and_none_twice() -> None:
    assert len(commands()) >= 300 and len({case[:2] for case in commands()}) == len(commands())
    assert len(damages()) >= 100 and len({(case.file, case.what, case.command) for case in damages()}) == len(damages())
    assert collections.Counter(case.name for case in commands()).keys() == MAINS.keys()


def test_malformed_commands(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {}
    for case in commands():
        arguments = [_filled_in(argument, place) for argument in case.arguments]
        base = {"run": SEARCH, "retrain": (*TRAINING, "out=new")}.get(case.name, ("out=new",))
        if any(argument.startswith("problem=") for argument in arguments):
            base = (*HERE, "out=new")
        if any(argument.startswith("network=") for argument in arguments):
            base = tuple(text for text in base if not text.startswith("decoder="))
        found = fault_of(case.name, filled(arguments, base), case.said, place, capsys)
        if found:
            wrong[" ".join((case.name, *case.arguments))[:100]] = found
    assert not wrong, "\n".join(f"{key}\n    {value}" for key, value in wrong.items())


def _filled_in(argument: str, place: Place) -> str:
    for word, path in place.words.items():
        argument = argument.replace(f"{{{word}}}", path)
    return argument


def test_damaged_files(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {}
    for damage in damages():
        (path,) = place.root.glob(damage.file)
        content = path.read_bytes()
        damage.spoil(path)
        name, arguments = COMMANDS[damage.command]
        base = {"run": WITH_SET, "retrain": TRAINING}.get(name, ())
        found = fault_of(
            name, filled([_filled_in(text, place) for text in arguments], base), damage.said, place, capsys
        )
        if found:
            wrong[f"{damage.command}: {damage.file}, {damage.what}"] = found
        if path.is_dir():
            path.rmdir()
        path.write_bytes(content)
    assert not wrong, "\n".join(f"{key}\n    {value}" for key, value in wrong.items())


def test_a_byte_order_mark_is_no_damage(place: Place, tmp_path: Path) -> None:
    for name in ("run", "retrained"):
        shutil.copytree(place.root / name, tmp_path / name)
    for path in (*tmp_path.rglob("*.json"), *tmp_path.rglob("*.jsonl")):
        path.write_bytes(BOM + path.read_bytes())
    assert load_run(tmp_path / "run").evaluations == load_run(place.root / "run").evaluations
    assert load_genotype(tmp_path / "retrained") == load_genotype(place.root / "retrained")
    assert load_result(tmp_path / "retrained") == load_result(place.root / "retrained")

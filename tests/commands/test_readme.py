"""What the README and the guides show works as written: every command and every example is run, made small."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import re
import runpy
import shlex
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from places import ROOT

import evo_robust
from evo_robust import zoo
from evo_robust.parts.base import UserError
from evo_robust.parts.making import split
from evo_robust.problem.files import load
from evo_robust.record.reading import load_run

TEXTS = [name for name in ("README.md", "docs/tour.md", "docs/extending.md") if (ROOT / name).is_file()]
LINKED = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

# never run here, and why
EXEMPT = {
    "git clone": "fetches the repository that this test is part of",
    "cd": "enters it",
    "make run": "makes an environment, then runs a command that the README shows by itself",
    "make test": "runs this test",
    ". .venv/bin/activate": "changes the shell that it is typed in",
}

_SET = {"victims": "lenet", "epochs": "20", "norms": "linf", "linf_levels": "64", "sources": "30"}
_ROCO = {"data.train_limit": "200", "evaluator.epochs": "1", "algorithm.pop_size": "4", "algorithm.n_gen": "2"}
_TRANSFER = _ROCO | {f"objectives.1.adversarial_set.{key}": value for key, value in _SET.items()}
_SHARED = {
    "data.train_limit": "60",
    "space.channels": "2",
    "space.layers": "2",
    "evaluator.supernet.epochs": "1",
    "evaluator.recalibration_batches": "1",
    "algorithm.n_gen": "1",
}
_ROBNET = _SHARED | {
    "objectives.0.attack.steps": "2",
    "objectives.0.limit": "20",
    "evaluator.supernet.recipe": "FastTraining",
    "evaluator.recipe": "FastTraining",
    "algorithm.pop_size": "3",
}
_DARTS = _SHARED | {
    "space.nodes": "2",
    "evaluator.warmup": "0",
    "evaluator.epochs": "1",
    "algorithm.pop_size": "3",
}
_RACL = _DARTS | {"recorded.0.attack.steps": "1", "recorded.0.limit": "20"}
_WSR = _DARTS | {"objectives.0.attack.steps": "1", "objectives.0.limit": "20", "algorithm.gradient.losses.passes": "5"}
_GATE = {"constraints.0.sample": "2", "constraints.0.of.limit": "50", "constraints.0.of.attack.steps": "1"}
_MINE = _ROCO | {"evaluator.recipe": "FastTraining", "algorithm.n_gen": "1"}
_RETRAIN = {"epochs": "1", "eps": "0.1", "data.train_limit": "200", "device": "cpu"}
_JUDGE = {"images": "40", "attacks": "pgd-1", "signs": "no", "device": "cpu"}

# problems of docs/extending.md
OWN = ("widths", "noisy", "corners", "smooth", "stripes", "half", "doubt", "sms")

# what makes a command small: the first line of which all words stand in the command; a command without a line fails
SMALL: dict[str, dict[str, str]] = {
    "run problem=roco scale=paper": _TRANSFER
    | {"data": "Digits", "space.phases": "2", "space.channels": "4"}
    | {"objectives.1.adversarial_set.recipe.lr": "0.1", "objectives.1.adversarial_set.recipe.batch_size": "64"},
    "run problem=roco scale=summed": _ROCO
    | {f"objectives.0.of.1.adversarial_set.{key}": value for key, value in _SET.items()}
    | {f"recorded.1.adversarial_set.{key}": value for key, value in _SET.items()},
    "run problem=roco objectives=CleanError,RobustError,Flops": _ROCO | {"objectives.1.attack.steps": "2"},
    "run problem=roco": _TRANSFER,
    "run problem=roco_baseline": _ROCO | {f"recorded.0.adversarial_set.{key}": value for key, value in _SET.items()},
    "run problem=robnet scale=scratch": {k: v for k, v in _ROBNET.items() if not k.startswith("evaluator.")}
    | {"evaluator.epochs": "1", "evaluator.recipe": "FastTraining"},
    "run problem=robnet": _ROBNET,
    "run problem=robnet_free scale=study": _ROBNET | {"recorded.1.limit": "50", "recorded.1.attack.steps": "1"},
    "run problem=robnet_free": _ROBNET | _GATE,
    "run problem=racl algorithm.gradient.confidence=None": _RACL,
    "run problem=racl": _RACL,
    "run problem=wsr scale=shared": {k: v for k, v in _WSR.items() if k not in ("evaluator.warmup", "evaluator.epochs")}
    | {"evaluator.supernet.recipe": "FastTraining"},
    "run problem=wsr": _WSR,
    "run problem=mine algorithm.n_gen=5": _MINE | {"algorithm.n_gen": "2"},
    "run problem=mine": _MINE,
    "retrain network=robnet-small": _RETRAIN
    | {"data": "digits", "data.train_limit": "60", "data.test_limit": "10", "recipe": "standard"},
    "retrain genotype=runs/widths/export/knee/genotype.json": {"epochs": "2", "eps": "0.1", "device": "cpu"},
    "retrain run=runs/roco-demo": _RETRAIN | {"data.train_limit": "60", "space.channels": "4", "pick": "0"},
    "retrain": _RETRAIN,
    **{f"run problem={name}": _ROCO | {"algorithm.pop_size": "3"} for name in OWN},
    "export run=runs/robnet-demo budget=small": {"onnx": "false", "budget": "medium"},
    "export": {"onnx": "false"},
    "judge run=runs/roco-demo pick=front": _JUDGE,
    "judge networks=runs/knee,runs/knee-pgd": _JUDGE,
    "judge networks=runs/roco-trained": _JUDGE,
    "judge": _JUDGE | {"data": "digits"},
    "plot": {},
    "analyze": {},
}

# what makes a script's command small
SMALL_SCRIPT = {"smallest.py": {"at_most": "1.0"}}

# what makes an example in Python small
SMALL_PYTHON = {
    'load("roco")': f'load("roco", "demo", {_TRANSFER!r})',
    'load("mine")': f'load("mine", "demo", {_MINE!r})',
    "workers=2": "workers=1",
    "SMSEMOA(pop_size=8)": "SMSEMOA(pop_size=3)",
    '("n_gen", 3)': '("n_gen", 1)',
}


@dataclasses.dataclass(frozen=True)
class Step:
    """A command or an example in Python, and where it stands."""

    text: str
    line: int
    language: str
    content: str

    def __str__(self) -> str:
        """The first line, for the name of a test."""
        return f"{self.text}:{self.line}: {self.content.splitlines()[0]}"


def fences(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Each fenced block: the number of its first line, its language, its lines."""
    language: str | None = None
    block: list[str] = []
    for number, line in enumerate((ROOT / text).read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            block.append(line)
        elif language is None:
            language, block = line[3:].strip(), []
        else:
            yield number - len(block), language, block
            language = None
    assert language is None, f"{text}: a fenced block has no end"


INLINE = re.compile(
    r"`((?:\$ )?(?:python -m evo_robust|evo_robust (?:run|plot|export|retrain|judge|analyze|list) )[^`]*)`"
)


def steps(text: str) -> list[Step]:
    """All that can be typed, in order: fenced commands and Python, then commands within sentences and tables."""
    found = []
    for first, language, block in fences(text):
        if language == "python":
            found.append(Step(text, first, language, "\n".join(block)))
        elif language in ("bash", "console", "sh", "shell"):
            lines = [line.removeprefix("$ ") for line in block if language != "console" or line.startswith("$ ")]
            joined = "\n".join(lines).replace("\\\n", " ").splitlines()
            commands = (
                " ".join(shlex.split(line, comments=True)) and line.partition(" #")[0].strip() for line in joined
            )
            found += [Step(text, first, "bash", command) for command in commands if command]
    bare = re.sub(r"^```.*?^```", "", (ROOT / text).read_text(encoding="utf-8"), flags=re.M | re.S)
    found += [Step(text, 0, "bash", command) for command in INLINE.findall(bare)]
    unique = {(step.language, step.content): step for step in reversed(found)}
    return sorted(unique.values(), key=found.index)


ALL = [step for text in TEXTS for step in steps(text)]


def exempt(command: str) -> bool:
    """Whether a command is one of those that no test runs."""
    return any(command == name or command.startswith(f"{name} ") for name in EXEMPT)


def small(command: str) -> tuple[str, list[str]]:
    """The module behind a command, and its arguments with those that make it small."""
    words = shlex.split(command)
    if words[:2] == ["python", "-m"]:
        words = words[2:]
    module = {"evo_robust": "evo_robust.__main__"}.get(words[0], words[0])
    name = words[0].partition(".")[2] or (words[1] if len(words) > 1 else "")
    assert module.startswith("evo_robust"), f"neither run here nor exempt: {command}"
    given = words[1:]
    if not given or "--help" in given or name in ("list", "--version"):
        return module, given
    stated = next((more for key, more in SMALL.items() if set(key.split()) <= {name, *given}), None)
    assert stated is not None, f"no line of SMALL says what makes this small: {command}"
    always = {"device": "cpu", "workers": "1", "plot": "false"} if name == "run" else {}
    own = [given[0]] if module.endswith("__main__") else []
    return module, [*own, *(f"{key}={value}" for key, value in (split(given[len(own) :]) | always | stated).items())]


def smaller(code: str) -> str:
    """An example in Python, made small."""
    changed = code
    for found, instead in SMALL_PYTHON.items():
        changed = changed.replace(found, instead)
    dear = re.search(r"\b(search|minimize)\(", code)
    assert not dear or changed != code, f"no line of SMALL_PYTHON says what makes this small:\n{code}"
    return changed


@pytest.mark.parametrize("step", ALL, ids=str)
def test_every_step_is_covered(step: Step) -> None:
    if step.language == "python":
        compile(smaller(step.content), "example", "exec")
    elif not exempt(step.content) and not SCRIPT.fullmatch(step.content):
        small(step.content)


SCRIPT = re.compile(r"python (\S+\.py\b.*)")
"""A command that runs a file."""

FILE = re.compile(r"# ((?:problems/)?\w+\.py)\n")
"""First line of an example that is a file: its name."""


def taken(step: Step, out: pytest.CaptureFixture[str]) -> None:
    """Do what a step says, in the present folder."""
    if step.language == "python":
        named = FILE.match(step.content)
        if named:
            Path(named[1]).parent.mkdir(exist_ok=True)
            Path(named[1]).write_text(step.content, encoding="utf-8")
        else:
            exec(compile(smaller(step.content), str(step), "exec"), {"__name__": "example"})
        return
    if script := SCRIPT.fullmatch(step.content):
        with pytest.MonkeyPatch.context() as patch:
            file, *given = shlex.split(script[1])
            arguments = split(given) | SMALL_SCRIPT.get(file, {})
            patch.setattr(sys, "argv", [file, *(f"{key}={value}" for key, value in arguments.items())])
            try:
                runpy.run_path(file, run_name="__main__")
            except SystemExit as end:
                assert not end.code, f"{step}\nexit status {end.code}\n{out.readouterr().err}"
        return
    module, arguments = small(step.content)
    status = importlib.import_module(module).main(arguments)
    assert status == 0, f"{step}\nexit status {status}\n{out.readouterr().err}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all texts are followed in: what one searched, the next one finds; with a network of the user's."""
    folder = tmp_path_factory.mktemp("workplace")
    torch.save(zoo.build("resnet-18", 10, (1, 8, 8)).state_dict(), folder / "weights.pt")
    own = "from evo_robust import zoo\n\n\ndef make():\n    return zoo.build('resnet-18', 10, (1, 8, 8))\n"
    (folder / "mine.py").write_text(own, encoding="utf-8")
    return folder


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_can_be_followed(
    text: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    for step in steps(text):
        if not exempt(step.content):
            taken(step, capsys)
    if text == "docs/extending.md":
        parts_were_used(capsys.readouterr().out)


def parts_were_used(printed: str) -> None:
    """Check that each example of docs/extending.md did what it is there for."""
    for run, expected in {
        "widths": {"space": "Widths"},
        "noisy": {"objectives.1": "NoiseError", "objectives.1.sigma": 0.3},
        "corners": {"objectives.1.attack": "Corners", "objectives.1.attack.tries": 3},
        "smooth": {"evaluator.recipe": "SmoothLabels", "evaluator.recipe.smoothing": 0.2},
        "stripes": {"data": "Stripes"},
        "half": {"evaluator": "Half", "evaluator.share": 0.75},
        "doubt": {"objectives.1": "Doubt", "evaluator.recipe": "Attacked"},
        "sms": {"algorithm": "SMSEMOA"},
    }.items():
        found = load_run(Path("runs") / run)
        assert expected.items() <= found.info["values"].items() and found.missing is None
        assert found.evaluations and all(row["status"] == "ok" for row in found.evaluations), run
    for name, key, part in (("corners", "attack", "Corners"), ("smooth", "recipe", "SmoothLabels")):
        assert json.loads(Path(f"runs/widths-{name}/result.json").read_text(encoding="utf-8"))[key] == part
    trained = json.loads(Path("runs/widths-stripes/result.json").read_text(encoding="utf-8"))
    assert (trained["data"], trained["n_classes"], trained["n_test"]) == ("stripes", 2, 100)
    with pytest.raises(UserError) as refused:
        load("doubt", overrides={"evaluator.recipe": "Standard"})
    assert f"error: {refused.value}\n" in (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    noisy, half, widths = (load_run(f"runs/{name}") for name in ("noisy", "half", "widths"))
    assert all(0 <= row["noise_error"] <= 1 for row in noisy.table("all"))
    assert {row["images"] for row in half.table("all")} == {120}  # three quarters of 160
    exported = Path("runs/widths-trained/export/model.py").read_text(encoding="utf-8")
    assert "class Plain(nn.Sequential)" in exported and "import evo_robust" not in exported
    assert "logits as at export to within" in printed
    fewest = min(row["params"] for row in widths.table())
    assert f"{fewest:,.0f} parameters\n" in printed


def test_examples_of_parts_are_short() -> None:
    examples = [step for step in steps("docs/extending.md") if step.language == "python"]
    assert len(examples) == 9 and all(FILE.match(step.content) for step in examples)
    for step in examples:
        assert len(step.content.splitlines()) <= 30, step


def test_examples_import_from_the_front_door_alone() -> None:
    examples = [step.content for text in TEXTS for step in steps(text) if step.language == "python"]
    nodes = [node for code in examples for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    own = [node for node in nodes if str(node.module).startswith("evo_robust")]
    assert len(own) >= 11 and {node.module for node in own} == {"evo_robust"}
    assert {alias.name for node in own for alias in node.names} <= set(evo_robust.__all__)


def test_make_run_is_the_command_that_the_readme_shows() -> None:
    rule = re.search(r"^run:.*\n\t(.+)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert rule is not None
    command = rule[1].replace("$(BIN)/", "")
    assert command in [step.content for step in steps("README.md")]


def anchors(path: Path) -> set[str]:
    """What links to headings of a text may name, as GitHub makes it."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.name)
def test_links_and_pictures_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            name, _, heading = target.partition("#")
            there = path.parent / name if name else path
            assert there.exists(), target
            assert not heading or heading in anchors(there), target


def test_networks_that_the_texts_name_are_there() -> None:
    told = "".join((ROOT / text).read_text(encoding="utf-8") for text in TEXTS)
    names = set(re.findall(r"`((?:robnet|darts|wsr|pc)-[a-z0-9-]+)`", told))
    assert {"robnet-small", "robnet-free", "darts-v2", "wsr-plus"} <= names
    for name in names:
        zoo.check_name(name)


def sentences(text: str) -> list[str]:
    """Sentences of a text's prose: no code, tables, headings or pictures; code within a sentence is one word."""
    prose = re.sub(r"^```.*?^```", "", (ROOT / text).read_text(encoding="utf-8"), flags=re.M | re.S)
    prose = re.sub(r"^(\||#|!).*$", "", prose, flags=re.M)
    prose = re.sub(r"`[^`]*`", "code", prose)
    prose = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose)
    paragraphs = re.split(r"\n\s*\n|\n- ", prose)
    return [s for p in paragraphs for s in re.split(r"(?<=[.!?])[*\"]*\s+", " ".join(p.split())) if s.strip("-* ")]


@pytest.mark.parametrize("text", TEXTS)
def test_sentences_are_short(text: str) -> None:
    lengths = [len(sentence.split()) for sentence in sentences(text)]
    assert statistics.median(lengths) <= 14
    assert max(lengths) <= 45, max(sentences(text), key=lambda sentence: len(sentence.split()))


def test_the_readme_is_short() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.split()) <= 1100
    assert len(readme.splitlines()) <= 130

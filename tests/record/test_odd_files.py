"""Run folders that were changed by hand, by other programs or by accident: read as they are meant, or one message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chz
import pytest
from toys import Distance, Integers, Total, Toy

from evo_robust import export, plot
from evo_robust.algorithms.random import RandomSearch
from evo_robust.data.sets import Digits
from evo_robust.objectives.constraints import Constraint
from evo_robust.parts.base import UserError
from evo_robust.parts.paths import folders_of
from evo_robust.parts.strict_json import DEEPEST, parse_json
from evo_robust.problem.value import Problem
from evo_robust.record.ending import unfinished
from evo_robust.record.reading import load_run
from evo_robust.search import search

BOM = b"\xef\xbb\xbf"
PROBLEM = Problem(
    space=Integers(),
    data=Digits(),
    objectives=(Total(), Distance()),
    constraints=(Constraint(of=Total(label="sum"), at_most=17.0),),
    evaluator=Toy(),
    algorithm=RandomSearch(pop_size=6, n_gen=2),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "run"
    search(PROBLEM, folder, device="cpu", workers=1)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def refused(folder: Path, said: str, problem: Problem = PROBLEM) -> None:
    """Reading the folder and going on with it say it in one line, and leave every file as it is."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for read in (lambda: load_run(folder), lambda: search(problem, folder, device="cpu", workers=1)):
        with pytest.raises(UserError) as caught:
            read()
        message = str(caught.value)
        assert said in message and str(folder) in message and "\n" not in message and len(message) < 600, message
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def change_row(folder: Path, change: Callable[[dict[str, Any]], Any], line: int = 4) -> None:
    path = folder / "evaluations.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[line - 1])
    change(row)
    lines[line - 1] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


ROWS: list[tuple[dict[str, Any], str]] = [
    ({"id": -1}, "'id', got -1"),
    ({"id": 10**12}, "'id', got 1000000000000"),
    ({"id": True}, "'id', got true"),
    ({"id": 3.0}, "'id', got 3.0"),
    ({"id": "3"}, "'id', got \"3\""),
    ({"generation": -1}, "'generation', got -1"),
    ({"generation": None}, "'generation', got null"),
    ({"genome": [0, 0]}, "has 2 genes, expected the space's 6"),
    ({"genome": [0, 0, 0, 0, 0, 4]}, "gene 5 of its genome is 4, expected 0 to 3"),
    ({"genome": [0, 0, 0, 0, 0, -1]}, "gene 5 of its genome is -1, expected 0 to 3"),
    ({"genome": [0, 0, 0, 0, 0, 10**40]}, "gene 5 of its genome is 1000000"),
    ({"genome": [0, 0, 0, 0, 0, True]}, "'genome', got [0, 0, 0, 0, 0, true]"),
    ({"genome": []}, "'genome', got []"),
    ({"genome": [0] * 6, "architecture": "000001"}, 'its genome is that of "0 0 0 0 0 0", its architecture '),
    ({"genome": "000000"}, "'genome', got \"000000\""),
    ({"architecture": 5}, "'architecture', got 5"),
    ({"status": "fine"}, "'status', got \"fine\""),
    ({"status": ["ok"]}, "'status', got [\"ok\"]"),
    ({"objectives": {}}, "its status is ok, but it has no objectives"),
    ({"objectives": {"total": "3", "distance": 1}}, "'objectives', got"),
    ({"objectives": {"total": None, "distance": 1}}, "'objectives', got"),
    ({"objectives": {"total": True, "distance": 1}}, "'objectives', got"),
    ({"objectives": [1, 2]}, "'objectives', got [1, 2]"),
    ({"recorded": []}, "'recorded', got []"),
    ({"recorded": {"x": "much"}}, "'recorded', got"),
    ({"constraints": "none"}, "'constraints', got \"none\""),
    ({"constraints": {"sum": [0]}}, "'constraints', got"),
    ({"figures": None}, "'figures', got null"),
    ({"figures": {"params": "x"}}, "'figures', got"),
    ({"figures": {"flops": -1}}, "'figures', got"),
    ({"seconds": -1}, "'seconds', got -1"),
    ({"seed": "0"}, "'seed', got \"0\""),
    ({"error": 5}, "'error', got 5"),
    ({"fingerprint": 7}, "'fingerprint', got 7"),
    ({"fingerprint": None}, "'fingerprint', got null"),
]


@pytest.mark.parametrize(("values", "said"), ROWS, ids=[json.dumps(values)[:30] for values, _ in ROWS])
def test_a_row_that_is_no_evaluation_is_refused(folder: Path, values: dict[str, Any], said: str) -> None:
    change_row(folder, lambda row: row.update(values))
    refused(folder, "evaluations.jsonl, line 4 is damaged: ")
    refused(folder, said)


@pytest.mark.parametrize("key", ["id", "generation", "genome", "architecture", "status", "objectives", "figures",
                                 "fingerprint"])  # fmt: skip
def test_a_row_without_a_key_is_refused(folder: Path, key: str) -> None:
    change_row(folder, lambda row: row.pop(key))
    refused(folder, f"line 4 is damaged: it has no '{key}'")


@pytest.mark.parametrize("key", ["recorded", "constraints", "seconds", "seed", "error"])
def test_what_old_rows_may_lack_is_no_fault_by_itself(folder: Path, key: str) -> None:
    change_row(folder, lambda row: row.pop(key))
    if key == "constraints":  # this problem has one: without its value nobody knows whether the network is allowed
        with pytest.raises(UserError, match=r"evaluation \d+ lacks 'sum_at_most' under 'constraints'"):
            load_run(folder)
    else:
        assert len(load_run(folder).evaluations) == 12


LINES = [
    (b'{"id": 1e999}', "1e999 is beyond the largest number"),
    (b'{"id": -Infinity}', "-Infinity is no finite number"),
    (b'{"id": NaN}', "NaN is no finite number"),
    (b'{"id": ' + b"7" * 5000 + b"}", "a whole number of 5000 digits"),
    (b'{"id": 2' + b"0" * 308 + b"}", "is beyond the largest number"),
    (b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper"),
    (b'{"id": ' + b"[" * 200 + b"]" * 200 + b"}", "nested deeper"),
    (b'{"id": 1, "id": 2}', "'id' is there twice"),
    (b'{"id": "\\ud800"}', "half of a surrogate pair, \\ud800"),
    (b'{"id": "\xff"}', "no text in UTF-8, its byte 9 is 0xff"),
    (b"", "Expecting value"),
    (b"[1]", "expected one JSON object per line, got [1]"),
    (b"\x00\x01\x02", "no text in UTF-8, its byte 1 is 0x00"),
]


@pytest.mark.parametrize(("text", "said"), LINES, ids=[line[:12].decode(errors="replace") for line, _ in LINES])
def test_a_line_that_no_other_program_would_read_is_refused(folder: Path, text: bytes, said: str) -> None:
    path = folder / "evaluations.jsonl"
    lines = path.read_bytes().splitlines()
    lines[6] = text
    path.write_bytes(b"\n".join(lines) + b"\n")
    refused(folder, "evaluations.jsonl, line 7 is damaged: ")
    refused(folder, said)


def test_what_is_good_json_is_read_as_it_stands() -> None:
    deep = "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    text = f'{{"a": 1e308, "b": "\\ud83d\\ude00", "c": {deep}, "d": -0.0, "e": 123456789012345678901234567890}}'
    assert parse_json(text.encode()) == json.loads(text) == parse_json(BOM + text.encode())
    with pytest.raises(ValueError, match="nested deeper"):
        parse_json(f"[[{deep}]]".encode())


def test_an_architecture_that_nobody_can_build_is_refused(folder: Path) -> None:
    change_row(folder, lambda row: row.update(architecture="a b"))
    with pytest.raises(UserError, match=r"its genome is that of .*, its architecture \"a b\"\. Nothing was changed"):
        load_run(folder)


def test_a_byte_order_mark_is_no_fault(folder: Path) -> None:
    for name in ("problem.json", "evaluations.jsonl", "progress.csv"):
        (folder / name).write_bytes(BOM + (folder / name).read_bytes())
    assert len(load_run(folder).evaluations) == 12
    longer = chz.replace(PROBLEM, algorithm=RandomSearch(pop_size=6, n_gen=3))
    assert len(search(longer, folder, device="cpu", workers=1).evaluations) == 18


def change_info(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "problem.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


INFOS: list[tuple[dict[str, Any], str]] = [
    ({"schema": 2}, "expected a run of schema 1 as 'schema', got 2"),
    ({"values": []}, "'values', got []"),
    ({"identity": None}, "'identity', got null"),
    ({"problem": 5}, "'problem', got 5"),
    ({"scale": ["demo"]}, "'scale', got [\"demo\"]"),
    ({"source": 5}, "'source', got 5"),
    ({"device": 0}, "'device', got 0"),
    ({"versions": "1.0"}, "'versions', got \"1.0\""),
    ({"sessions": {}}, "'sessions', got {}"),
    ({"source": "a\0b.py"}, "zero bytes"),
    ({"source": "a\0b.py"}, "as 'source', got \"a\\u0000b.py\""),
    ({"source": "n" * 300}, "as 'source', got \"nnn"),
    ({"source": ""}, "'source', got \"\""),
    *(
        ({"objectives": wrong}, "'name' and 'unit' are null or text that can be printed as 'objectives', got ")
        for wrong in (
            *(5, None, "total", {}, [5], [None], ["total"], [[]]),
            *([{"name": 5}], [{"name": ["total"]}], [{"name": "total", "unit": 5}], [{"unit": {"a": 1}}]),
            *([{"name": "to\ntal"}], [{"name": "\x1b[31mred"}], [{"unit": "\x9b31m"}], [{"unit": "\u202ems"}]),
            [{"name": "total"}, {"name": "distance", "unit": True}],
        )
    ),
]


@pytest.mark.parametrize(("values", "said"), INFOS, ids=[json.dumps(values)[:40] for values, _ in INFOS])
def test_a_problem_file_with_a_wrong_type_is_refused(folder: Path, values: dict[str, Any], said: str) -> None:
    change_info(folder, lambda info: info.update(values))
    refused(folder, said)


def test_objectives_of_early_files_are_no_fault(folder: Path) -> None:
    for told in ([], [{}, {"name": None, "unit": None}], [{"name": "total", "unit": "µm²", "more": [1]}]):
        change_info(folder, lambda info, told=told: info.update(objectives=told))
        assert len(load_run(folder).evaluations) == 12
    change_info(folder, lambda info: info.pop("objectives"))
    assert len(load_run(folder).evaluations) == 12


def test_a_name_that_no_file_could_hold_is_refused_before_the_search() -> None:
    with pytest.raises(ValueError, match=r"name of Total to be text of one line .*, got 'to\\ntal'"):
        chz.replace(PROBLEM, objectives=(Total(label="to\ntal"), Distance()))


@pytest.mark.parametrize("key", ["schema", "values", "identity"])
def test_a_problem_file_without_a_key_is_refused(folder: Path, key: str) -> None:
    change_info(folder, lambda info: info.pop(key))
    refused(folder, f"it has no '{key}'")


@pytest.mark.parametrize(
    ("account", "key", "value", "said"),
    [
        ("values", "algorithm.pop_size", 7, "algorithm.pop_size: 6 → 7"),
        ("values", "space.genes", 5, "space.genes: 6 → 5"),
        ("values", "constraints.0.at_most", 99, "constraints.0.at_most: 17.0 → 99.0"),
        ("values", "algorithm.pop_size", "many", "cannot be read"),
        ("values", "algorithm", "NSGA22", "algorithm: RandomSearch → NSGA22"),
    ],
)
def test_values_that_were_edited_are_noticed(folder: Path, account: str, key: str, value: Any, said: str) -> None:
    change_info(folder, lambda info: info[account].update({key: value}))
    refused(folder, said)


def test_an_identity_that_was_edited_is_noticed_too(folder: Path) -> None:
    change_info(folder, lambda info: info["identity"].update({"algorithm.pop_size": 7}))
    refused(folder, "algorithm.pop_size: 7 → 6")


def test_where_and_how_long_may_be_edited(folder: Path) -> None:
    change_info(folder, lambda info: info["values"].update({"algorithm.n_gen": 9}))
    assert load_run(folder).problem.algorithm.n_gen == 9


@pytest.mark.parametrize("name", ["problem.json", "evaluations.jsonl"])
def test_a_folder_in_a_file_s_place_is_refused(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert plot.main([f"run={folder}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and name in err and err.count("\n") == 1


def test_a_run_folder_with_a_comma_in_its_name_is_read(whole: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(whole, tmp_path / "a,b")
    assert plot.main([f"run={odd}", f"out={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / "front.png").is_file() and not list(odd.glob("*.png"))
    plain = tmp_path / "c"
    plain.mkdir()
    (tmp_path / "a").mkdir()
    assert folders_of(f"{odd},{plain}".split(",")) == (str(odd), str(plain))  # though there is a folder a
    assert folders_of(f"{plain},{odd},{plain}".split(",")) == (str(plain), str(odd), str(plain))
    assert folders_of(["no", "where"]) == ("no", "where") and folders_of(["", str(plain), ""]) == ("", str(plain), "")


def test_generations_that_are_left_are_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unfinished(load_run(folder)) is None
    assert plot.main([f"run={folder}", f"out={tmp_path / 'out'}"]) == 0
    assert "note:" not in capsys.readouterr().out
    lines = (folder / "progress.csv").read_text().splitlines(keepends=True)
    (folder / "progress.csv").write_text("".join(lines[:-1]))
    for command, more in ((plot, ()), (export, ("weights=false",))):
        assert command.main([f"run={folder}", f"out={tmp_path / command.__name__}", *more]) in (0, 2)
        assert "has 1 of 2 generations" in " ".join(capsys.readouterr().out.split())

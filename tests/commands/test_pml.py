"""`treeserve pml`: schemas checked as compilers do, drawn, and written as JSON."""

import json
from pathlib import Path

import pytest

from treeserve.commands.main import main

FOLDER = Path(__file__).parents[2] / "examples" / "modules"
TRIP = Path(__file__).parents[1] / "pml" / "trip.pml"


def run(*argv: object) -> int:
    return main(["pml", *map(str, argv)])


def test_a_sound_schema_and_its_prompts_are_summed_up(capsys):
    assert run("check", FOLDER / "travel.pml", FOLDER / "travel-prompt.pml") == 0
    captured = capsys.readouterr()
    assert captured.out == (
        "travel: sound; 5 modules, 1 scaffold, 114 of 4096 positions, 1 prompt\n"
    )
    assert captured.err == ""


def test_a_mistake_is_shown_in_its_line(capsys, tmp_path):
    file = tmp_path / "s.pml"
    file.write_text('<schema name="s">\n\t<module name="a" cached="no">x</module>\n</schema>\n')
    assert run("check", file) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"{file}:2:2: error: unknown attribute 'cached' of <module>; "
        "expected name, cache, src, max_tokens\n"
        '  \t<module name="a" cached="no">x</module>\n'
        "  \t^\n"
    )


def test_all_prompts_are_checked_and_each_mistake_told(capsys, tmp_path):
    prompts = []
    for name in ("paris", "budget", "rome"):
        prompts.append(tmp_path / f"{name}.pml")
        prompts[-1].write_text(f'<prompt schema="trip"><{name}/>Go on.</prompt>')
    assert run("check", TRIP, *prompts) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert [error.split(": ")[2] for error in errors] == [
        "unknown module 'paris'; the schema has plan, budget",
        "unknown module 'rome'; the schema has plan, budget",
    ]


def test_the_layout_is_drawn_with_unions_side_by_side(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert run("show", FOLDER / "travel.pml", FOLDER / "travel-prompt.pml") == 0
    lines = capsys.readouterr().out.splitlines()
    [abreast] = [line for line in lines if "miami · 42–94 · 41 tokens" in line]
    assert "oslo · 42–77 · 36 tokens" in abreast
    drawing = "\n".join(lines)
    assert "24–29 ⟨duration⟩ up to 6 tokens" in drawing
    assert "scaffold cheap-trip: trip + low_budget, encoded together, 31 tokens" in drawing
    assert "own text from 114 · 4096 positions" in drawing
    assert "3 of 88 tokens" in drawing
    assert "14 tokens · 114–127" in drawing
    assert max(map(len, lines)) == 100


def test_python_functions_are_shown_like_files(capsys):
    assert run("show", FOLDER / "traits.pml") == 0
    expected = capsys.readouterr().out
    assert run("show", f"{FOLDER / 'traits.py'}:traits") == 0
    assert capsys.readouterr().out == expected


def test_json_has_tokens_positions_and_the_schema_itself(capsys, tmp_path):
    output = tmp_path / "travel.json"
    names = [FOLDER / "travel.pml", FOLDER / "travel-prompt.pml"]
    assert run("compile", *names, "-o", output) == 0
    assert capsys.readouterr().out == ""
    record = json.loads(output.read_text())
    assert [m["name"] for m in record["modules"]][:3] == ["", "trip", "miami"]
    trip = record["modules"][1]
    assert len(trip["token_ids"]) == len(trip["positions"]) == 12
    assert trip["positions"][:2] == [16, 17]
    [prompt] = record["prompts"]
    assert prompt["base_position"] == record["base_position"] == 114
    assert prompt["keys"][1] == record["scaffolds"][0]["key"]
    again = tmp_path / "travel.pml"
    again.write_text(record["pml"])
    assert run("compile", again) == 0
    assert json.loads(capsys.readouterr().out)["schema_id"] == record["schema_id"]


def test_another_models_tokenizer_may_count(capsys, checkpoint_of):
    assert run("check", TRIP, "--model", checkpoint_of("llama")) == 0
    assert "of 1024 positions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "status", "reason"),
    [
        (["check", "nowhere.pml"], 1, "nowhere.pml: error: cannot be read: No such file"),
        (["check", "nowhere.py:f"], 2, "SCHEMA: there is no file nowhere.py"),
        (["show", f"{FOLDER / 'code.py'}:g"], 2, "has no function 'g' decorated with @schema"),
        (["check", TRIP, "--model", "./nowhere"], 1, "model: there is no folder ./nowhere"),
        (["compile", TRIP, "-o", "/nowhere/x"], 2, "--output: cannot write /nowhere/x: No such"),
    ],
)
def test_what_is_not_there_is_named(capsys, argv, status, reason):
    assert run(*argv) == status
    assert reason in capsys.readouterr().err

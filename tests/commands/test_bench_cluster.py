"""`treeserve bench cluster`: on paper without Ray, and errors that name the option."""

import json
import sys

import pytest

from treeserve.commands.main import main


def run(*arguments: str) -> int:
    return main(["bench", "cluster", *arguments])


SMALL = ("--simulate", "2", "--seconds", "1", "--workload", "agents")


def test_a_simulation_says_what_each_router_computes(capsys, tmp_path):
    file = tmp_path / "found.json"
    assert run(*SMALL, "--json", "--output", str(file)) == 0
    result = json.loads(capsys.readouterr().out)
    assert [e["router"] for e in result["simulated"]] == ["treeserve", "two choices"]
    for entry in result["simulated"]:
        assert entry["num_replicas"] == 2
        assert entry["excess"] == entry["computed_tokens"] / entry["least_tokens"] - 1
    assert json.loads(file.read_text()) == result
    assert run("--simulate", "2", "--from", str(file)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("agents")[0].strip() for line in lines[-2:]] == ["treeserve", "two choices"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--simulate", "2,x"], "--simulate: must be numbers of at least 1, got 'x'"),
        (["--simulate", "0"], "--simulate: must be numbers of at least 1, got '0'"),
        (["--simulate", "2", "--seconds", "0"], "--seconds: must be above 0, got 0"),
        (["--replicas", "0"], "--replicas: must be at least 1, got 0"),
        (["--streams", "-1"], "--streams: must be at least 1, got -1"),
        (["--from", "nowhere.json"], "--from: cannot read nowhere.json"),
    ],
)
def test_what_makes_no_sense_is_named(capsys, arguments, message):
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_without_ray_one_line_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    assert run() == 2
    error = capsys.readouterr().err
    assert "pip install 'treeserve[ray]'" in error
    assert error.count("\n") == 1

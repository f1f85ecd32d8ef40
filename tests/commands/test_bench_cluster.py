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
    assert [line.split(" lean ")[0].strip() for line in lines[-2:]] == ["treeserve", "two choices"]


def test_both_kinds_of_engines_can_be_asked_for(capsys):
    arguments = ("--simulate", "1", "--seconds", "0.2", "--workload", "prompts", "--json")
    for engines in ("lean", "scheduler"):
        assert run(*arguments, "--router", "treeserve", "--engines", engines) == 0
        [entry] = json.loads(capsys.readouterr().out)["simulated"]
        assert (entry["engines"], entry["excess"]) == (engines, 0)


def test_decisions_are_timed_with_as_much_cached_as_was_asked_for(capsys, tmp_path):
    file = tmp_path / "found.json"
    asked = ("--decisions", "8", "--cached-tokens", "100000")
    assert run(*asked, "--json", "--output", str(file)) == 0
    result = json.loads(capsys.readouterr().out)
    [entry] = result["measured"]
    assert entry["num_replicas"] == 8
    assert entry["held_tokens"] >= entry["cached_tokens"] >= 100_000
    for times in (entry["wall_ms"], entry["cpu_ms"]):
        assert 0 < times["p50"] <= times["p99"] <= times["worst"]
    assert run(*asked, "--from", str(file)) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--decisions", "8,"], "--decisions: must be numbers of at least 1, got ''"),
        (["--decisions", "8", "--simulate", "8"], "--decisions: not with --simulate; choose one"),
        (["--cached-tokens", "0"], "--cached-tokens: must be at least 1, got 0"),
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

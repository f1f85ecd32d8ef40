"""`treeserve bench scheduler`: one figure for each load, and single operations on the tree."""

import json

import pytest

from treeserve.commands.main import main

SMALL_TREE = ["--tree-tokens", "5000", "--prompt-tokens", "600", "--evict-tokens", "1000"]
SMALL = ["--running", "4,8", "--depth", "1,2", "--level-tokens", "20", "--steps", "3", *SMALL_TREE]


def run(*arguments: str) -> int:
    return main(["bench", "scheduler", *arguments])


def test_one_object_for_each_load_and_one_for_the_tree(capsys):
    assert run(*SMALL, "--cached", "0,5000", "--json") == 0
    *steps, tree = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    loads = [(s["mode"], s["running"], s["depth"], s["cached_tokens"]) for s in steps]
    expected = [(4, 1, 0), (4, 2, 0), (8, 1, 0), (8, 2, 0), (8, 2, 5000)]
    assert loads == [(mode, *load) for load in expected for mode in ("decode", "churn")]
    for step in steps:
        assert step["plan_ms_p50"] <= step["plan_ms_p99"]
        assert step["plan_ms_p50"] <= step["host_ms_p50"] <= step["host_ms_p99"]
    assert tree["mode"] == "tree"
    assert tree["match_ms"] > 0


def test_a_table_for_people(capsys):
    assert run(*SMALL, "--cached", "0") == 0
    out = capsys.readouterr().out
    assert "plan, ms" in out
    assert sum(line.startswith("decode") for line in out.splitlines()) == 4
    assert "find a cached prompt of 600 tokens" in out


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--running", "64,many"], "--running: '64,many' is not a list of integers"),
        (["--depth", "0"], "--depth: must be at least 1, got 0"),
        (["--steps", "0"], "--steps: must be at least 1"),
        (["--churn", "0"], "--churn: must be more than 0 and at most 1"),
    ],
)
def test_options_out_of_range_are_named(capsys, options, error):
    assert run(*options) == 2
    captured = capsys.readouterr()
    assert error in captured.err
    assert captured.out == ""
    assert captured.err.count("\n") == 1

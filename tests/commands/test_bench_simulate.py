"""`treeserve bench simulate`: a table, or an object a line, and errors that name the option."""

import json

import pytest

from treeserve.commands import bench_simulate
from treeserve.commands.main import main

LINES = [
    '{"timestamp": 0, "input_length": 30, "output_length": 4, "hash_ids": [1], "id": "a"}',
    '{"timestamp": 9, "input_length": 40, "output_length": 2, "hash_ids": [1], "parent": "a"}',
    '{"timestamp": 9, "input_length": 50, "output_length": 2, "hash_ids": [2]}',
]


@pytest.fixture
def trace(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(LINES))
    return str(file)


def run(*arguments: str) -> int:
    return main(["bench", "simulate", *arguments])


def test_one_object_for_each_trace_and_policy(capsys, trace):
    sizes = ["--limit", "5", "--pages", "2000", "--reserve", "0.5"]
    assert run("--trace", trace, "--trace", "chat", "--policy", "tree,fcfs", *sizes, "--json") == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["trace"], r["policy"]) for r in results] == [
        (trace, "tree"),
        (trace, "fcfs"),
        ("chat", "tree"),
        ("chat", "fcfs"),
    ]
    assert [r["num_finished"] for r in results] == [3, 3, 5, 5]
    assert results[0]["device"] == "h100-8b"
    assert set(results[0]["time_to_first_token"]) == {"mean", "p50", "p90", "p99"}
    assert results[0]["tenants"][""]["output_tokens"] == 8
    assert results[0]["host"]["total_seconds"] > 0


def test_a_table_has_a_row_for_each_policy(capsys, trace):
    assert run("--trace", trace) == 0
    title, _, header, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith(f"{trace}: 3 requests, 3 samples, 8 tokens to draw; h100-8b, 26,702")
    assert header.startswith("policy")
    assert [row.split()[0] for row in rows] == ["tree", "fcfs", "longest-prefix"]


def test_the_device_can_be_another_one(capsys, trace):
    def seconds(*options: str) -> float:
        assert run("--trace", trace, "--policy", "tree", *options, "--json") == 0
        return json.loads(capsys.readouterr().out)["time_per_output_token"]["mean"]

    slower = seconds("--set", "overhead_seconds=1.001")
    assert slower - seconds() == pytest.approx(1.0)


def test_all_means_every_trace_that_comes_with_treeserve():
    assert list(bench_simulate.read_traces(["all"])) == list(bench_simulate.read_traces(None))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--trace", "chatt"], "--trace: 'chatt' is no file, and none of chat, contest, "),
        (["--policy", "tree,lifo"], "policy: 'lifo' is not one of tree, fcfs"),
        (["--device", "tpu"], "--device: 'tpu' is not one of h100-8b"),
        (["--set", "speed=1"], "--set: 'speed' is not one of memory_bytes"),
        (["--set", "weights_bytes=big"], "--set: 'weights_bytes=big' is not FIELD=NUMBER"),
        (["--set", "bytes_per_second=0"], "--set: 'bytes_per_second=0' must be more than 0"),
        (["--pages", "0"], "num_pages: must be at least 1"),
        (["--page-size", "0"], "page_size: must be at least 1"),
        (["--reserve", "2"], "reserve: must be between 0 and 1"),
        (["--max-tokens", "-1"], "--max-tokens: must be at least 0"),
        (["--limit", "0"], "--limit: must be at least 1"),
        (["--trace", "documents", "--pages", "9"], "request 1: prompt: has"),
    ],
)
def test_options_out_of_range_are_named(capsys, options, error):
    assert run(*options) == 2
    captured = capsys.readouterr().err
    assert error in captured
    assert captured.splitlines()[-1].startswith("treeserve bench simulate: ")


def test_a_malformed_trace_is_one_line(capsys, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"timestamp": 0}\n')
    assert run("--trace", str(file)) == 2
    assert capsys.readouterr().err == (
        f"treeserve bench simulate: {file}:1: output_length: missing\n"
    )


def test_an_interrupt_is_status_130_and_leaves_what_was_done(capsys, monkeypatch, trace):
    simulate = bench_simulate.simulate

    def interrupted(requests, device, config, **options):
        if config.policy == "fcfs":
            raise KeyboardInterrupt
        return simulate(requests, device, config, **options)

    monkeypatch.setattr(bench_simulate, "simulate", interrupted)
    assert run("--trace", trace, "--policy", "tree,fcfs", "--json") == 130
    captured = capsys.readouterr()
    assert json.loads(captured.out)["policy"] == "tree"
    assert "Traceback" not in captured.err

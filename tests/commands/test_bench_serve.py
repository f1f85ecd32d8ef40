"""`treeserve bench serve`: real servers in processes of their own, real sockets, small loads."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from treeserve.bench.serve.sockets import Caller
from treeserve.bench.serve.workloads import read_workloads
from treeserve.commands.main import main

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 120
# A test that runs in the background inherits that SIGINT is ignored.
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from treeserve.commands.main import main
sys.exit(main(sys.argv[1:]))
"""


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-u", "-c", COMMAND, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def read_until(stream, pattern: str) -> "re.Match[str]":
    seen = ""
    for line in stream:
        seen += line
        found = re.search(pattern, line)
        if found:
            return found
    raise AssertionError(f"{pattern} never came, but: {seen}")


@contextmanager
def serving(*options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server with the embedded model, and its address."""
    addresses = ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
    with start("serve", *addresses, *options) as process:
        try:
            yield process, read_until(process.stdout, r"is ready: grpc (\S+),")[1]
        finally:
            process.kill()


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=DEADLINE_SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


def in_order(percentiles: dict[str, float]) -> bool:
    return 0 <= percentiles["p50"] <= percentiles["p90"] <= percentiles["p99"]


@pytest.mark.slow
def test_a_server_of_its_own_is_loaded_and_its_cost_measured(capsys, tmp_path):
    file = tmp_path / "serve.json"
    load = ["--workload", "chat,contest", "--rate", "6", "--streams", "2"]
    # Without a warm-up every stream's first call counts, however slow the machine is.
    window = ["--seconds", "0.6", "--warm-up", "0"]
    cost = ["--cost-rounds", "1", "--cost-streams", "2"]
    options = [*load, *window, *cost, "--calibration", "off", "--num-pages", "4096"]
    assert main(["bench", "serve", *options, "--json", "--output", str(file)]) == 0
    result = json.loads(capsys.readouterr().out)

    assert result["benchmark"] == "serve"
    assert result["server"]["model"].startswith("model embedded")
    names = [(stage["workload"], stage["mode"], stage["load"]) for stage in result["stages"]]
    assert names == [
        ("chat", "open", 6), ("chat", "closed", 2), ("contest", "open", 6), ("contest", "closed", 2)
    ]  # fmt: skip
    for stage in result["stages"]:
        assert stage["calls"] == stage["good_calls"] > 0
        assert (stage["refused"], stage["failed"], stage["wrong"]) == (0, 0, 0)
        assert (stage["statuses"], stage["gone"], stage["reason"]) == ({}, "", "")
        for name in ("ttft_ms", "tpot_ms", "end_to_end_ms"):
            assert in_order(stage[name])
        assert stage["end_to_end_ms"]["p99"] >= stage["ttft_ms"]["p50"]
        assert 0 <= stage["goodput_share"] <= 1
        assert 0 < stage["computed_share"] <= 1
        assert stage["client"]["late_ms_p99"] >= 0

    cost = result["cost"]
    assert (cost["workload"], cost["streams"], cost["rounds"]) == ("chat", 2, 1)
    [chat] = read_workloads("chat")
    second_round = range((1 << 40) + cost["calls"], (1 << 40) + 2 * cost["calls"])
    asked = sum(chat.call(0, index).num_drawn_tokens for index in second_round)
    assert cost["drawn_tokens"] == asked
    assert set(cost["tokens_per_second"]) == {"socket", "text service", "engine"}
    rates = cost["tokens_per_second"]
    assert cost["share_of_engine"] == pytest.approx(rates["socket"] / rates["engine"])
    if Path("/proc/self/stat").exists():
        assert all(value > 0 for value in cost["cpu_us_per_token"].values())

    assert main(["bench", "serve", "--from", str(file)]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 120
    assert "of the engine alone" in table
    assert main(["bench", "serve", "--from", str(file), "--markdown"]) == 0
    assert "| contest | 2 str |" in capsys.readouterr().out


@pytest.mark.slow
def test_refused_calls_are_counted_and_are_no_failure(capsys):
    with serving("--max-calls", "1") as (_, address):
        options = ["--streams", "4", "--seconds", "1", "--warm-up", "0", "--workload", "documents"]
        assert main(["bench", "serve", "--server", address, *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["server"] == {"address": address, "door": "grpc", "model": ""}
    assert result["cost"] is None
    [stage] = result["stages"]
    # Each of the first calls is refused while another one runs; how many are is up to the machine.
    assert 1 <= stage["refused"] <= 4
    assert stage["statuses"] == {"RESOURCE_EXHAUSTED": stage["refused"]}
    assert stage["good_calls"] == stage["calls"] - stage["refused"] > 0
    assert (stage["failed"], stage["flags"]) == (0, [])
    assert stage["server_cpu_share"] is None


@pytest.mark.slow
@pytest.mark.parametrize("load", ["--rate", "--streams"])
def test_a_server_that_goes_away_is_reported_and_nothing_hangs(load, capsys, monkeypatch):
    """Ten minutes of load would be to come, and a second workload."""
    options = [load, "4", "--seconds", "600", "--workload", "chat,unshared", "--json"]
    make = Caller.make
    with serving() as (server, address):

        async def make_and_kill(*arguments):
            record = await make(*arguments)
            server.kill()
            return record

        monkeypatch.setattr(Caller, "make", make_and_kill)
        assert main(["bench", "serve", "--server", address, *options]) == 1
    result = json.loads(capsys.readouterr().out)
    [stage] = result["stages"]
    assert stage["gone"]
    assert stage["flags"][0].startswith("gone: ")
    assert result["left_out"] == [
        f"unshared, 4 {'calls a second' if load == '--rate' else 'streams'}"
    ]


@pytest.mark.slow
def test_an_interrupt_ends_the_server_too():
    options = ["--streams", "4", "--seconds", "600", "--workload", "chat"]
    with start("bench", "serve", *options) as bench:
        try:
            address = read_until(bench.stderr, r"^ready: grpc (\S+),")[1]
            read_until(bench.stderr, "^chat, 4 streams")
            assert listens(address)
            bench.send_signal(signal.SIGINT)
            out, err = bench.communicate(timeout=DEADLINE_SECONDS)
        finally:
            bench.kill()
    assert bench.returncode == 130
    assert (out, err) == ("", "")
    assert not listens(address)


def test_a_server_that_is_not_there_is_one_line_and_no_table(capsys, nobody):
    options = ["--streams", "2", "--seconds", "600"]
    assert main(["bench", "serve", "--server", nobody, *options]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    said = f"treeserve bench serve: --server: nothing answers at {nobody}: Connection refused\n"
    assert captured.err == said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workload", "chats"], "--workload: 'chats' is not one of chat, contest, documents"),
        (["--workload", ""], "--workload: '' is not one of"),
        (["--rate", "0"], "--rate: must be more than 0, got 0"),
        (["--rate", "2;8"], "--rate: '2;8' is not a list of numbers like 2,8"),
        (["--rate", "nan"], "--rate: must be more than 0, got nan"),
        (["--streams", "0"], "--streams: must be from 1 to 1024, got 0"),
        (["--streams", "1.5"], "--streams: '1.5' is not a list of numbers like 16,64"),
        (["--seconds", "0"], "--seconds: must be more than 0, got 0"),
        (["--warm-up", "-1"], "--warm-up: must be at least 0 seconds, got -1"),
        (["--ttft-target", "0"], "--ttft-target: must be more than 0"),
        (["--tpot-target", "-1"], "--tpot-target: must be more than 0"),
        (["--call-timeout", "inf"], "--call-timeout: must be more than 0, got inf"),
        (["--cost-rounds", "-1"], "--cost-rounds: must be at least 0, got -1"),
        (["--cost-streams", "0"], "--cost-streams: must be from 1 to 1024, got 0"),
        (["--server", "127.0.0.1:1", "--cost-rounds", "1"], "--cost-rounds: not with --server"),
        (
            ["--server", "127.0.0.1:1", "--model", "x"],
            "--model: not with --server: that server has",
        ),
        (["--server", "nowhere"], "--server: must be HOST:PORT"),
        (["--json", "--markdown"], "--markdown: not with --json"),
        (["--from", "/nonexistent"], "--from: cannot read /nonexistent"),
    ],
)
def test_options_out_of_range_are_named(capsys, options, words):
    assert main(["bench", "serve", *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1

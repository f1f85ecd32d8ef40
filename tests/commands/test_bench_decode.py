"""`treeserve bench decode` on a CPU: the real engine around a tiny model with random weights."""

import json
import subprocess
import sys
from typing import Any

import pytest

from treeserve.bench.decode import sides
from treeserve.commands.main import main

SMALL = ["--device", "cpu", "--steps", "2", "--rounds", "2", "--calibration", "off"]
CASES = ["--batch", "1,6", "--prefix", "48,160"]


def measure(capsys, *options: str, status: int = 0) -> dict[str, Any]:
    assert main(["bench", "decode", *SMALL, *options, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_every_batch_under_every_prefix_is_compared_and_timed(capsys):
    result = measure(capsys, *CASES)
    assert result["benchmark"] == "decode"
    assert result["model"]["name"] == "random tiny"
    assert [(case["prefix"], case["batch"]) for case in result["cases"]] == [
        (48, 1), (48, 6), (160, 1), (160, 6),
    ]  # fmt: skip
    for case in result["cases"]:
        assert case["status"] == "timed"
        assert case["num_compared"] == 4 * case["batch"]
        assert case["num_parted"] == 0
        for side in ("on", "off", "ceiling"):
            assert case["sides"][side]["tokens_per_second"] > 0
            assert case["sides"][side]["windows"] == 2
        read = case["sides"]["off"]["kv_tokens_read"]
        # The prefix, eight tokens of its own and those drawn before, of every sample.
        assert case["batch"] * (case["prefix"] + 8) < read
        assert read <= case["batch"] * (case["prefix"] + case["own_tokens"] + 16)
    changes = result["summary"]["throughput_change"]
    assert [(change["batch"], change["to_prefix"]) for change in changes] == [(1, 160), (6, 160)]


def test_a_checkpoint_can_be_measured(capsys, checkpoint_of):
    options = ["--batch", "3", "--prefix", "40"]
    result = measure(capsys, *options, "--model", str(checkpoint_of("qwen3")))
    assert result["cases"][0]["status"] == "timed"
    assert result["dtype"] == "float32"


def test_what_the_model_has_no_positions_for_is_skipped_with_the_reason(capsys, checkpoint_of):
    options = ["--batch", "1", "--prefix", "40,1024", "--model", str(checkpoint_of("llama"))]
    short, long = measure(capsys, *options)["cases"]
    assert short["status"] == "timed"
    assert (long["status"], long["sides"]) == ("skipped", {})
    assert long["reason"].startswith("too long: 1,0")


def test_what_does_not_fit_into_memory_is_skipped_with_the_reason(capsys, monkeypatch):
    monkeypatch.setattr("treeserve.bench.decode.suite._CPU_POOL_BYTES", 512 * 1024)
    small, large = measure(capsys, "--batch", "1,64", "--prefix", "48")["cases"]
    assert small["status"] == "timed"
    assert large["status"] == "skipped"
    assert large["reason"].startswith("does not fit: needs ")


def test_sharing_that_changes_what_is_drawn_shows_no_times_and_is_status_1(capsys, monkeypatch):
    make = sides._backend
    made = []

    def broken_first(*arguments):
        backend = make(*arguments)
        if not made:
            attend = backend.attend
            monkeypatch.setattr(backend, "attend", lambda *a, **k: attend(*a, **k).flip(0))
        made.append(backend)
        return backend

    monkeypatch.setattr(sides, "_backend", broken_first)
    result = measure(capsys, "--batch", "6", "--prefix", "48", status=1)
    [case] = result["cases"]
    assert case["status"] == "wrong"
    assert case["reason"].startswith("sharing on and off differ: sample 0, token 0")
    assert case["sides"] == {}
    assert result["summary"]["num_wrong"] == 1


def test_a_step_that_breaks_off_is_a_failure_and_the_next_case_goes_on(capsys, monkeypatch, caplog):
    attend = sides.NoAttention.attend

    def broken_for_six(self, q, *arguments, **options):
        if q.shape[0] == 6:
            raise RuntimeError("out of luck")
        return attend(self, q, *arguments, **options)

    monkeypatch.setattr(sides.NoAttention, "attend", broken_for_six)
    result = measure(capsys, "--batch", "6,7", "--prefix", "48", status=1)
    broken, good = result["cases"]
    assert broken["status"] == "failed"
    assert broken["reason"] == "a step failed: RuntimeError: out of luck"
    assert good["status"] == "timed"


def test_the_table_fits_a_terminal_and_can_be_shown_again(capsys, tmp_path):
    file = tmp_path / "result.json"
    assert main(["bench", "decode", *SMALL, *CASES, "--output", str(file)]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 120
    assert "56 tokens of on and off compared and the same" in table
    assert main(["bench", "decode", "--from", str(file), "--markdown"]) == 0
    assert "| 160 | 6 |" in capsys.readouterr().out


def test_what_the_time_limit_leaves_out_is_told(capsys):
    result = measure(capsys, *CASES, "--time-limit", "1e-9")
    assert result["cases"] == []
    assert len(result["left_out"]) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "0"], "--batch: must be at least 1, got 0"),
        (["--batch", "1,x"], "--batch: '1,x' is not a list of numbers"),
        (["--prefix", ""], "--prefix: '' is not a list"),
        (["--steps", "0"], "--steps: must be at least 1, got 0"),
        (["--shape", "tiny", "--model", "embedded"], "--shape: not with --model"),
        (["--backend", "triton"], "--backend: triton does not run on cpu"),
        (["--shape", "llama-9b"], "invalid choice: 'llama-9b'"),
    ],
)
def test_options_out_of_range_are_named(capsys, options, words):
    try:
        status = main(["bench", "decode", *SMALL, *options])
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_both_benchmarks_run_where_there_is_no_server_to_speak_of(tmp_path):
    """A bare CUDA image has torch, triton and transformers, and what those bring with them."""
    program = """
import sys
class Absent:
    names = {"grpc", "grpc_health", "grpc_reflection", "grpc_status", "google",
             "prometheus_client", "starlette", "uvicorn"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from treeserve.commands.main import main
common = ["--device", "cpu", "--rounds", "1", "--calibration", "off"]
attention = ["--backend", "torch", "--values", "trees", "--heads", "2/1", "--tree", "1,2 | 9,2"]
decode = ["--batch", "2", "--prefix", "20", "--steps", "1"]
sys.exit(main(["bench", "attention", *common, *attention])
         or main(["bench", "decode", *common, *decode]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "Summary: 1 cases" in done.stdout

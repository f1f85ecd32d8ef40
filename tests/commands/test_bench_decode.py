"""`treeserve bench decode` on a CPU: the real engine around a tiny model with random weights."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from treeserve.bench.decode import batching, models, sides
from treeserve.bench.decode import case as case_module
from treeserve.bench.decode.batching import BatchingSide
from treeserve.bench.decode.case import length_of
from treeserve.bench.decode.floor import StepFloor
from treeserve.bench.decode.peak_memory import MemoryNotMeasured, MemoryTask, measure_memory
from treeserve.bench.decode.rivals import RivalFailed
from treeserve.bench.decode.source import ModelSource
from treeserve.bench.rates import Rates
from treeserve.commands.main import main
from treeserve.scheduler.plan.cost import CostModel

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


def test_every_case_says_its_rates_its_floor_and_where_the_time_goes(capsys):
    options = ["--dtype", "bfloat16", "--batch", "5", "--prefix", "64", "--new-tokens", "4,9"]
    short, long = measure(capsys, *options, "--versus", "transformers")["cases"]
    assert (short["new_tokens"], long["new_tokens"]) == (4, 9)
    for case in (short, long):
        assert case["status"] == "timed", case["reason"]
        assert case["without"] == {}
        rates = {name: rate["tokens_per_second"] for name, rate in case["sides"].items()}
        assert case["tokens_per_second"] == rates["on"]
        assert case["transformers_tokens_per_second"] == rates["transformers"] > 0
        assert case["over_transformers"] == rates["on"] / rates["transformers"]
        batching = rates["transformers_batching"]
        assert case["transformers_batching_tokens_per_second"] == batching > 0
        assert case["over_transformers_batching"] == rates["on"] / batching
        assert case["share_of_floor"] == rates["on"] / case["floor_tokens_per_second"]
        shares = case["shares"]
        assert list(shares) == [
            "attention", "linear_layers", "output_head", "norms", "rest_of_model", "sampling",
            "batch", "plan", "scheduler",
        ]  # fmt: skip
        assert min(shares.values()) > 0
        assert sum(shares.values()) == pytest.approx(1)
        # Weights of 2 bytes, padded where they are packed; whole pages of 16 slots in 2 layers of
        # 2 KV heads of 16.
        assert 2 * 410_240 <= case["weights_bytes"] < 1.1 * 2 * 410_240
        assert case["pool_bytes"] % (16 * 2 * 2 * 2 * 16 * 2) == 0
        assert case["pool_bytes"] >= (64 + 5 * (8 + case["new_tokens"])) * 2 * 2 * 2 * 16 * 2
        assert (case["peak_bytes"], case["over_memory"]) == (None, None)


@pytest.mark.slow
def test_the_peak_of_a_case_is_that_of_a_process_of_its_own(capsys):
    options = ["--dtype", "bfloat16", "--batch", "2", "--prefix", "20", "--memory"]
    [case] = measure(capsys, *options)["cases"]
    assert case["without_memory"] == ""
    assert case["peak_bytes"] > case["program_bytes"] + case["weights_bytes"] + case["pool_bytes"]
    least = case["weights_bytes"] + case["pool_bytes"]
    assert case["over_memory"] == case["peak_bytes"] / least - 1


@pytest.mark.slow
def test_a_process_that_fails_to_tell_its_memory_says_why():
    """A case's times are shown all the same."""
    task = MemoryTask(
        source=ModelSource(name="/no-such", is_checkpoint=False, dtype="float32", device="cpu"),
        backend="torch", costs=CostModel(), threads=1, num_pages=9, token_budget=9, max_tokens=9,
    )  # fmt: skip
    with pytest.raises(MemoryNotMeasured, match="cannot read the configuration of /no-such"):
        measure_memory(task, [(1, 2)])


def test_what_transformers_draws_is_compared_before_its_times_are_shown(capsys, monkeypatch):
    make = models.make_random_module

    def other_weights(*arguments):
        module = make(*arguments)
        if arguments[-1] == "sdpa":
            module.lm_head.weight.data = module.lm_head.weight.data.flip(0)
        return module

    monkeypatch.setattr(models, "make_random_module", other_weights)
    options = ["--batch", "2", "--prefix", "20", "--versus", "transformers"]
    [case] = measure(capsys, *options, status=1)["cases"]
    assert case["status"] == "wrong"
    assert case["reason"].startswith("sharing on and transformers differ: sample 0, token 0")


def test_a_cache_that_transformers_has_no_memory_for_is_left_out_with_the_reason(
    capsys, monkeypatch
):
    for name in ("versus", "batching"):
        monkeypatch.setattr(f"treeserve.bench.decode.{name}.free_bytes", lambda _device: 1 << 20)
    options = ["--batch", "64", "--prefix", "64", "--versus", "transformers"]
    [case] = measure(capsys, *options)["cases"]
    assert case["status"] == "timed"
    for name in ("transformers", "transformers_batching"):
        assert case[f"{name}_tokens_per_second"] is None
        assert "and 1 are free" in case["without"][name]


def test_continuous_batching_that_does_not_run_here_is_a_reason_in_one_line():
    """As where its paged cache does not know the model's attention."""
    module = models.make_random_module("tiny", torch.float32, torch.device("cpu"), "sdpa")
    module.config._attn_implementation = "flex_attention"
    side = BatchingSide(module)
    with pytest.raises(RivalFailed, match="flex_attention is not supported") as failed:
        side.step_seconds([(1, 2, 3)], 2, 1)
    assert "\n" not in str(failed.value)
    side.end_case()


def test_a_pool_that_continuous_batching_has_no_memory_for_is_its_reason(monkeypatch):
    """It finds that out in a thread of its own."""
    monkeypatch.setattr(batching, "_num_pages", lambda *_sizes: 10**9)
    module = models.make_random_module("tiny", torch.float32, torch.device("cpu"), "sdpa")
    side = BatchingSide(module)
    with pytest.raises(RivalFailed, match="MemoryError: Memory footprint"):
        side.step_seconds([(1, 2, 3)], 2, 1)
    side.end_case()


@pytest.mark.parametrize("where", ["_start", "_generate"])
def test_a_side_that_breaks_off_leaves_the_others_in_the_table(capsys, monkeypatch, where):
    """Before the first token, or in the second of its windows."""
    works = getattr(BatchingSide, where)
    times = {"_start": 0, "_generate": 3}[where]
    calls = []

    def failing(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > times:
            raise ValueError("no such device")
        return works(*arguments)

    monkeypatch.setattr(BatchingSide, where, failing)
    options = ["--batch", "2", "--prefix", "20", "--versus", "transformers"]
    assert main(["bench", "decode", *SMALL, *options]) == 0
    table = capsys.readouterr().out
    assert (
        "- batch 2, prefix 20: transformers batching left out: it broke off: ValueError: no such "
        "device" in " ".join(table.split())
    )


def test_the_kernel_that_serves_is_the_one_that_is_measured(capsys, cpu_kernel):
    small = ["--batch", "1", "--prefix", "20"]
    assert measure(capsys, *small, "--dtype", "bfloat16")["backend"] == "cpu"
    assert measure(capsys, *small)["backend"] == "torch"


def test_a_given_configuration_gets_random_weights(capsys, checkpoint_of):
    folder = str(checkpoint_of("qwen3"))
    options = ["--batch", "1", "--prefix", "20", "--dtype", "bfloat16"]
    result = measure(capsys, *options, "--shape", folder)
    assert result["model"]["name"] == f"random {folder}"
    module = models.make_random_module(folder, torch.bfloat16, torch.device("cpu"), "eager")
    assert result["model"]["num_parameters"] == sum(p.numel() for p in module.parameters())


def test_a_floor_reads_each_weight_and_each_distinct_token_once():
    rates = Rates(bytes_per_second=100.0, operations_per_second=1000.0)
    floor = StepFloor(
        rates=rates, num_weights=50, weight_bytes=100, numbers_per_token=4, query_numbers=2,
        itemsize=2,
    )  # fmt: skip
    # One row is bound by what it reads: 100 bytes of weights, and K and V of 10 + 5 tokens.
    assert floor.seconds(1, 10, 5) == pytest.approx(50 * 2 / 100 + 15 * 4 * 2 / 100)
    # With 100 rows the products of the weights take longer than reading them; with a prefix of
    # 1,000 tokens the products of attention do too.
    assert floor.seconds(100, 1000, 1) == pytest.approx(
        2 * 100 * 50 / 1000 + 4 * 100 * 1001 * 2 / 1000
    )


def test_new_tokens_are_drawn_in_windows_that_add_up_to_them():
    for new_tokens in range(1, 40):
        length = length_of(new_tokens, steps=8)
        assert length.new_tokens == new_tokens
        assert length.steps <= 8
        assert length.rounds >= min(3, new_tokens)


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
    make = sides.attention_of
    made = []

    def broken_first(*arguments):
        backend = make(*arguments)
        if not made:
            attend = backend.attend
            monkeypatch.setattr(backend, "attend", lambda *a, **k: attend(*a, **k).flip(0))
        made.append(backend)
        return backend

    monkeypatch.setattr(sides, "attention_of", broken_first)
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


def test_a_run_that_breaks_off_keeps_its_cases_and_goes_on(capsys, tmp_path, monkeypatch):
    file = tmp_path / "decode.json"
    kept = [*CASES, "--output", str(file), "--go-on"]
    length_run = case_module.CaseBench.measure

    def interrupted(self, prefix, batch, *arguments):
        if (len(prefix), batch) == (160, 1):
            raise KeyboardInterrupt
        return length_run(self, prefix, batch, *arguments)

    monkeypatch.setattr(case_module.CaseBench, "measure", interrupted)
    assert main(["bench", "decode", *SMALL, *kept]) == 130
    before = json.loads(file.read_text())
    assert [(case["prefix"], case["batch"]) for case in before["cases"]] == [(48, 1), (48, 6)]
    monkeypatch.undo()
    assert main(["bench", "decode", "--from", str(file)]) == 0
    assert main(["bench", "decode", *SMALL, *kept]) == 0
    result = json.loads(file.read_text())
    assert result["cases"][:2] == before["cases"]
    assert [(case["prefix"], case["batch"]) for case in result["cases"][2:]] == [(160, 1), (160, 6)]
    # Floors of all cases go by the same rates.
    assert result["measured_rates"] == before["measured_rates"]
    assert result["summary"]["num_cases"] == 4

    other = [*kept, "--dtype", "bfloat16"]
    capsys.readouterr()
    assert main(["bench", "decode", *SMALL, *other]) == 2
    assert "--go-on: the earlier result is of other dtype; " in capsys.readouterr().err
    assert json.loads(file.read_text()) == result


def test_the_profile_shows_milliseconds_of_every_part(capsys):
    options = ["--batch", "2", "--prefix", "20", "--profile", "--plain-linear"]
    assert main(["bench", "decode", *SMALL, *options, "--dtype", "bfloat16"]) == 0
    out = capsys.readouterr().out
    title = "One step at batch 2 and prefix 20, clocks running: "
    _, profile = out.split(title)
    assert "plain linear layers" in profile
    rows = [line.split() for line in profile.splitlines()[3:]]
    assert [row[0] for row in rows] == [
        "attention", "linear", "head", "norms", "rest", "sampling", "arrays", "plan", "scheduler",
        "all",
    ]  # fmt: skip
    taken = [float(row[1]) for row in rows]
    assert sum(taken[:-1]) == pytest.approx(taken[-1], abs=0.06)
    assert max(map(len, out.splitlines())) <= 120


def test_linear_layers_are_packed_or_plain_as_asked(capsys):
    options = ["--batch", "1", "--prefix", "20", "--dtype", "bfloat16"]
    packed, plain = (
        measure(capsys, *options, *more)["linear_layers"] for more in ([], ["--plain-linear"])
    )
    assert (packed, plain) == ("packed", "plain")
    tiny = ModelSource(
        name="tiny", is_checkpoint=False, dtype="bfloat16", device="cpu", packs_linear=False
    )
    assert type(tiny.load().module.lm_head) is torch.nn.Linear


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
        (["--shape", "llama-9b"], "--shape: 'llama-9b' is not one of llama-8b"),
        (["--new-tokens", "0"], "--new-tokens: must be at least 1, got 0"),
        (["--versus", "vllm"], "invalid choice: 'vllm'"),
        (["--go-on"], "--go-on: needs --output, the file that is gone on with"),
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

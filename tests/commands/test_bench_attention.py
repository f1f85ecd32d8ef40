"""`treeserve bench attention` on a CPU: the real benchmark, at a small size."""

import json
from typing import Any

import pytest
import torch

from treeserve.attention.torch_cpu import TorchBackend
from treeserve.bench.attention import case as case_module
from treeserve.bench.attention import sdpa
from treeserve.commands.main import main

ON_CPU = ["--backend", "torch", "--device", "cpu", "--dtype", "float32", "--heads", "4/2"]
SMALL = [*ON_CPU, "--head-dim", "16", "--rounds", "1", "--values", "trees", "--calibration", "off"]
TREES = ["--tree", "1,2,8 | 400,30,5", "--tree", "comb 4 | 20,3"]


def measure(capsys, *options: str, status: int = 0) -> dict[str, Any]:
    assert main(["bench", "attention", *SMALL, *options, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_every_tree_is_checked_and_timed_beside_fused_attention_and_the_floor(capsys):
    result = measure(capsys, *TREES)
    assert result["benchmark"] == "attention"
    assert result["device"]["type"] == "cpu"
    assert result["versions"]["torch"] == torch.__version__
    assert result["date"].startswith("20")
    assert result["rates"]["float32"]["bytes_per_second"] > 0
    balanced, comb = result["cases"]
    assert (balanced["rows"], comb["rows"]) == (8, 4)
    assert balanced["distinct_tokens"] == 400 + 2 * 30 + 8 * 6
    for case in (balanced, comb):
        for side in ("shared", "plain", "sdpa"):
            found = case["sides"][side]
            assert found["status"] == "timed"
            assert found["error"] < 1e-5
            assert found["eager_seconds"] > 0
            assert found["graph_seconds"] is None
        assert case["sides"]["flex"]["status"] == "skipped"
        assert case["sides"]["flashinfer_cascade"]["reason"] == "FlashInfer runs on cuda only"
        assert case["ratios"].keys() == {"plain", "sdpa"}
        assert case["floor_seconds"] > 0
        assert case["plan_seconds"] > 0
    assert comb["sides"]["sdpa"]["note"] == "padded to the longest, with a mask"
    assert result["summary"]["all"]["ratios"]["sdpa"]["num_cases"] == 2
    assert result["left_out"] == result["errors"] == []


def test_every_head_configuration_and_dtype_is_a_case(capsys):
    options = ["--heads", "2/2", "--dtype", "bfloat16", "--tree", "1,2 | 20,3"]
    cases = measure(capsys, *options)["cases"]
    assert [(case["heads"], case["dtype"]) for case in cases] == [
        ("4/2", "float32"),
        ("2/2", "float32"),
        ("4/2", "bfloat16"),
        ("2/2", "bfloat16"),
    ]


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ("1 | 300", "batch 1"),
        ("4 | 30", "nothing shared"),
        ("1,4 | 64,100", "prefixes of at most 64 tokens"),
        ("1,4 | 65,100", ""),
    ],
)
def test_where_sharing_must_not_lose_is_told(capsys, tree, why):
    [case] = measure(capsys, "--tree", tree)["cases"]
    assert case["never_a_loss"] == why


def test_a_failed_value_check_shows_no_times_and_is_status_1(capsys, monkeypatch):
    attend = TorchBackend.attend
    monkeypatch.setattr(TorchBackend, "attend", lambda *a, **k: attend(*a, **k) + torch.ones(1))
    result = measure(capsys, *TREES, status=1)
    for case in result["cases"]:
        assert case["sides"]["plain"]["status"] == "wrong"
        assert "values differ from the reference" in case["sides"]["plain"]["reason"]
        assert all(side["eager_seconds"] is None for side in case["sides"].values())
    assert result["summary"]["num_wrong"] == 2
    assert main(["bench", "attention", *SMALL, *TREES]) == 1
    table = capsys.readouterr().out
    assert "2 of them WRONG" in table
    [row] = [line for line in table.splitlines() if line.startswith("comb 4")]
    *_, shared, eager, of_floor, plain, fused, _, _, _ = row.split()
    assert {shared, eager, of_floor, plain, fused} == {"–"}


def test_a_plan_that_leaves_a_row_out_is_found(capsys, monkeypatch):
    attend = TorchBackend.attend

    def without_last_row(self, *arguments, **options):
        out = attend(self, *arguments, **options)
        out[-1] = 0
        return out

    monkeypatch.setattr(TorchBackend, "attend", without_last_row)
    assert measure(capsys, *TREES, status=1)["summary"]["num_wrong"] == 2


def test_values_that_are_not_numbers_are_wrong(capsys, monkeypatch):
    attend = TorchBackend.attend
    monkeypatch.setattr(TorchBackend, "attend", lambda *a, **k: attend(*a, **k) * torch.nan)
    [case, _] = measure(capsys, *TREES, status=1)["cases"]
    assert "are not numbers" in case["sides"]["shared"]["reason"]


def test_a_wrong_baseline_shows_no_time_and_the_others_do(capsys, monkeypatch):
    fused = sdpa.scaled_dot_product_attention
    monkeypatch.setattr(sdpa, "scaled_dot_product_attention", lambda *a, **k: fused(*a, **k) * 2)
    for case in measure(capsys, *TREES)["cases"]:
        assert case["sides"]["sdpa"]["status"] == "wrong"
        assert case["sides"]["sdpa"]["eager_seconds"] is None
        assert case["sides"]["shared"]["eager_seconds"] > 0
        assert "sdpa" not in case["ratios"]


def test_a_baseline_that_breaks_off_is_skipped_with_its_reason(capsys, monkeypatch):
    def broken(_subject):
        raise RuntimeError("no kernel for this head size\nand a long story")

    monkeypatch.setitem(case_module.BASELINE_MAKERS, "sdpa", broken)
    [case, _] = measure(capsys, *TREES)["cases"]
    assert case["sides"]["sdpa"]["reason"] == "RuntimeError: no kernel for this head size"


def test_what_the_time_limit_leaves_out_is_told(capsys):
    result = measure(capsys, *TREES, "--time-limit", "1e-9")
    assert result["cases"] == []
    assert result["left_out"] == [
        "1,2,8 | 400,30,5, heads 4/2 of 16, float32",
        "comb 4 | 20,3, heads 4/2 of 16, float32",
    ]
    assert main(["bench", "attention", *SMALL, *TREES, "--time-limit", "1e-9"]) == 0
    assert "Left out, for the time limit:" in capsys.readouterr().out


def test_a_baseline_that_takes_too_long_to_get_ready_is_left_out_of_later_trees(
    capsys, monkeypatch
):
    monkeypatch.setattr("treeserve.bench.attention.suite._SETUP_SHARE", 1e-12)
    first, second = measure(capsys, *TREES, "--time-limit", "600")["cases"]
    assert first["sides"]["sdpa"]["status"] == "timed"
    assert second["sides"]["sdpa"]["status"] == "skipped"
    assert second["sides"]["sdpa"]["reason"].startswith("the time limit: getting it ready took")


def test_the_table_fits_a_terminal_and_can_be_shown_again_as_markdown(capsys, tmp_path):
    file = tmp_path / "result.json"
    assert main(["bench", "attention", *SMALL, *TREES, "--output", str(file)]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 120
    assert "heads 4/2 of 16, float32, torch backend; planned by built-in costs" in table
    assert main(["bench", "attention", "--from", str(file)]) == 0
    assert capsys.readouterr().out == table
    assert main(["bench", "attention", "--from", str(file), "--markdown"]) == 0
    page = capsys.readouterr().out
    [row] = [line for line in page.splitlines() if line.startswith("| 1,2,8 \\| 400,30,5 ")]
    assert row.replace("\\|", "").count("|") == 14


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--heads", "3/2"], "--heads: '3/2': KV heads must divide query heads"),
        (["--heads", "8"], "--heads: '8' is not QUERY/KV, 32/8 say"),
        (["--heads", "0/0"], "--heads: '0/0'"),
        (["--head-dim", "0"], "--head-dim: must be at least 1, got 0"),
        (["--tree", "1,2 | 8"], "--tree: '1,2 | 8' needs as many levels"),
        (["--tree", "comb 4"], "--tree: 'comb 4' is neither"),
        (["--rounds", "0"], "--rounds: must be at least 1, got 0"),
        (["--time-limit", "0"], "--time-limit: must be more than 0 seconds, got 0"),
        (["--markdown", "--json"], "--markdown: not with --json"),
        (["--output", "/nowhere/at/all.json"], "--output: there is no folder /nowhere/at"),
        (["--from", "/nowhere.json"], "--from: cannot read /nowhere.json: No such file"),
        (["--backend", "triton"], "--backend: triton does not run on cpu; try --backend torch"),
    ],
)
def test_options_out_of_range_are_named(capsys, options, words):
    assert main(["bench", "attention", *SMALL, *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_result_is_refused(capsys, tmp_path):
    for name, content, words in (
        ("text", "no JSON", "is not JSON"),
        ("other", '{"benchmark": "decode"}', "is no result of `treeserve bench attention`"),
    ):
        file = tmp_path / name
        file.write_text(content)
        assert main(["bench", "attention", "--from", str(file)]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("benchmark", "command"),
    [
        (["attention"], "treeserve bench attention --backend torch --device cpu --tree"),
        (["decode", "--device", "cuda"], "treeserve bench decode --device cpu --shape tiny"),
    ],
)
def test_without_cuda_the_error_says_how_to_run_on_a_cpu(capsys, benchmark, command):
    assert main(["bench", *benchmark]) == 2
    error = capsys.readouterr().err
    assert "PyTorch finds no CUDA device; on a CPU: " + command in error
    assert error.count("\n") == 1


def test_the_cpu_backend_is_timed_in_turn_with_the_torch_backend(capsys, cpu_kernel):
    options = ["--backend", "cpu", "--device", "cpu", "--heads", "4/2", "--head-dim", "16"]
    rest = ["--rounds", "1", "--values", "trees", "--calibration", "off", "--tree", "1,4 | 300,5"]
    assert main(["bench", "attention", *options, *rest, "--json"]) == 0
    [case] = json.loads(capsys.readouterr().out)["cases"]
    assert case["dtype"] == "bfloat16"
    for side in ("shared", "plain", "torch_backend", "sdpa"):
        assert case["sides"][side]["status"] == "timed"
        assert case["sides"][side]["error"] < 2e-2
    assert case["ratios"].keys() == {"plain", "torch_backend", "sdpa"}
    assert main(["bench", "attention", *options, *rest]) == 0
    assert "our torch backend takes" in capsys.readouterr().out


def test_times_may_be_those_of_the_processor_with_one_thread(capsys):
    result = measure(capsys, "--tree", "1,2 | 30,3", "--cpu-time")
    assert result["clock"] == "cpu"
    assert result["cases"][0]["sides"]["shared"]["eager_seconds"] > 0
    assert main(["bench", "attention", *SMALL, "--tree", "1,2 | 30,3", "--cpu-time"]) == 0
    assert "times are CPU time of the process" in capsys.readouterr().out


def test_cpu_time_with_several_threads_is_refused(capsys):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert main(["bench", "attention", *SMALL, "--cpu-time"]) == 2
    finally:
        torch.set_num_threads(before)
    assert "--cpu-time: threads that wait would count; set OMP_NUM_THREADS=1" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dtype", "float32"], "--dtype: --backend cpu is for bfloat16, not for float32"),
        (["--head-dim", "24"], "--head-dim: 24 is no multiple of 16, for --backend cpu"),
    ],
)
def test_what_the_cpu_backend_does_not_serve_is_refused(capsys, options, words):
    assert main(["bench", "attention", "--backend", "cpu", "--device", "cpu", *options]) == 2
    assert words in capsys.readouterr().err

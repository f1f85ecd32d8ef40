"""`treeserve bench`: both sides run, results are compared, and bad options are one clear line."""

import json

import pytest
import torch

from treeserve.attention.torch_cpu import TorchBackend
from treeserve.commands.bench_attention import parse_tree
from treeserve.commands.main import main
from treeserve.errors import ConfigError

ON_CPU = ["--backend", "torch", "--device", "cpu", "--dtype", "float32", "--heads", "4/2"]
SMALL = [*ON_CPU, "--head-dim", "16", "--rounds", "1", "--tree", "1,2,8 | 400,30,5"]


def test_sharing_on_reads_less_than_off(capsys, checkpoint_of):
    sizes = ["--prefix", "900", "--batch", "16", "--new-tokens", "3", "--rounds", "1"]
    assert main(["bench", "sharing", *sizes, "--json", "--model", str(checkpoint_of("llama"))]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["kv_tokens_read_on"] < result["kv_tokens_read_off"]
    assert result["kv_tokens_read_off"] > 900 * 16
    assert result["speedup"] > 0


def test_attention_over_a_tree_is_checked_before_it_is_timed(capsys):
    assert main(["bench", "attention", *SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["samples"] == 8
    assert result["work_items"] > 8
    assert result["max_error"] < 1e-5


def test_a_failed_value_check_shows_no_times(capsys, monkeypatch):
    attend = TorchBackend.attend
    monkeypatch.setattr(TorchBackend, "attend", lambda *a, **k: attend(*a, **k) + torch.ones(1))
    assert main(["bench", "attention", *SMALL]) == 1
    out = capsys.readouterr().out
    assert "values differ from the reference by 1" in out
    assert "us" not in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["sharing", "--batch", "0"], "--batch"),
        (["sharing", "--sharing", "off"], "--sharing"),
        (["attention", *ON_CPU, "--heads", "3/2"], "--heads"),
        (["attention", "--device", "cpu"], "--backend"),
        (["attention", *ON_CPU, "--tree", "1,2 | 8"], "--tree"),
    ],
)
def test_options_out_of_range_are_named(capsys, arguments, field):
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert field in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("tree", ["", "1,2", "1,x | 2,3", "2,1 | 3,4", "0 | 4"])
def test_a_broken_tree_is_refused(tree):
    with pytest.raises(ConfigError, match="--tree"):
        parse_tree(tree)

"""`treeserve bench`: both sides run, results are compared, and bad options are one clear line."""

import json

import pytest

from treeserve.commands.main import main


def test_sharing_on_reads_less_than_off(capsys, checkpoint_of):
    sizes = ["--prefix", "900", "--batch", "16", "--new-tokens", "3", "--rounds", "1"]
    assert main(["bench", "sharing", *sizes, "--json", "--model", str(checkpoint_of("llama"))]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["kv_tokens_read_on"] < result["kv_tokens_read_off"]
    assert result["kv_tokens_read_off"] > 900 * 16
    assert result["speedup"] > 0


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["sharing", "--batch", "0"], "--batch"),
        (["sharing", "--sharing", "off"], "--sharing"),
    ],
)
def test_options_out_of_range_are_named(capsys, arguments, field):
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert field in error
    assert error.count("\n") == 1

"""`treeserve bench decode --quantization int8`: what it measures and refuses."""

import json
from typing import Any

import pytest

from treeserve.commands.main import main

ONCE = ("--steps", "1", "--rounds", "1", "--calibration", "off")


def measure_one(capsys, *options: str) -> dict[str, Any]:
    """The one case of a model of the shape tiny."""
    assert main(["bench", "decode", "--device", "cpu", *ONCE, *options, "--json"]) == 0
    [case] = json.loads(capsys.readouterr().out)["cases"]
    return case


def test_quantized_weights_are_measured_and_take_half_the_memory(capsys, cpu_kernel):
    small = ["--batch", "1", "--prefix", "20", "--dtype", "bfloat16"]
    plain = measure_one(capsys, *small)
    quantized = measure_one(capsys, *small, "--quantization", "int8")
    assert quantized["status"] == "timed"
    # The embeddings are not tied to the head here, and stay as they are.
    assert quantized["weights_bytes"] < 0.7 * plain["weights_bytes"]
    assert quantized["pool_bytes"] == plain["pool_bytes"] > 0


def test_quantized_weights_of_another_dtype_are_refused_before_any_are_made(capsys):
    """Those of a large shape would take minutes."""
    options = ["--shape", "llama-8b", "--dtype", "float32", "--quantization", "int8"]
    assert main(["bench", "decode", "--device", "cpu", *options]) == 2
    error = capsys.readouterr().err
    assert "quantization: int8 is for dtype bfloat16, not float32; try dtype=bfloat16" in error


@pytest.mark.parametrize("other", [["--versus", "transformers"], ["--plain-linear"]])
def test_quantized_weights_are_not_compared_with_plain_ones(capsys, other):
    options = ["--quantization", "int8", *other]
    assert main(["bench", "decode", "--device", "cpu", *options]) == 2
    assert f"{other[0]}: not with --quantization int8" in capsys.readouterr().err

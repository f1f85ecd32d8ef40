"""Kernels compile ahead of time, with no GPU, for every target."""

import json
import os
import subprocess
import sys

from treeserve.kernels import aot


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: here kernels are interpreted, and nothing can be compiled."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "treeserve.kernels.aot", *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def test_representative_configurations_compile_and_fit():
    done = _run("--representative", "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    every = list(aot.configurations())
    assert len(results) == 2 * len(aot.representative(every)) >= 16
    assert {result["target"] for result in results} == {"sm_80", "sm_90"}
    for result in results:
        assert 0 < result["registers"] <= 255
        assert result["shared_bytes"] <= 163 * 1024, "what a block of sm_80 may have"
        most = 128 if result["name"].startswith("attention d=256 fp32") else 0
        assert result["spill_bytes"] <= most, result["name"]
        assert result["cubin_bytes"] > 0


def test_names_are_unique():
    names = [configuration.name for configuration in aot.configurations()]
    assert len(set(names)) == len(names)


def test_interpreted_kernels_are_refused():
    done = _run(TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET" in done.stderr


def test_a_failure_is_counted_and_the_rest_goes_on(monkeypatch, capsys):
    def compile_for(configuration, target):
        if target == "sm_80":
            raise RuntimeError("no registers left")
        return configuration.name

    monkeypatch.setattr(aot, "compile_for", compile_for)
    chosen = aot.representative(list(aot.configurations()))
    results, failures = aot.compile_all(chosen, aot.TARGETS)
    assert results == [configuration.name for configuration in chosen]
    assert failures == len(chosen)
    assert f"{chosen[0].name} sm_80: no registers left" in capsys.readouterr().err


def test_unknown_target_is_refused():
    done = _run("--target", "sm_1")
    assert done.returncode == 2
    assert "sm_1" in done.stderr

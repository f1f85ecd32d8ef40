"""Kernels compile ahead of time, with no GPU, for every target."""

import dataclasses
import json
import os
import subprocess
import sys

from treeserve.kernels import aot
from treeserve.kernels.sass import count_inner_loop_spills


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
        assert result["shared_bytes"] <= aot.MAX_SHARED_BYTES[result["target"]]
        assert result["inner_loop_spills"] == 0, result["name"]
        assert result["spill_bytes"] <= 16, result["name"]
        assert result["cubin_bytes"] > 0


SASS = """\
	MOV R1, R2;
LBB1:
	STL [R1], R3;
LBB2:
	HMMA R1, R2;
	{inner}
	@P0 BRA LBB2;
	@P1 BRA LBB1;
	LDL R3, [R1];
"""


def test_spills_count_where_they_are_in_an_innermost_loop():
    assert count_inner_loop_spills(SASS.format(inner="FADD R1, R2;")) == 0
    assert count_inner_loop_spills(SASS.format(inner="LDL.LU R1, [R2];")) == 1


def test_what_does_not_fit_or_spills_in_a_loop_fails():
    fits = aot.Compiled("a", "sm_80", 255, 163 << 10, 8, 0, 1)
    assert aot.problems([fits]) == []
    (line,) = aot.problems([dataclasses.replace(fits, shared_bytes=(163 << 10) + 1)])
    assert "shared memory" in line
    assert aot.problems([dataclasses.replace(fits, target="sm_90", shared_bytes=200 << 10)]) == []
    (line,) = aot.problems([dataclasses.replace(fits, inner_loop_spills=2)])
    assert "spills in an inner loop" in line


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

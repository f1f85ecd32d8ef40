"""Kernels compile ahead of time, with no GPU, for every target."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from treeserve.kernels import aot
from treeserve.kernels.configurations import configurations, representative
from treeserve.kernels.occupancy import MAX_SHARED_BYTES
from treeserve.kernels.resource_table import Compiled, markdown_table, problems, room_left
from treeserve.kernels.sass import Loop, count_inner_loop_spills, inner_loops


def _environment() -> dict[str, str]:
    """Of a process of its own: here kernels are interpreted, and nothing can be compiled."""
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run to its end; where this test is ended before, so are all processes that it started."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(
        command,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=280)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.fixture(scope="module")
def compiled() -> dict[tuple[str, str], dict]:
    """What the representative configurations came to, by name and target."""
    command = ("-m", "treeserve.kernels.aot", "--representative", "--json", "--jobs", "1")
    done = _python(*command)
    assert done.returncode == 0, done.stderr
    return {(result["name"], result["target"]): result for result in json.loads(done.stdout)}


def test_representative_configurations_compile_and_fit(compiled):
    every = list(configurations())
    assert len(compiled) == 2 * len(representative(every)) >= 20
    assert {target for _, target in compiled} == {"sm_80", "sm_90"}
    for (name, target), result in compiled.items():
        assert 0 < result["registers"] <= 255
        assert result["shared_bytes"] <= MAX_SHARED_BYTES[target]
        assert sum(loop["spills"] for loop in result["loops"]) == 0, name
        assert result["spill_bytes"] <= 128, name
        assert result["cubin_bytes"] > 0


def _tensor_core_loops(compiled) -> Iterator[tuple[str, str, dict]]:
    """Those of 16-bit attention, but a single pair's, which multiply no matrices."""
    for (name, target), result in compiled.items():
        if name.startswith("attention") and "fp32" not in name and "m=1..1" not in name.split():
            assert result["loops"]
            for loop in result["loops"]:
                yield name, target, loop


def test_k_and_v_are_gathered_16_bytes_a_thread_while_the_round_before_is_worked_on(compiled):
    """A round starts three groups of copies, of slots, K and V; of the slots' alone are narrow."""
    for name, target, loop in _tensor_core_loops(compiled):
        assert loop["wide_copies"] >= 2, (name, target)
        assert loop["narrow_copies"] <= 1, (name, target)
        assert loop["wide_loads"] == 0, (name, target)
        assert loop["groups"] == 3, (name, target)
        assert loop["groups_in_flight"] >= 3, (name, target)


def test_a_program_alone_on_its_multiprocessor_has_three_rounds_on_their_way(compiled):
    for target in ("sm_80", "sm_90"):
        for loop in compiled["attention d=128 bf16 m=16..128", target]["loops"]:
            assert loop["groups_in_flight"] == 9


def test_products_are_on_tensor_cores_of_the_target(compiled):
    """On sm_90 those of 64 pairs and more are warpgroups' products; 16 are too few for one."""
    for name, target, loop in _tensor_core_loops(compiled):
        assert loop["warp_products"] + loop["warpgroup_products"] > 0, (name, target)
        if target == "sm_80":
            assert loop["warpgroup_products"] == 0
    *wide, narrow, narrow_masked = compiled["attention d=128 bf16 m=16..128", "sm_90"]["loops"]
    assert len(wide) == 4
    assert all(loop["warpgroup_products"] and not loop["warp_products"] for loop in wide)
    assert narrow["warp_products"]
    assert narrow_masked["warp_products"]


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("head_dim", [96, 128])
def test_a_single_pair_reads_wide_and_no_warp_waits_for_another(compiled, head_dim, target):
    loops = compiled[f"attention d={head_dim} bf16 m=1..1", target]["loops"]
    assert len(loops) == 2
    for loop in loops:
        # 32 tokens' K and V of 128 dimensions, by 128 threads.
        assert loop["wide_loads"] == 8
        assert loop["barriers"] == loop["shared_accesses"] == 0


SASS = """\
	MOV R1, R2;
LBB1:
	STL [R1], R3;
LBB2:
	HMMA.16816.F32.BF16 R1, R2;
	@!P1 LDGSTS.E.BYPASS.128 [R1], [R2.64], P3;
	LDGSTS.E [R1], [R2.64];
	LDG.E.128 R1, [R2.64];
	LDG.E R1, [R2.64];
	LDGDEPBAR;
	DEPBAR.LE SB0, 0x3;
	BAR.SYNC 0x0;
	{inner}
	@P0 BRA LBB2;
	@P1 BRA LBB1;
	LDL R3, [R1];
LBB3:
	BRA LBB3;
"""


def test_spills_count_where_they_are_in_an_innermost_loop():
    assert count_inner_loop_spills(SASS.format(inner="FADD R1, R2;")) == 0
    assert count_inner_loop_spills(SASS.format(inner="LDL.LU R1, [R2];")) == 1


def test_a_loop_is_told_by_its_instructions():
    (loop,) = inner_loops(SASS.format(inner="LDS R1, [R2];"))
    assert loop == Loop(
        instructions=10,
        wide_copies=1,
        narrow_copies=1,
        wide_loads=1,
        groups=1,
        groups_in_flight=3,
        warp_products=1,
        warpgroup_products=0,
        barriers=1,
        shared_accesses=1,
        spills=0,
    )


SPILLING = """
import dataclasses
from treeserve.kernels.aot import compile_for
from treeserve.kernels.configurations import configurations
from treeserve.kernels.resource_table import problems

(fits,) = (c for c in configurations() if c.name == "attention d=128 bf16 m=16..16")
spills = dataclasses.replace(fits, options={**fits.options, "maxnreg": 40})
print(*problems([compile_for(spills, "sm_80")]), sep="\\n")
"""


def test_a_kernel_with_too_few_registers_really_spills_and_fails():
    """A round of 32 tokens does not do with 40 registers a thread."""
    done = _python("-c", SPILLING)
    assert "spills in an inner loop" in done.stdout, done.stderr


def _compiled(**changes) -> Compiled:
    fits = Compiled(
        name="attention d=128 bf16 m=16..128",
        head_dim=128,
        dtype="bf16",
        widest_pairs=128,
        target="sm_80",
        num_warps=8,
        registers=255,
        shared_bytes=163 << 10,
        spill_bytes=8,
        programs_claimed=1,
        loops=tuple(inner_loops(SASS.format(inner="FADD R1, R2;"))),
        cubin_bytes=1,
    )
    return dataclasses.replace(fits, **changes)


def test_what_does_not_fit_or_spills_in_a_loop_fails():
    assert problems([_compiled()]) == []
    (line, _) = problems([_compiled(shared_bytes=(163 << 10) + 1025)])
    assert "shared memory" in line
    assert problems([_compiled(target="sm_90", shared_bytes=200 << 10)]) == []
    spilling = tuple(inner_loops(SASS.format(inner="STL [R1], R2;\n\tLDL R1, [R2];")))
    (line,) = problems([_compiled(loops=spilling)])
    assert "spills in an inner loop, 2 instructions" in line


def test_a_claim_of_more_programs_than_fit_fails_and_room_for_more_is_told():
    (line,) = problems([_compiled(programs_claimed=2)])
    assert "programs_per_multiprocessor is 2, but 1 fit" in line
    assert room_left([_compiled()]) == []
    small = _compiled(registers=64, shared_bytes=1024)
    (line,) = room_left([small, dataclasses.replace(small, registers=80)])
    assert line.endswith("1 programs per multiprocessor, with room for 3")


def test_the_markdown_table_has_the_worst_case_of_a_group_for_each_target():
    results = [
        _compiled(registers=100, shared_bytes=2048),
        _compiled(registers=120, shared_bytes=1024, dtype="fp16"),
        _compiled(registers=90, shared_bytes=1024, target="sm_90"),
    ]
    *_, row = markdown_table(results).splitlines()
    assert [cell.strip() for cell in row.strip("|").split("|")][3:5] == ["120 / 90", "2.0 / 1.0"]


def test_no_kernel_is_compiled_twice():
    every = list(configurations())
    assert len({configuration.name for configuration in every}) == len(every)
    kernels = {
        (c.kernel.__name__, *(tuple(sorted(m.items())) for m in (c.types, c.constants, c.options)))
        for c in every
    }
    assert len(kernels) == len(every)


def test_interpreted_kernels_are_refused(capsys):
    """As they are in this process."""
    assert aot.main([]) == 2
    assert "TRITON_INTERPRET" in capsys.readouterr().err


FAILING = """
import sys
from treeserve.kernels import aot

if __name__ == "__main__":
    chosen = [c for c in aot.configurations() if c.name.startswith("kv_write d=16 ")]
    results, failures = aot.compile_all(chosen, ["sm_1", "sm_80"], 1, aot._to_stderr)
    print(failures, *(result.name for result in results), sep=",")
"""


def test_a_failure_is_counted_and_the_rest_goes_on(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    done = _python(str(script))
    assert done.stdout.strip() == "3,kv_write d=16 bf16,kv_write d=16 fp16,kv_write d=16 fp32"
    assert "kv_write d=16 bf16 sm_1: " in done.stderr


def test_an_interrupt_ends_it_and_leaves_nothing(tmp_path):
    """As a terminal sends it: to every process of the group."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE],
        env=_environment() | {"TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr.readline() == "634 kernels, 1 at a time\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=280)
    assert process.returncode == 130
    # Of kernels that are done by then there may be progress, and NVIDIA's disassembler may warn.
    assert err.endswith("interrupted\n")
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


INTERRUPTIBLE = """
import signal, sys
from treeserve.kernels import aot

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(aot.main(["--jobs", "1"]))
"""
"""Tests may run where interrupts are ignored, and children would inherit that."""


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_number_of_processes_below_one_is_refused(capsys, number):
    error = _bad_usage(capsys, "--jobs", number)
    assert "--jobs" in error
    assert "at least 1" in error or number == "-1"


def test_unknown_target_is_refused(capsys):
    assert "sm_1" in _bad_usage(capsys, "--target", "sm_1")


def _bad_usage(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        aot.main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err

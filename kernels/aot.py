"""Compiles every shipped kernel configuration ahead of time, on any machine, with no GPU."""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict

import triton
from triton.backends.compiler import GPUTarget

from treeserve.kernels.configurations import (
    Configuration,
    configurations,
    representative,
    source_of,
)
from treeserve.kernels.resource_table import (
    Compiled,
    markdown_table,
    problems,
    room_left,
    text_table,
)
from treeserve.kernels.sass import inner_loops

TARGETS = ("sm_80", "sm_90")
INTERRUPTED = 130
_REPORT_SECONDS = 10


def compile_for(
    configuration: Configuration, target: str, scratch_folder: str | None = None
) -> Compiled:
    """Compile down to a cubin.

    Args:
        configuration: One of `configurations()`.
        target: "sm_80", "sm_90", …
        scratch_folder: Where the compiler may write. None: where temporary files go.
    """
    source = source_of(configuration)
    gpu = GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    log = io.StringIO()
    with (
        tempfile.TemporaryDirectory(dir=scratch_folder) as folder,
        triton.knobs.nvidia.scope(),
        triton.knobs.cache.scope(),
        contextlib.redirect_stdout(log),
    ):
        triton.knobs.cache.dir = folder
        triton.knobs.nvidia.dump_ptxas_log = True
        options = {**configuration.options, "enable_fp_fusion": True}
        compiled = triton.compile(source, target=gpu, options=options)
        sass = compiled.asm["sass"]
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log.getvalue())
    registers = re.search(r"Used (\d+) registers", log.getvalue())
    if spills is None or registers is None:
        raise RuntimeError(f"{configuration.name}: ptxas said nothing of its registers")
    return Compiled(
        name=configuration.name,
        head_dim=configuration.head_dim,
        dtype=configuration.dtype,
        widest_pairs=configuration.widest_pairs,
        target=target,
        num_warps=configuration.options["num_warps"],
        registers=int(registers[1]),
        shared_bytes=compiled.metadata.shared,
        spill_bytes=int(spills[1]) + int(spills[2]),
        programs_claimed=configuration.programs_claimed,
        loops=tuple(inner_loops(sass)),
        cubin_bytes=len(compiled.asm["cubin"]),
    )


def compile_all(
    chosen: Sequence[Configuration],
    targets: Sequence[str],
    num_jobs: int,
    report: Callable[[str], None],
) -> tuple[list[Compiled], int]:
    """Compile each for each target and go on after a failure: what compiled, and failures.

    Args:
        chosen: What to compile.
        targets: For which.
        num_jobs: Processes side by side.
        report: Is told of failures and of how far it is, a line at a time.
    """
    jobs = [(configuration, target) for configuration in chosen for target in targets]
    # What an interrupted process leaves there goes with the folder.
    with tempfile.TemporaryDirectory(prefix="treeserve-aot-") as folder, _pool(num_jobs) as pool:
        # Kernels with wide tiles take longest, so they go first.
        order = sorted(range(len(jobs)), key=lambda i: -(jobs[i][0].widest_pairs or 0))
        report(f"{len(jobs)} kernels, {num_jobs} at a time")
        with _interrupts_held_back():
            numbers = {pool.submit(_compile_named, *_named(jobs[i]), folder): i for i in order}
        results: dict[int, Compiled] = {}
        for future in _with_progress(numbers, report):
            configuration, target = jobs[numbers[future]]
            error = future.exception()
            if error is None:
                results[numbers[future]] = future.result()
            else:
                report(f"{configuration.name} {target}: {error}")
    return [results[i] for i in sorted(results)], len(jobs) - len(results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print a table, and return 1 if anything failed, spills or does not fit."""
    options = _parser().parse_args(arguments)
    if triton.knobs.runtime.interpret:
        print("TRITON_INTERPRET is set: nothing can be compiled", file=sys.stderr)
        return 2
    chosen = list(configurations())
    if options.representative:
        chosen = representative(chosen)
    try:
        results, failures = compile_all(chosen, options.target, options.jobs, _to_stderr)
    except KeyboardInterrupt:
        _to_stderr("interrupted")
        return INTERRUPTED
    if options.json:
        print(json.dumps([asdict(result) for result in results]))
    elif options.markdown:
        print(markdown_table(results))
    else:
        print(text_table(results))
        print(f"{len(results)} compiled, {failures} failed", *room_left(results), sep="\n")
    found = problems(results)
    print(*found, sep="\n", end="\n" * bool(found), file=sys.stderr)
    return 1 if failures or found else 0


@contextlib.contextmanager
def _pool(num_jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that share nothing; an interrupt ends them and what they have started."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_jobs, context, initializer=_die_of_interrupts)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes started meanwhile hold them back too, until they can die of them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _die_of_interrupts() -> None:
    """Quietly, and the compiler's own processes with it, which inherit this."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _named(job: tuple[Configuration, str]) -> tuple[str, str]:
    """Kernels cannot be sent to another process; their names can."""
    configuration, target = job
    return configuration.name, target


def _compile_named(name: str, target: str, scratch_folder: str) -> Compiled:
    (configuration,) = (c for c in configurations() if c.name == name)
    return compile_for(configuration, target, scratch_folder)


def _with_progress(
    futures: Collection[Future[Compiled]],
    report: Callable[[str], None],
) -> Iterator[Future[Compiled]]:
    """The futures as they end; now and then a line says how many have, and how long it may take."""
    started = reported = time.monotonic()
    for num_done, future in enumerate(as_completed(futures), start=1):
        yield future
        now = time.monotonic()
        if now - reported > _REPORT_SECONDS:
            reported = now
            seconds_left = (now - started) / num_done * (len(futures) - num_done)
            report(f"{num_done} of {len(futures)}, at most about {seconds_left / 60:.1f} min left")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _num_jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes, at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m treeserve.kernels.aot", description=__doc__)
    parser.add_argument("--target", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--representative", action="store_true", help="a few instead of all")
    parser.add_argument(
        "--jobs",
        type=_num_jobs,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="processes side by side (default: one for each core)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON instead of a table")
    form.add_argument("--markdown", action="store_true", help="print the worst cases, in Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())

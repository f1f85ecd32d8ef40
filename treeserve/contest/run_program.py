"""Judges programs that a model wrote: refused unless they keep to a small Python, then run in a
confined child.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from treeserve.contest.problem import Problem
from treeserve.contest.small_python import refusal

Outcome = Literal["passed", "wrong", "error", "timeout", "refused"]

CPU_SECONDS = 1.0
"""Of the processor, for one program over all of its cases, until an alarm in the child ends it."""

GRACE_SECONDS = 2.0
"""How much more of the processor it may use, where the alarm does not get through, until its child
is ended.
"""

_SILENT_SECONDS = 120.0
"""For a child that starts or answers; it takes as long only where something holds it up."""
_REPLY_BYTES = 1 << 22
_CHILD = Path(__file__).with_name("confined_child.py")


@dataclass(frozen=True)
class Verdict:
    """What came of a program. `case` is the first failing case's index, samples first; `detail`
    says why it failed.
    """

    outcome: Outcome
    case: int | None = None
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether every case came out as expected."""
        return self.outcome == "passed"


class ProgramRunner:
    """Runs programs one after the other in a child process, which is replaced whenever a program
    ruins it.

    The child has no file descriptors but its pipes, no environment, bounded memory and processor
    time, and may write no files and start no processes. Use as a context manager; one thread at a
    time.
    """

    def __init__(
        self, cpu_seconds: float = CPU_SECONDS, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self._cpu_seconds = cpu_seconds
        self._grace_seconds = grace_seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ProgramRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child; the next program starts another."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def judge(self, problem: Problem, program: str) -> Verdict:
        """Run a program on a problem's cases, in order, until one fails. Output is compared line by
        line, trimmed.
        """
        reason = refusal(program)
        if reason is not None:
            return Verdict("refused", None, reason)
        reply = self._ask({"program": program, "inputs": [case.stdin for case in problem.cases]})
        if reply is None:
            return Verdict(
                "timeout",
                None,
                f"more than {self._cpu_seconds + self._grace_seconds:g} s, or its process died",
            )
        return _compare(problem, reply)

    def _ask(self, task: Mapping[str, object]) -> Mapping[str, object] | None:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = _start_child(self._cpu_seconds, self._grace_seconds)
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(task).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            self.close()
            return None
        line = _read_line(self._child, self._cpu_seconds + self._grace_seconds + _SILENT_SECONDS)
        reply = _parse_reply(line)
        if reply is None:
            self.close()
        return reply


def judge(problem: Problem, program: str) -> Verdict:
    """Judge one program in a child of its own; for many, keep a ProgramRunner."""
    with ProgramRunner() as runner:
        return runner.judge(problem, program)


def judge_many(problem: Problem, programs: Sequence[str]) -> list[Verdict]:
    """Judge programs for one problem, each different one once."""
    with ProgramRunner() as runner:
        verdicts = {program: runner.judge(problem, program) for program in dict.fromkeys(programs)}
    return [verdicts[program] for program in programs]


def _compare(problem: Problem, reply: Mapping[str, object]) -> Verdict:
    outputs, failure, detail = (
        reply.get("outputs"),
        reply.get("failure"),
        str(reply.get("detail", "")),
    )
    if not isinstance(outputs, list):
        return Verdict("error", None, "the child's answer made no sense")
    for index, (case, output) in enumerate(zip(problem.cases, outputs, strict=False)):
        if _trimmed(str(output)) != _trimmed(case.stdout):
            return Verdict(
                "wrong", index, f"expected {case.stdout[:200]!r}, got {str(output)[:200]!r}"
            )
    if failure == "timeout":
        return Verdict("timeout", len(outputs), detail)
    if failure is not None or len(outputs) != len(problem.cases):
        return Verdict("error", len(outputs), detail)
    return Verdict("passed")


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _start_child(cpu_seconds: float, grace_seconds: float) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_CHILD), str(cpu_seconds), str(grace_seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        close_fds=True,
        start_new_session=True,
    )
    if _read_line(child, _SILENT_SECONDS) != b"ready\n":
        child.kill()
        child.communicate()
        raise RuntimeError("the child process that runs programs did not start")
    return child


def _read_line(child: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """One line from the child; None at the deadline, at its end, or where the line is too long."""
    assert child.stdout is not None
    descriptor, deadline, received = child.stdout.fileno(), time.monotonic() + seconds, b""
    while not received.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready or len(received) > _REPLY_BYTES:
            return None
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return None
        received += chunk
    return received


def _parse_reply(line: bytes | None) -> Mapping[str, object] | None:
    try:
        reply = json.loads(line) if line is not None else None
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None

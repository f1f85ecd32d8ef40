"""Judges one program: built once, run on case after case until one fails."""

import json
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from treeserve.contest.judging import checkers
from treeserve.contest.judging.extract import Program
from treeserve.contest.judging.verdict import Code, Verdict
from treeserve.contest.records.contest_problem import (
    CallCase,
    Case,
    CheckerName,
    ContestProblem,
    StdioCase,
    TestCase,
)
from treeserve.contest.sandbox import sandbox
from treeserve.contest.sandbox.languages import LANGUAGES, Language
from treeserve.contest.sandbox.limits import Limits, Ran
from treeserve.contest.sandbox.sandbox import Worker
from treeserve.errors import ConfigError, why_unreadable

MAX_PROGRAM_CHARACTERS = 1 << 18
WALL_FACTOR, WALL_SLACK = 3.0, 2.0
"""How much time may pass for each second of processor time, and beside it."""

_HARNESS = Path(sandbox.__file__).with_name("call_harness.py")
_SIGXFSZ = 128 + 25
_OUT_OF_MEMORY = ("MemoryError", "std::bad_alloc", "Cannot allocate memory")
_DETAIL = 300


@dataclass(frozen=True)
class CustomChecker:
    """A checker program, ready to run: it gets the names of three files (what was read, what was
    printed, what was expected) and ends with 0 where the output is right.
    """

    language: Language
    files: dict[str, bytes]


@dataclass(frozen=True)
class JudgeOptions:
    """What the caller may set; None leaves a problem's own.

    Attributes:
        default_time_seconds: Processor time of a case, for problems that set none.
        time_seconds: For all problems.
        default_memory_bytes: Memory of a case, for problems that set none.
        memory_bytes: For all problems.
        checker: For all problems that read stdin.
        tolerance: Of `float`, and of numbers that functions return.
        limits: The limits that are no problem's business.
    """

    default_time_seconds: float = 4.0
    time_seconds: float | None = None
    default_memory_bytes: int = 512 << 20
    memory_bytes: int | None = None
    checker: CheckerName | None = None
    tolerance: float = checkers.DEFAULT_TOLERANCE
    limits: Limits = field(default_factory=Limits)

    def limits_for(self, problem: ContestProblem, language: Language) -> Limits:
        """The limits of one case."""
        cpu = self.time_seconds or problem.time_seconds or self.default_time_seconds
        memory = self.memory_bytes or problem.memory_bytes or self.default_memory_bytes
        return replace(
            language.limits(self.limits),
            cpu_seconds=cpu,
            wall_seconds=WALL_FACTOR * cpu + WALL_SLACK,
            memory_bytes=memory,
        )


class ProgramJudge:
    """Judges programs one after the other with one worker."""

    def __init__(
        self,
        worker: Worker,
        python: str,
        options: JudgeOptions,
        checker: CustomChecker | None = None,
    ) -> None:
        self._worker = worker
        self._python = python
        self._options = options
        self._checker = checker
        self._harness = _HARNESS.read_bytes()

    def judge(self, problem: ContestProblem, program: Program) -> Verdict:
        """The verdict. A problem without cases is unjudged, whatever the program."""
        refused = _not_judged(problem, program)
        if refused:
            return Verdict("unjudged", detail=refused)
        language, count = LANGUAGES[program.language], len(problem.cases)
        if len(program.text) > MAX_PROGRAM_CHARACTERS:
            return Verdict("CE", None, count, detail=f"over {MAX_PROGRAM_CHARACTERS} characters")
        files, failure = self.build(program.text, language)
        if failure:
            return Verdict("CE", None, count, detail=failure)
        limits = self._options.limits_for(problem, language)
        seconds, memory = 0.0, 0
        for index, case in enumerate(problem.cases):
            ran, code, detail = self._case(problem, case, language, files, limits)
            seconds, memory = max(seconds, ran.cpu_seconds), max(memory, ran.memory_bytes)
            if code != "AC":
                return Verdict(code, index, count, seconds, memory, detail)
        return Verdict("AC", None, count, seconds, memory)

    def build(self, text: str, language: Language) -> tuple[dict[str, bytes], str]:
        """The files that running a program needs, or why it is no program."""
        files = {language.source: _encoded(text)}
        ran = self._run(language.build, files, b"", language.build_limits)
        if ran.ending != "exited" or ran.exit_code != 0:
            said = _last_line(ran.stderr) if ran.ending == "exited" else f"over its {ran.ending}"
            return {}, said or f"the build ended with {ran.exit_code}"
        return ({language.built: ran.stdout} if language.built else files), ""

    def custom_checker(self, file: Path) -> CustomChecker:
        """A checker program from its source, whose suffix says the language.

        Raises ConfigError where it cannot be read or built.
        """
        suffixes = {Path(language.source).suffix: language for language in LANGUAGES.values()}
        language = suffixes.get(file.suffix)
        if language is None:
            raise ConfigError(
                f"--checker-program: {file}: expected a file ending in {' or '.join(suffixes)}"
            )
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--checker-program: {file}: cannot be read: {why_unreadable(error)}"
            ) from None
        files, failure = self.build(text, language)
        if failure:
            raise ConfigError(f"--checker-program: {file}: does not build: {failure}")
        return CustomChecker(language, files)

    def _run(
        self, command: tuple[str, ...], files: dict[str, bytes], stdin: bytes, limits: Limits
    ) -> Ran:
        parts = [part.replace("{python}", self._python) for part in command]
        return self._worker.run(parts, files, stdin, limits)

    def _case(
        self,
        problem: ContestProblem,
        case: Case,
        language: Language,
        files: dict[str, bytes],
        limits: Limits,
    ) -> tuple[Ran, Code, str]:
        if isinstance(case, StdioCase):
            ran = self._run(language.run, files, _encoded(case.stdin), limits)
            failed = _failure(ran, limits)
            if failed is not None:
                return ran, *failed
            wrong = self._stdio_difference(problem, case, ran.stdout)
            return ran, "WA" if wrong else "AC", wrong or ""
        nonce = secrets.token_hex(16)
        ran = self._run(*_call(problem, case, nonce, files, self._harness), limits)
        failed = _failure(ran, limits)
        if failed is not None:
            return ran, *failed
        return ran, *_call_outcome(case, nonce, ran, self._options.tolerance)

    def _stdio_difference(
        self, problem: ContestProblem, case: StdioCase, printed: bytes
    ) -> str | None:
        if self._checker is not None:
            return self._custom_difference(self._checker, case, printed)
        checker = self._options.checker or problem.checker
        got = printed.decode(errors="replace")
        return checkers.difference(checker, got, case.stdout, self._options.tolerance)

    def _custom_difference(
        self, checker: CustomChecker, case: StdioCase, printed: bytes
    ) -> str | None:
        given = {"in": _encoded(case.stdin), "out": printed, "expected": _encoded(case.stdout)}
        command = (*checker.language.run, *(f"{{box}}/{name}" for name in given))
        limits = checker.language.limits(checker.language.build_limits)
        ran = self._run(command, checker.files | given, b"", limits)
        if ran.ending == "exited" and ran.exit_code == 0:
            return None
        said = _last_line(ran.stdout) or _last_line(ran.stderr)
        return f"the checker says: {said or ran.exit_code}"


def _not_judged(problem: ContestProblem, program: Program) -> str:
    if not problem.cases:
        return "the problem has no cases"
    called = any(not isinstance(case, StdioCase) for case in problem.cases)
    if called and program.language != "python":
        return "the problem calls a function, which only Python programs can have"
    return ""


def _call(
    problem: ContestProblem,
    case: CallCase | TestCase,
    nonce: str,
    files: dict[str, bytes],
    harness: bytes,
) -> tuple[tuple[str, ...], dict[str, bytes], bytes]:
    """Command, files and stdin of the harness; the sample sees its own file only."""
    task: dict[str, Any] = {"nonce": nonce, "function": problem.function_name}
    command = ["{python}", "-I", "{box}/harness.py", "{box}/main.py"]
    if isinstance(case, CallCase):
        task["arguments"] = case.arguments
        command.append("prelude")
    else:
        task |= {"setup": case.setup, "code": case.code}
    return tuple(command), files | {"harness.py": harness}, json.dumps(task).encode()


def _call_outcome(
    case: CallCase | TestCase, nonce: str, ran: Ran, tolerance: float
) -> tuple[Code, str]:
    try:
        report = json.loads(ran.stdout)
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict) or report.get("nonce") != nonce:
        return "RE", "the program ended before it answered"
    if "error" in report:
        detail = str(report.get("detail", ""))[:_DETAIL]
        if report["error"] != "sample":
            return "WA", detail or "a test failed"
        return ("MLE" if detail.startswith(_OUT_OF_MEMORY) else "RE"), detail
    if isinstance(case, TestCase):
        return "AC", ""
    wrong = checkers.value_difference(report["value"], case.expected, tolerance)
    return ("WA", wrong) if wrong else ("AC", "")


def _failure(ran: Ran, limits: Limits) -> tuple[Code, str] | None:
    """The verdict of a run that did not end well; None where its output decides."""
    if ran.ending == "output" or ran.exit_code == _SIGXFSZ:
        return "OLE", f"more than {limits.output_bytes:,} bytes"
    if ran.ending == "processes":
        return "RE", f"more than {limits.processes} processes"
    if ran.ending == "time" or ran.cpu_seconds > limits.cpu_seconds:
        if ran.cpu_seconds > limits.cpu_seconds:
            return "TLE", f"more than {limits.cpu_seconds:g} s of processor time"
        return "TLE", f"more than {limits.wall_seconds:g} s"
    if ran.ending == "memory" or ran.memory_bytes > limits.memory_bytes:
        return "MLE", f"more than {limits.memory_bytes >> 20} MiB"
    if ran.exit_code == 0:
        return None
    said = _last_line(ran.stderr)
    if any(sign in said for sign in _OUT_OF_MEMORY):
        return "MLE", said
    return "RE", said or _exit(ran.exit_code)


def _encoded(text: str) -> bytes:
    """JSON can hold halves of characters, which no other encoding takes."""
    return text.encode(errors="surrogatepass")


def _exit(code: int) -> str:
    return f"signal {code - 128}" if code > 128 else f"exit code {code}"


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    errors = [line for line in lines if "error:" in line]  # g++ ends with notes
    return (errors[0] if errors else lines[-1] if lines else "")[:_DETAIL]

"""The verdict file: a head that says what was judged and how, the problems, and a line for each
sample, added as it is judged.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from treeserve.contest.judging.verdict import CODES, Verdict
from treeserve.contest.line_file import lock, read_line, write_line
from treeserve.contest.records.contest_problem import ContestProblem
from treeserve.contest.records.fields import RecordError
from treeserve.errors import ConfigError, why_unreadable

FORMAT = "treeserve contest verdicts 1"


@dataclass(frozen=True)
class JudgedSample:
    """A line of the file: the sample, the program's key, and the verdict on it.

    `round` counts the repairs that lie before the sample.
    """

    problem_id: str
    sample_index: int
    program_key: str
    verdict: Verdict
    round: int = 0


@dataclass(frozen=True)
class JudgedProblem:
    """What the report needs of a problem."""

    problem_id: str
    title: str
    difficulty: str
    num_cases: int


@dataclass(frozen=True)
class VerdictFile:
    """A verdict file as it was read."""

    head: Mapping[str, Any]
    problems: tuple[JudgedProblem, ...]
    samples: tuple[JudgedSample, ...]


def read_verdicts(path: Path) -> VerdictFile:
    """Read a verdict file; a last line without an end, of a judge that was killed, is left out.

    Raises RecordError, which names file, line and field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read: {why_unreadable(error)}") from None
    records = [
        read_line(line, f"{path}:{number}")
        for number, line in enumerate(text.split("\n")[:-1], start=1)
    ]
    if not records or records[0].get("format") != FORMAT:
        raise RecordError(f"{path}:1: not a verdict file of `treeserve contest judge`")
    problems, samples = [], []
    for number, record in enumerate(records[1:], start=2):
        try:
            if record["kind"] == "problem":
                problems.append(JudgedProblem(**_without_kind(record)))
            else:
                samples.append(_sample_of(_without_kind(record)))
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{path}:{number}: not a line of a verdict file: {error}") from None
    return VerdictFile(records[0], tuple(problems), tuple(samples))


class VerdictWriter:
    """Adds lines to a verdict file, each as a whole; a context manager.

    Attributes:
        num_added: Lines so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.num_added = 0

    def __enter__(self) -> "VerdictWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, sample: JudgedSample) -> None:
        """Write one line; it is in the file when this returns."""
        record = {
            "kind": "verdict",
            "problem_id": sample.problem_id,
            "sample_index": sample.sample_index,
            "program_key": sample.program_key,
            **({"round": sample.round} if sample.round else {}),
            **asdict(sample.verdict),
        }
        self._file.write(write_line(record))
        self._file.flush()
        self.num_added += 1


def create(path: Path, head: Mapping[str, Any], problems: Iterable[ContestProblem]) -> None:
    """Begin a file. Raises ConfigError where that is impossible."""
    lines = [write_line({"kind": "header", "format": FORMAT, **head})]
    for problem in problems:
        judged = JudgedProblem(
            problem.problem_id, problem.title, problem.difficulty, len(problem.cases)
        )
        lines.append(write_line({"kind": "problem", **asdict(judged)}))
    try:
        with path.open("xb") as file:
            file.write(b"".join(lines))
    except OSError as error:
        raise ConfigError(f"--output: {path}: cannot be written: {error}") from None


def go_on(path: Path) -> VerdictWriter:
    """Open a file to add lines; what a killed judge left half written is cut off.

    It is locked until it is closed. Raises ConfigError where another judge writes it.
    """
    file = path.open("ab")
    try:
        lock(file, path)
    except ConfigError:
        file.close()
        raise
    file.truncate(path.read_bytes().rfind(b"\n") + 1)
    return VerdictWriter(file)


def _without_kind(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "kind"}


def _sample_of(record: dict[str, Any]) -> JudgedSample:
    own = {name: record.pop(name) for name in ("problem_id", "sample_index", "program_key")}
    own["round"] = record.pop("round", 0)
    verdict = Verdict(**record)
    if verdict.code not in CODES:
        raise ValueError(f"unknown verdict {verdict.code!r}")
    return JudgedSample(**own, verdict=verdict)

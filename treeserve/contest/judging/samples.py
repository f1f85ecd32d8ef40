"""The samples file: JSON lines that `sample` writes and `judge` and `report` read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treeserve.contest.judging.extract import Program, extract
from treeserve.contest.line_file import read_line
from treeserve.contest.records import fields
from treeserve.contest.records.contest_problem import ContestProblem
from treeserve.contest.records.fields import Record, RecordError
from treeserve.contest.sandbox.languages import LANGUAGES
from treeserve.errors import why_unreadable

USAGE_FIELDS = (
    "prompt_tokens",
    "cached_tokens",
    "shared_tokens",
    "computed_tokens",
    "completion_tokens",
    "kv_tokens_read",
    "kv_tokens_read_flat",
    "kv_bytes_per_token",
    "seconds",
    "seconds_sharing_off",
)


@dataclass(frozen=True)
class Sample:
    """One sample of a problem.

    Attributes:
        sample_index: Unique among the problem's samples, from 0.
        text: What the model wrote.
        program: The program in it, where it was taken out already.
        language: A key of LANGUAGES; None: the text says, or Python.
        parent: Index of the sample that it branches from (repair); None: the problem's prompt.
        round: How many repairs lie before it; 0 for a first attempt.
    """

    problem_id: str
    sample_index: int
    text: str = ""
    program: str | None = None
    language: str | None = None
    parent: int | None = None
    round: int = 0

    def to_run(self, problem: ContestProblem) -> Program:
        """The program to judge."""
        if self.program is not None:
            return Program(self.program, self.language or "python")
        return extract(self.text, problem, self.language)


@dataclass(frozen=True)
class SampleFile:
    """Samples in the order of their file, its head, the sums of its usage lines, and what was
    wrong with lines left out.

    `head` says how the samples were drawn; {} where there is none. `usage` has those of
    USAGE_FIELDS that the file has.
    """

    samples: tuple[Sample, ...]
    head: Mapping[str, Any]
    usage: Mapping[str, float]
    errors: tuple[str, ...] = ()


def read_samples(path: Path, keep_going: bool = False) -> SampleFile:
    """Read a samples file: lines of `kind` `header`, `usage`, or `sample` (the default).

    A last line without an end is one that is still being written, and is left out.

    Args:
        keep_going: Leave bad lines out and say so, instead of raising at the first.

    Raises:
        RecordError: A malformed line, a field that is wrong, or a sample that occurs twice; the
            message names file, line and field.
    """
    reader = _Reader()
    for where, line in _lines(path):
        try:
            reader.see(line, where)
        except RecordError as error:
            if not keep_going:
                raise
            reader.errors.append(str(error))
    if not reader.samples and not reader.errors:
        raise RecordError(f"{path}: holds no samples")
    return SampleFile(
        tuple(reader.samples.values()), reader.head, reader.usage, tuple(reader.errors)
    )


class _Reader:
    def __init__(self) -> None:
        self.samples: dict[tuple[str, int], Sample] = {}
        self.head: dict[str, Any] = {}
        self.usage: dict[str, float] = {}
        self.errors: list[str] = []

    def see(self, line: str, where: str) -> None:
        record = read_line(line, where)
        kind = record.get("kind", "sample")
        if kind == "header":
            self.head = record
        elif kind == "usage":
            self._add_usage(record, where)
        elif kind == "sample":
            self._add_sample(_sample(record, where), where)
        else:
            raise RecordError(
                f"{where}: field 'kind': expected 'header', 'sample' or 'usage', "
                f"found {fields.shown(kind)}"
            )

    def _add_sample(self, sample: Sample, where: str) -> None:
        key = (sample.problem_id, sample.sample_index)
        if key in self.samples:
            raise RecordError(f"{where}: sample {key[1]} of problem {key[0]!r} occurs twice")
        self.samples[key] = sample

    def _add_usage(self, record: Record, where: str) -> None:
        for name in USAGE_FIELDS:
            value = record.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise RecordError(
                    f"{where}: field '{name}': expected a number from 0, found "
                    f"{fields.shown(value)}"
                )
            before = 0 if name == "kv_bytes_per_token" else self.usage.get(name, 0)
            self.usage[name] = before + value


def _sample(record: Record, where: str) -> Sample:
    program, language = record.get("program"), record.get("language")
    if record.get("text") is None and program is None:
        raise RecordError(f"{where}: fields 'text' and 'program': one of them is needed")
    if program is not None and not isinstance(program, str):
        raise RecordError(f"{where}: field 'program': expected a text, found {program!r}")
    if language is not None and language not in LANGUAGES:
        raise RecordError(
            f"{where}: field 'language': expected one of {', '.join(LANGUAGES)}, found "
            f"{fields.shown(language)}"
        )
    return Sample(
        problem_id=fields.identifier(record, "problem_id", where),
        sample_index=_count(record, "sample_index", where),
        text=fields.optional_text(record, "text", where),
        program=program,
        language=language,
        parent=None if record.get("parent") is None else _count(record, "parent", where),
        round=0 if record.get("round") is None else _count(record, "round", where),
    )


def _count(record: Record, name: str, where: str) -> int:
    value = record.get(name)
    if type(value) is not int or value < 0:
        raise RecordError(
            f"{where}: field '{name}': expected an integer from 0, found {fields.shown(value)}"
        )
    return value


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read: {why_unreadable(error)}") from None
    *lines, last = text.split("\n")
    if last.rstrip().endswith("}"):
        lines.append(last)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}:{number}", line

"""Reads problems from JSON lines or a folder, with the reader that a record asks for."""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treeserve.contest.records import (
    apps,
    codecontests,
    embedded,
    livecodebench,
    python_tests,
)
from treeserve.contest.records.contest_problem import ContestProblem
from treeserve.contest.records.fields import Record, RecordError, UnknownRecord
from treeserve.errors import ConfigError, why_unreadable

_SUFFIXES = (".jsonl", ".json", ".jsonl.gz")


@dataclass(frozen=True)
class Format:
    """A data set's form: how its records are told from others, and read."""

    name: str
    looks_right: Callable[[Record], bool]
    read: Callable[[Record, str], ContestProblem]


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format(embedded.NAME, embedded.looks_right, embedded.read),
        Format(livecodebench.NAME, livecodebench.looks_right, livecodebench.read),
        Format(codecontests.NAME, codecontests.looks_right, codecontests.read),
        Format(apps.NAME, apps.looks_right, apps.read),
        Format("humaneval", python_tests.looks_like_humaneval, python_tests.read_humaneval),
        Format("mbpp", python_tests.looks_like_mbpp, python_tests.read_mbpp),
    )
}


@dataclass(frozen=True)
class ProblemSet:
    """The problems in the order of their file, and what was wrong with records left out."""

    problems: tuple[ContestProblem, ...]
    errors: tuple[str, ...] = ()

    def by_id(self) -> dict[str, ContestProblem]:
        """Each problem under its id."""
        return {problem.problem_id: problem for problem in self.problems}


@dataclass(frozen=True)
class _Found:
    """A place that holds a record, or what is wrong there."""

    where: str
    record: Record | None = None
    error: str = ""


def read_contest_problems(
    path: Path, format_name: str | None = None, keep_going: bool = False
) -> ProblemSet:
    """Read every problem of a file (JSON lines or a JSON list) or of a folder.

    A folder holds such files, or a folder for each problem as APPS is published.

    Args:
        format_name: One of FORMATS; None looks at each record.
        keep_going: Leave bad records out and say so, instead of raising at the first.

    Raises:
        RecordError: A record that is malformed or that no reader knows, an id that occurs twice, or
            nothing to read at all; the message names file, line and field.
    """
    if format_name is not None and format_name not in FORMATS:
        raise ConfigError(f"--format: unknown {format_name!r}; one of {', '.join(FORMATS)}")
    problems: dict[str, ContestProblem] = {}
    errors: list[str] = []
    for found in _records(path):
        try:
            problem = _read(found, format_name)
            if problem.problem_id in problems:
                raise RecordError(f"{found.where}: the problem {problem.problem_id!r} occurs twice")
            problems[problem.problem_id] = problem
        except RecordError as error:
            if not keep_going:
                raise
            errors.append(str(error))
    if not problems and not errors:
        raise RecordError(f"{path}: holds no problems")
    return ProblemSet(tuple(problems.values()), tuple(errors))


def _read(found: _Found, format_name: str | None) -> ContestProblem:
    if found.record is None:
        raise RecordError(found.error)
    if format_name is not None:
        form = FORMATS[format_name]
        if not form.looks_right(found.record):
            raise UnknownRecord(
                f"{found.where}: not a record of {form.name}; fields: {_names(found.record)}"
            )
        return form.read(found.record, found.where)
    for form in FORMATS.values():
        if form.looks_right(found.record):
            return form.read(found.record, found.where)
    raise UnknownRecord(
        f"{found.where}: no reader knows a record with the fields {_names(found.record)}; "
        f"known formats: {', '.join(FORMATS)}"
    )


def _names(record: Record) -> str:
    return ", ".join(list(record)[:12]) or "(none)"


def _records(path: Path) -> Iterator[_Found]:
    try:
        if path.is_dir():
            yield from _records_of_folder(path)
        else:
            yield from _records_of_file(path)
    except (OSError, UnicodeDecodeError, EOFError) as error:
        file = getattr(error, "filename", None) or path
        raise RecordError(f"{file}: cannot be read: {why_unreadable(error)}") from None


def _records_of_folder(folder: Path) -> Iterator[_Found]:
    if apps.is_problem_folder(folder):
        yield _Found(str(folder), apps.record_of_folder(folder))
        return
    entries = sorted(folder.iterdir())
    files = [entry for entry in entries if entry.is_file() and entry.name.endswith(_SUFFIXES)]
    folders = [entry for entry in entries if entry.is_dir() and apps.is_problem_folder(entry)]
    if not files and not folders:
        raise RecordError(
            f"{folder}: no *.jsonl, *.json or *.jsonl.gz and no folders of APPS problems; convert "
            "Parquet or Riegeli files to JSON lines first"
        )
    for entry in folders:
        yield _Found(str(entry), apps.record_of_folder(entry))
    for entry in files:
        yield from _records_of_file(entry)


def _records_of_file(file: Path) -> Iterator[_Found]:
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    text = raw.decode("utf-8")
    if text.lstrip().startswith("["):
        yield from _records_of_list(text, file)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _record_of(line, f"{file}:{number}")


def _records_of_list(text: str, file: Path) -> Iterator[_Found]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{file}: not JSON: {error}") from None
    for index, entry in enumerate(entries):
        yield _object(entry, f"{file}[{index}]")


def _record_of(line: str, where: str) -> _Found:
    try:
        return _object(json.loads(line), where)
    except (ValueError, RecursionError) as error:
        return _Found(where, error=f"{where}: not JSON: {error}")


def _object(entry: Any, where: str) -> _Found:
    if isinstance(entry, dict):
        return _Found(where, entry)
    return _Found(where, error=f"{where}: expected a JSON object, found {type(entry).__name__}")

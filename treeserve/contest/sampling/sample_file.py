"""The samples file as it is written: a head, and lines that are whole or not there."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from treeserve.contest.judging.samples import Sample
from treeserve.contest.line_file import lock, read_line, write_line
from treeserve.contest.records.fields import RecordError
from treeserve.errors import ConfigError

FORMAT = "treeserve contest samples 1"

Record = dict[str, Any]


@dataclass(frozen=True)
class StoredSample:
    """A sample as it stands in its file; `judging.samples` says what the first fields mean.

    Attributes:
        token_ids: All that were drawn, those of a stop string among them.
        feedback: Of a repair: what stands between its parent's tokens and its own.
    """

    problem_id: str
    sample_index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    language: str | None = None
    parent: int | None = None
    round: int = 0
    feedback: str = ""

    def as_sample(self) -> Sample:
        """For the judge."""
        return Sample(
            self.problem_id,
            self.sample_index,
            self.text,
            language=self.language,
            parent=self.parent,
            round=self.round,
        )


def make_head(parts: Mapping[str, Any]) -> Record:
    """The file's first line: what samples depend on, and its fingerprint."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    return {"kind": "header", "format": FORMAT, "fingerprint": fingerprint, **parts}


class SampleWriter:
    """Adds lines to a samples file, each as a whole; a context manager.

    The file is locked as long as this is open. The head comes with the first line: what is refused
    before anything is drawn leaves no run behind. A last line that a killed run left half written
    is cut off.

    Args:
        path: A new file, or one with the same head.
        head: From make_head().

    Attributes:
        samples: Those of the file when it was opened.

    Raises:
        ConfigError: The file is another run's, is being written, or cannot be written.
        RecordError: It is no samples file; file and line are named.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self._path = path
        self._unwritten = b""
        try:
            self._file: BinaryIO = path.open("ab+")
        except OSError as error:
            raise ConfigError(f"--output: {path}: cannot be written: {error}") from None
        try:
            self.samples = self._begin(head)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "SampleWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def add_sample(self, sample: StoredSample) -> None:
        """Write a sample, without what it has not."""
        record = asdict(sample)
        if sample.language is None:
            del record["language"]
        if sample.parent is None:
            for name in ("parent", "round", "feedback"):
                del record[name]
        self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Write one line; it is in the file when this returns."""
        self._file.write(self._unwritten + write_line(record))
        self._file.flush()
        self._unwritten = b""

    def _begin(self, head: Mapping[str, Any]) -> list[StoredSample]:
        lock(self._file, self._path)
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole and not write_line(head).startswith(content):
            raise RecordError(f"{self._path}:1: not a samples file of `treeserve contest sample`")
        records = [
            read_line(line, f"{self._path}:{number}")
            for number, line in enumerate(whole.split(b"\n")[:-1], start=1)
        ]
        if records:
            self._require_same(records[0], head)
        self._file.truncate(len(whole))
        if not records:
            self._unwritten = write_line(head)
        return [
            _stored(record, f"{self._path}:{number}")
            for number, record in enumerate(records, start=1)
            if record.get("kind", "sample") == "sample"
        ]

    def _require_same(self, before: Mapping[str, Any], head: Mapping[str, Any]) -> None:
        if before.get("format") != FORMAT:
            raise RecordError(f"{self._path}:1: not a samples file of `treeserve contest sample`")
        if before.get("fingerprint") == head["fingerprint"]:
            return
        plain = json.loads(json.dumps(head))
        differing = [
            name for name in plain if name != "fingerprint" and plain[name] != before.get(name)
        ]
        raise ConfigError(
            f"--output: {self._path} is of another run (with other "
            f"{' and '.join(differing) or 'inputs'}); name another file, or remove this one"
        )


_FIELDS = fields(StoredSample)


def _stored(record: Record, where: str) -> StoredSample:
    try:
        known = {field.name: record[field.name] for field in _FIELDS if field.name in record}
        return StoredSample(**{**known, "token_ids": tuple(known["token_ids"])})
    except (KeyError, TypeError) as error:
        raise RecordError(f"{where}: not a sample of `treeserve contest sample`: {error}") from None

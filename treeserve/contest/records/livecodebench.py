"""LiveCodeBench records, with private cases in plain JSON or in the published packed form."""

import base64
import binascii
import json
import zlib
from typing import Any

from treeserve.contest.records import fields
from treeserve.contest.records.contest_problem import CallCase, Case, ContestProblem, StdioCase
from treeserve.contest.records.fields import Record, RecordError
from treeserve.contest.records.pickled_text import NotPickledText, pickled_text

NAME = "livecodebench"
_MOST_BYTES = 1 << 30
_REMEDY = "write it as plain JSON, a list of {input, output, testtype}"


def looks_right(record: Record) -> bool:
    """Whether a record is one of these."""
    return {"question_content", "question_id", "public_test_cases"} <= record.keys()


def read(record: Record, where: str) -> ContestProblem:
    """The problem of a record. `metadata.func_name` says which function cases call."""
    metadata = fields.parsed_json(record.get("metadata") or {}, "metadata", where)
    function_name = metadata.get("func_name") if isinstance(metadata, dict) else None
    if function_name is not None and not isinstance(function_name, str):
        raise RecordError(f"{where}: field 'metadata.func_name': expected a text")
    public = _cases(record["public_test_cases"], "public_test_cases", function_name, where)
    private = record.get("private_test_cases")
    if isinstance(private, str) and not private.lstrip().startswith("["):
        private = _unpacked(private, where) if private else []
    return ContestProblem(
        problem_id=fields.identifier(record, "question_id", where),
        source=NAME,
        title=fields.optional_text(record, "question_title", where),
        statement=fields.text(record, "question_content", where),
        difficulty=fields.optional_text(record, "difficulty", where),
        starter_code=fields.optional_text(record, "starter_code", where),
        function_name=function_name,
        sample_cases=public,
        hidden_cases=_cases(private or [], "private_test_cases", function_name, where),
    )


def _unpacked(packed: str, where: str) -> str:
    """Base64 of zlib of a pickled text. It is never unpickled: a pickle can run anything."""
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(packed, validate=True), _MOST_BYTES)
        if not inflate.eof:
            raise NotPickledText(f"it is cut off, or unpacks to more than {_MOST_BYTES:,} bytes")
        return pickled_text(data)
    except (binascii.Error, zlib.error, NotPickledText, ValueError) as error:
        raise RecordError(
            f"{where}: field 'private_test_cases': not a packed text: {error}; {_REMEDY}"
        ) from None


def _cases(value: Any, name: str, function_name: str | None, where: str) -> tuple[Case, ...]:
    tests = fields.parsed_json(value or [], name, where)
    if not isinstance(tests, list):
        raise RecordError(f"{where}: field '{name}': expected a list; {_REMEDY}")
    return tuple(
        _case(test, function_name, f"{where}: field '{name}[{index}]'")
        for index, test in enumerate(tests)
    )


def _case(test: Any, function_name: str | None, where: str) -> Case:
    if not isinstance(test, dict):
        raise RecordError(f"{where}: expected an object with 'input' and 'output'")
    given = fields.optional_text(test, "input", where)
    wanted = fields.optional_text(test, "output", where)
    if test.get("testtype", "stdin") != "functional":
        return StdioCase(given, wanted)
    if function_name is None:
        raise RecordError(f"{where}: a functional case, and 'metadata.func_name' is missing")
    try:
        arguments = tuple(json.loads(line) for line in given.split("\n") if line.strip())
        return CallCase(arguments, (json.loads(wanted),))
    except ValueError as error:
        raise RecordError(f"{where}: arguments and result must be JSON: {error}") from None

"""APPS records: JSON lines as published on the hub, or a folder for each problem."""

import json
from pathlib import Path
from typing import Any

from treeserve.contest.records import fields
from treeserve.contest.records.contest_problem import CallCase, Case, ContestProblem, StdioCase
from treeserve.contest.records.fields import Record, RecordError

NAME = "apps"


def looks_right(record: Record) -> bool:
    """Whether a record is one of these."""
    return {"question", "input_output"} <= record.keys()


def read(record: Record, where: str) -> ContestProblem:
    """The problem of a record; without `input_output` it has no cases."""
    tests = _tests(record, where)
    function_name = tests.get("fn_name") or None
    if function_name is not None and not isinstance(function_name, str):
        raise RecordError(f"{where}: field 'input_output.fn_name': expected a text")
    identity = "problem_id" if "problem_id" in record else "id"
    problem_id = fields.identifier(record, identity, where)
    return ContestProblem(
        problem_id=problem_id,
        source=NAME,
        title=f"APPS {problem_id}",
        statement=fields.text(record, "question", where),
        difficulty=fields.optional_text(record, "difficulty", where),
        starter_code=fields.optional_text(record, "starter_code", where),
        function_name=function_name,
        hidden_cases=tuple(_cases(tests, function_name, where)),
        checker="float",
        solution=_solution(record, where),
    )


def is_problem_folder(folder: Path) -> bool:
    """Whether a folder holds one problem in the layout of the published archive."""
    return (folder / "question.txt").is_file()


def record_of_folder(folder: Path) -> Record:
    """The same record as in the JSON lines, from the files of one problem."""

    def content(name: str) -> str:
        file = folder / name
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    metadata = fields.parsed_json(content("metadata.json") or "{}", "metadata.json", str(folder))
    return {
        "problem_id": folder.name,
        "question": content("question.txt"),
        "input_output": content("input_output.json"),
        "starter_code": content("starter_code.py"),
        "solutions": content("solutions.json"),
        "difficulty": metadata.get("difficulty") if isinstance(metadata, dict) else None,
    }


def _solution(record: Record, where: str) -> str:
    """The first one; the published field is JSON in a text."""
    solutions = fields.parsed_json(record.get("solutions") or [], "solutions", where)
    return next(iter(fields.texts({"solutions": solutions}, "solutions", where)), "")


def _tests(record: Record, where: str) -> dict[str, Any]:
    value = record["input_output"] or {}
    tests = fields.parsed_json(value, "input_output", where)
    if not isinstance(tests, dict):
        raise RecordError(f"{where}: field 'input_output': expected an object with 'inputs'")
    return tests


def _cases(tests: dict[str, Any], function_name: str | None, where: str) -> list[Case]:
    inputs, outputs = tests.get("inputs", []), tests.get("outputs", [])
    lists = isinstance(inputs, list) and isinstance(outputs, list)
    if not lists or len(inputs) != len(outputs):
        raise RecordError(
            f"{where}: field 'input_output': expected as many 'inputs' as 'outputs', two lists"
        )
    make = _stdio_case if function_name is None else _call_case
    return [
        make(given, wanted, f"{where}: field 'input_output', case {index}")
        for index, (given, wanted) in enumerate(zip(inputs, outputs, strict=True))
    ]


def _stdio_case(given: Any, wanted: Any, where: str) -> StdioCase:
    return StdioCase(_joined(given, where), _joined(wanted, where))


def _joined(value: Any, where: str) -> str:
    """Some records hold lists of lines where others hold a text."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value) + "\n"
    if not isinstance(value, str):
        raise RecordError(f"{where}: expected a text, found {fields.shown(value)}")
    return value


def _call_case(given: Any, wanted: Any, where: str) -> CallCase:
    """The published outputs are wrapped in a list of one in some records and bare in others."""
    if isinstance(given, str):
        try:
            given = [json.loads(line) for line in given.splitlines() if line.strip()]
        except ValueError as error:
            raise RecordError(f"{where}: arguments are not JSON: {error}") from None
    if not isinstance(given, list):
        raise RecordError(f"{where}: expected a list of arguments, found {fields.shown(given)}")
    wrapped = isinstance(wanted, list) and len(wanted) == 1
    return CallCase(tuple(given), (wanted, wanted[0]) if wrapped else (wanted,))

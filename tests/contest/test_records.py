"""Problems of public data sets: each format is known by its looks, and bad records are named."""

import base64
import gzip
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from treeserve.contest.records.contest_problem import (
    CallCase,
    ContestProblem,
    StdioCase,
    TestCase,
)
from treeserve.contest.records.fields import RecordError
from treeserve.contest.records.pickled_text import NotPickledText, pickled_text
from treeserve.contest.records.problem_file import read_contest_problems
from treeserve.embedded import PROBLEMS_FILE
from treeserve.errors import ConfigError

APPS = {
    "problem_id": 7,
    "question": "Add.",
    "solutions": "[]",
    "input_output": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]}),
    "difficulty": "interview",
    "url": "",
    "starter_code": "",
}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def inc(x):\n    """Add one."""\n',
    "entry_point": "inc",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(f):\n    assert f(1) == 2\n",
}
MBPP = {
    "task_id": 11,
    "text": "Write f.",
    "code": "def f(): return 1",
    "test_list": ["assert f() == 1", "assert f() != 2"],
    "test_setup_code": "import math",
    "challenge_test_list": ["assert f() > 0"],
}
PUBLIC = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]
LIVECODEBENCH = {
    "question_title": "Double",
    "question_content": "Double it.",
    "platform": "atcoder",
    "question_id": "abc1",
    "contest_id": "abc",
    "contest_date": "2024-01-01",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps(PUBLIC),
    "private_test_cases": json.dumps(PUBLIC * 2),
    "metadata": "{}",
}
CODECONTESTS = {
    "name": "1_A. Add",
    "description": "Add.",
    "public_tests": {"input": ["1 2"], "output": ["3"]},
    "private_tests": {"input": ["2 2"], "output": ["4"]},
    "generated_tests": {"input": ["5 2"], "output": ["7"]},
    "source": 2,
    "difficulty": 7,
    "time_limit": {"seconds": 1, "nanos": 500000000},
    "memory_limit_bytes": 256000000,
    "input_file": "",
    "output_file": "",
}
RECORDS = {
    "apps": APPS,
    "humaneval": HUMANEVAL,
    "mbpp": MBPP,
    "livecodebench": LIVECODEBENCH,
    "codecontests": CODECONTESTS,
}


def packed(value: Any) -> str:
    """As the data set is published."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def written(folder: Path, *records: Any) -> Path:
    file = folder / "problems.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def read_one(folder: Path, record: Any, format_name: str | None = None) -> ContestProblem:
    [problem] = read_contest_problems(written(folder, record), format_name).problems
    return problem


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("named", [False, True])
def test_a_format_is_known_by_its_looks_or_named(tmp_path: Path, name: str, named: bool) -> None:
    assert read_one(tmp_path, RECORDS[name], name if named else None).source == name


def test_embedded_problems_are_read_with_all_cases() -> None:
    problems = read_contest_problems(PROBLEMS_FILE).problems
    assert len(problems) == 40
    assert {problem.source for problem in problems} == {"embedded"}
    assert {len(problem.cases) for problem in problems} == {7}


def test_apps_has_stdin_cases(tmp_path: Path) -> None:
    problem = read_one(tmp_path, APPS)
    assert (problem.problem_id, problem.difficulty) == ("7", "interview")
    assert problem.cases == (StdioCase("1 2\n", "3\n"),)
    assert problem.checker == "float"


def test_apps_calls_a_function_whose_results_may_be_wrapped(tmp_path: Path) -> None:
    tests = {"fn_name": "add", "inputs": [[1, 2], [[1], 2]], "outputs": [[3], 4]}
    problem = read_one(tmp_path, APPS | {"input_output": json.dumps(tests)})
    assert problem.function_name == "add"
    assert problem.cases == (CallCase((1, 2), ([3], 3)), CallCase(([1], 2), (4,)))


def test_apps_may_list_lines_and_may_have_no_cases(tmp_path: Path) -> None:
    tests = {"inputs": [["1", "2"]], "outputs": [["3"]]}
    problem = read_one(tmp_path, APPS | {"input_output": json.dumps(tests)})
    assert problem.cases == (StdioCase("1\n2\n", "3\n"),)
    assert read_one(tmp_path, APPS | {"input_output": ""}).cases == ()


def test_the_folder_layout_of_apps_is_read(tmp_path: Path) -> None:
    for number in ("0001", "0000"):
        folder = tmp_path / "test" / number
        folder.mkdir(parents=True)
        (folder / "question.txt").write_text("Add.")
        (folder / "metadata.json").write_text('{"difficulty": "competition", "url": ""}')
        (folder / "input_output.json").write_text(str(APPS["input_output"]))
        (folder / "solutions.json").write_text("[]")
    first, second = read_contest_problems(tmp_path / "test").problems
    assert [first.problem_id, second.problem_id] == ["0000", "0001"]
    assert first.difficulty == "competition"
    assert first.cases == (StdioCase("1 2\n", "3\n"),)
    [alone] = read_contest_problems(tmp_path / "test" / "0001").problems
    assert alone == second


def test_humaneval_is_one_test_program_with_the_prompts_own_helpers(tmp_path: Path) -> None:
    problem = read_one(tmp_path, HUMANEVAL)
    [case] = problem.cases
    assert isinstance(case, TestCase)
    assert case.code.endswith("check(inc)\n")
    compile(case.setup, "setup", "exec")
    assert problem.function_name == "inc"


def test_each_assertion_of_mbpp_is_a_case(tmp_path: Path) -> None:
    problem = read_one(tmp_path, MBPP)
    assert [case.code for case in problem.sample_cases] == ["assert f() == 1"]
    assert len(problem.hidden_cases) == 2
    assert {case.setup.strip() for case in problem.cases} == {"import math"}
    sanitised = {"task_id": 2, "prompt": "Write f.", "code": "", "test_list": ["assert f()"]}
    sanitised |= {"test_imports": ["import re"], "source_file": ""}
    assert read_one(tmp_path, sanitised).cases == (TestCase("assert f()", "import re\n"),)


def test_a_json_list_and_compressed_lines_are_read(tmp_path: Path) -> None:
    file = tmp_path / "sanitized-mbpp.json"
    file.write_text(json.dumps([MBPP, MBPP | {"task_id": 12}]))
    assert len(read_contest_problems(file).problems) == 2
    compressed = tmp_path / "HumanEval.jsonl.gz"
    compressed.write_bytes(gzip.compress(json.dumps(HUMANEVAL).encode()))
    assert len(read_contest_problems(compressed).problems) == 1
    assert len(read_contest_problems(tmp_path).problems) == 3


@pytest.mark.parametrize("private", [json.dumps(PUBLIC * 2), packed(json.dumps(PUBLIC * 2))])
def test_private_cases_of_livecodebench_are_plain_or_packed(tmp_path: Path, private: str) -> None:
    problem = read_one(tmp_path, LIVECODEBENCH | {"private_test_cases": private})
    assert len(problem.sample_cases) == 1
    assert len(problem.hidden_cases) == 2


def test_functional_cases_of_livecodebench_are_calls(tmp_path: Path) -> None:
    tests = [{"input": "[1, 2]\n3", "output": "[4]", "testtype": "functional"}]
    record = LIVECODEBENCH | {
        "public_test_cases": json.dumps(tests),
        "private_test_cases": "",
        "metadata": json.dumps({"func_name": "add"}),
    }
    problem = read_one(tmp_path, record)
    assert problem.function_name == "add"
    assert problem.cases == (CallCase(([1, 2], 3), ([4],)),)


class Bomb:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Bomb, "ran", True))


@pytest.mark.parametrize("value", [Bomb(), [1, 2], ["a", "b"], {"a": "b"}, b"bytes", 7, ("x",)])
def test_a_pickle_of_anything_but_a_text_is_refused_and_never_run(
    tmp_path: Path, value: Any
) -> None:
    with pytest.raises(NotPickledText):
        pickled_text(pickle.dumps(value))
    with pytest.raises(RecordError, match=r"'private_test_cases': not a packed text.*JSON"):
        read_one(tmp_path, LIVECODEBENCH | {"private_test_cases": packed(value)})
    assert not Bomb.ran


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("text", ["", "a", "é\n\\u0041" * 100])
def test_a_pickled_text_is_read_in_every_protocol(protocol: int, text: str) -> None:
    assert pickled_text(pickle.dumps(text, protocol)) == text


@pytest.mark.parametrize("private", ["AAAA", "%%%", base64.b64encode(b"x" * 9).decode()])
def test_packed_cases_that_are_garbage_are_named(tmp_path: Path, private: str) -> None:
    with pytest.raises(RecordError, match="private_test_cases"):
        read_one(tmp_path, LIVECODEBENCH | {"private_test_cases": private})


def test_codecontests_has_limits_and_three_kinds_of_cases(tmp_path: Path) -> None:
    problem = read_one(tmp_path, CODECONTESTS)
    assert problem.sample_cases == (StdioCase("1 2", "3"),)
    assert problem.hidden_cases == (StdioCase("2 2", "4"), StdioCase("5 2", "7"))
    assert (problem.time_seconds, problem.memory_bytes) == (1.5, 256000000)
    assert problem.difficulty == "A"
    assert read_one(tmp_path, CODECONTESTS | {"time_limit": None}).time_seconds is None


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"x": 1, "y": 2}, "no reader knows a record with the fields x, y; known formats: emb"),
        (APPS | {"question": " "}, "field 'question': expected a text that is not empty"),
        (APPS | {"problem_id": None}, "field 'problem_id': expected a text or an integer"),
        (APPS | {"input_output": "{"}, "field 'input_output': not JSON"),
        (APPS | {"input_output": "[1]"}, "field 'input_output': expected an object"),
        (APPS | {"input_output": '{"inputs": [1], "outputs": []}'}, "as many 'inputs' as"),
        (APPS | {"input_output": '{"inputs": [1], "outputs": ["1"]}'}, "case 0: expected a text"),
        (
            APPS | {"input_output": '{"fn_name": "f", "inputs": ["x"], "outputs": [1]}'},
            "case 0: arguments are not JSON",
        ),
        (LIVECODEBENCH | {"metadata": '{"func_name": 7}'}, "'metadata.func_name': expected a"),
        (HUMANEVAL | {"entry_point": "a b"}, "field 'entry_point': expected a name"),
        (MBPP | {"test_list": "assert"}, "field 'test_list': expected a list of texts"),
        (LIVECODEBENCH | {"metadata": "{"}, "field 'metadata': not JSON"),
        (LIVECODEBENCH | {"public_test_cases": "7"}, "field 'public_test_cases': expected a list"),
        (
            LIVECODEBENCH | {"public_test_cases": [{"testtype": "functional"}]},
            r"'public_test_cases\[0\]': a functional case, and 'metadata.func_name' is missing",
        ),
        (CODECONTESTS | {"difficulty": 99}, "field 'difficulty': expected 0 to"),
        (CODECONTESTS | {"time_limit": "1 s"}, "field 'time_limit': expected"),
        (CODECONTESTS | {"memory_limit_bytes": "256M"}, "field 'memory_limit_bytes'"),
        (CODECONTESTS | {"input_file": "in.txt"}, "field 'input_file': only stdin"),
        (
            CODECONTESTS | {"public_tests": {"input": ["1"], "output": []}},
            "field 'public_tests': 1 inputs and 0 outputs",
        ),
        ([1], "expected a JSON object, found list"),
    ],
)
def test_a_bad_record_is_named_with_file_line_and_field(
    tmp_path: Path, record: Any, words: str
) -> None:
    file = written(tmp_path, MBPP, record)
    with pytest.raises(RecordError, match=words) as caught:
        read_contest_problems(file)
    assert str(caught.value).startswith(f"{file}:2: ")


def test_the_rest_goes_on_if_asked(tmp_path: Path) -> None:
    file = written(tmp_path, {"x": 1}, MBPP)
    file.write_text("{\n" + file.read_text() + json.dumps(MBPP) + "\n")
    found = read_contest_problems(file, keep_going=True)
    assert [problem.problem_id for problem in found.problems] == ["11"]
    assert [error.removeprefix(str(file))[:20] for error in found.errors] == [
        ":1: not JSON: Expect",
        ":2: no reader knows ",
        ":4: the problem '11'",
    ]


def test_a_named_format_refuses_records_of_another(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="not a record of apps; fields: task_id"):
        read_one(tmp_path, MBPP, "apps")
    with pytest.raises(ConfigError, match="--format: unknown 'leetcode'; one of embedded"):
        read_one(tmp_path, MBPP, "leetcode")


def test_nothing_to_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"none\.jsonl: cannot be read: No such file"):
        read_contest_problems(tmp_path / "none.jsonl")
    with pytest.raises(RecordError, match="convert Parquet or Riegeli"):
        read_contest_problems(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(RecordError, match="holds no problems"):
        read_contest_problems(tmp_path / "empty.jsonl")

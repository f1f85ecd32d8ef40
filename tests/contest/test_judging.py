"""The judge: right programs pass, wrong ones are told apart, in both languages and all kinds."""

import os
import select
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import confined
import pytest

from treeserve.contest.judging.checkers import difference, value_difference
from treeserve.contest.judging.extract import Program, extract
from treeserve.contest.judging.normalise import program_key
from treeserve.contest.judging.program_judge import JudgeOptions, ProgramJudge
from treeserve.contest.records.contest_problem import (
    CallCase,
    ContestProblem,
    StdioCase,
    TestCase,
)
from treeserve.contest.sandbox.bubblewrap import SandboxFailed
from treeserve.contest.sandbox.limits import MEBIBYTE, Limits
from treeserve.contest.sandbox.sandbox import Worker
from treeserve.errors import ConfigError

DOUBLE = (StdioCase("1\n", "2\n"), StdioCase("-4\n", "-8\n"), StdioCase("0\n", "0\n"))
OPTIONS = JudgeOptions(time_seconds=30.0, memory_bytes=128 * MEBIBYTE)
"""More time than a busy machine takes for any program that ends."""
needs_cpp = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with confined.a_worker() as started:
        yield started


@pytest.mark.parametrize(
    ("program", "code", "case"),
    [
        ("print(int(input()) * 2)", "AC", None),
        ("n = int(input())\nprint(n + n if n > 0 else 0)", "WA", 1),
        ("print(input())", "WA", 0),
        ("", "WA", 0),
        ("n = int(input())\nprint(n * 2 + 0 // (n + 4))", "RE", 1),
        ("import sys\nprint(int(input()) * 2)\nsys.exit(3)", "RE", 0),
        ("import os\nos.abort()", "RE", 0),
        ("def f():\n    return f()\nf()", "RE", 0),
        ("while True: pass", "TLE", 0),
        ("x = [0] * 10 ** 9", "MLE", 0),
        ("print(", "CE", None),
        ("x = '\udc80'\nprint(int(input()) * 2)", "CE", None),
        ("x\0", "CE", None),
        ("(" * 5000 + ")" * 5000, "CE", None),
        ("x = 1\n" * 100_000, "CE", None),
    ],
)
def test_python_programs_are_told_apart(
    worker: Worker, program: str, code: str, case: int | None
) -> None:
    options = confined.hasty(OPTIONS, code)
    verdict = confined.judged(worker, program, *DOUBLE, options=options)
    assert (verdict.code, verdict.first_failing_case) == (code, case), verdict
    assert verdict.num_cases == 3
    assert bool(verdict.detail) == (code != "AC")


@needs_cpp
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("int n; std::cin >> n; std::cout << 2 * n;", "AC"),
        ("std::cout << 2;", "WA"),
        ("return 1;", "RE"),
        ("int* p = 0; *p = 1;", "RE"),
        ("throw 1;", "RE"),
        ("for (volatile int i = 0;; i = i + 1);", "TLE"),
        ("for (;;) { volatile char* p = new char[9999]; *p = p[5000] = 1; }",
         "MLE"),
        ("for (;;) std::cout << \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\";", "OLE"),
        ("undeclared;", "CE"),
    ],
)  # fmt: skip
def test_cpp_programs_are_told_apart(worker: Worker, body: str, code: str) -> None:
    program = f"#include <iostream>\nint main() {{ {body} }}\n"
    options = replace(confined.hasty(OPTIONS, code), limits=Limits(output_bytes=MEBIBYTE))
    verdict = confined.judged(worker, program, *DOUBLE, options=options, language="cpp")
    assert verdict.code == code, verdict


@needs_cpp
def test_deep_recursion_in_cpp_has_the_stack_it_needs(worker: Worker) -> None:
    program = (
        "#include <cstdio>\n"
        "int f(int n) { volatile int x = n; return n ? f(n - 1) + x - x + 1 : 0; }\n"
        'int main() { printf("%d", f(1000000)); }'
    )
    options = JudgeOptions(time_seconds=5.0)
    case = StdioCase("", "1000000")
    assert confined.judged(worker, program, case, options=options, language="cpp").passed


def test_time_and_memory_are_of_the_worst_case(worker: Worker) -> None:
    program = "n = int(input())\nx = bytearray(50 << 20) if n == -4 else b''\nprint(n * 2)"
    verdict = confined.judged(worker, program, *DOUBLE, options=OPTIONS)
    assert verdict.passed
    assert 50 * MEBIBYTE < verdict.memory_bytes < 90 * MEBIBYTE
    small = confined.judged(worker, "print(int(input()) * 2)", *DOUBLE, options=OPTIONS)
    assert small.memory_bytes < 30 * MEBIBYTE
    assert small.cpu_seconds > 0


def test_a_problems_own_limits_hold_unless_the_caller_sets_others(worker: Worker) -> None:
    program = "x = bytearray(100 << 20)\nprint(int(input()) * 2)"
    own = {"time_seconds": 2.0, "memory_bytes": 64 * MEBIBYTE}
    assert confined.judged(worker, program, *DOUBLE, **own).code == "MLE"
    options = JudgeOptions(memory_bytes=256 * MEBIBYTE)
    assert confined.judged(worker, program, *DOUBLE, options=options, **own).passed


def test_halves_of_characters_are_no_reason_to_stop(worker: Worker) -> None:
    """Records of broken JSON escapes hold them; they are compared as replaced."""
    program = "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())"
    verdict = confined.judged(worker, program, StdioCase("\ud800\n", "\ud800\n"), options=OPTIONS)
    assert verdict.code == "WA"


def test_a_problem_without_cases_is_unjudged_whatever_the_program(worker: Worker) -> None:
    verdict = confined.judged(worker, "print(1)")
    assert (verdict.code, verdict.passed) == ("unjudged", False)


def test_cpp_cannot_be_called_and_is_unjudged(worker: Worker) -> None:
    verdict = confined.judged(worker, "int main() {}", CallCase((1,), (1,)), language="cpp")
    assert verdict.code == "unjudged"
    assert "only Python" in verdict.detail


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("def add(a, b): return a + b", "AC"),
        ("class Solution:\n    def add(self, a: List[int], b): return a + b", "AC"),
        ("print('noise')\ndef add(a, b):\n    print('more')\n    return a + b", "AC"),
        ("def add(a, b): return tuple(a + b)", "AC"),
        ("def add(a, b): return (x for x in a + b)", "AC"),
        ("def add(a, b): return a", "WA"),
        ("def add(a, b): return 1 / 0", "RE"),
        ("def sub(a, b): return a", "RE"),
        ("def add(a): return a", "RE"),
        ("def add(a, b) return a", "CE"),
    ],
)
def test_functions_are_called_with_the_arguments(worker: Worker, program: str, code: str) -> None:
    cases = (CallCase(([1], [2]), ([1, 2],)), CallCase(([], [0.1 + 0.2]), ([0.3],)))
    verdict = confined.judged(worker, program, *cases, options=OPTIONS, function_name="add")
    assert verdict.code == code, verdict


@pytest.mark.parametrize(
    ("value", "returned"),
    [
        ([None, True, 1, 2**70, 1.5, "é\ud800", b"\0", (1, (2,)), {1, 2}, {(1, 2): [3]}], "x"),
        ([float("inf"), -0.0, 1j, frozenset({1}), [], {}, ()], "x"),
    ],
)
def test_literals_reach_a_function_and_come_back_as_they_are(
    worker: Worker, value: object, returned: str
) -> None:
    test = TestCase(f"inf = float('inf')\nx = {value!r}\nassert same(x) == x, same(x)")
    program = f"def same(x): return {returned}"
    verdict = confined.judged(worker, program, test, options=OPTIONS)
    assert verdict.passed, verdict


def test_tests_may_make_and_hand_back_objects_of_the_program(worker: Worker) -> None:
    program = (
        "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\n"
        "def total(pairs): return sum(p.a + p.b for p in pairs)"
    )
    test = TestCase(
        "p.a = 5\nassert total([Pair(1, 2), p]) == 12\nassert p.a == 5", "p = Pair(3, 4)"
    )
    verdict = confined.judged(worker, program, test, options=OPTIONS)
    assert verdict.passed, verdict


PROMPT = 'import math\n\ndef one():\n    return 1\n\ndef inc(x):\n    """Add one."""\n'
HUMANEVAL = ContestProblem(
    problem_id="HumanEval/0",
    source="humaneval",
    title="inc",
    statement="",
    starter_code=PROMPT,
    function_name="inc",
    hidden_cases=(
        TestCase(
            "def check(f):\n    assert f(1) == 2\n    assert math.floor(f(1.5)) == 2\n"
            "    assert one() == 1\ncheck(inc)\n",
            setup=f"{PROMPT}    pass\n",
        ),
    ),
)


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("    return x + one()\n", "AC"),
        ("    return x + 1\n\nprint(inc(input()))\n", "AC"),
        ("Here:\n```python\ndef inc(x):\n    return x + one()\n```\nDone.", "AC"),
        ("def helper(x):\n    return x + 1\n\ndef inc(x):\n    return helper(x)\n", "AC"),
        ("    return x\n", "WA"),
        ("    pass\n", "WA"),
        ("    return y\n", "RE"),
        ("    return (\n", "CE"),
    ],
)
def test_humaneval_completions_go_on_or_begin_again(
    worker: Worker, completion: str, code: str
) -> None:
    judge = ProgramJudge(worker, confined.confinement().python, OPTIONS)
    verdict = judge.judge(HUMANEVAL, extract(completion, HUMANEVAL))
    assert verdict.code == code, verdict


CHECKER = """import sys
given, printed, expected = (open(name).read() for name in sys.argv[1:])
a, b = map(int, printed.split())
if a + b != int(given):
    print("the sum is wrong")
    sys.exit(1)
"""


def test_a_custom_checker_decides(worker: Worker, tmp_path: Path) -> None:
    file = tmp_path / "checker.py"
    file.write_text(CHECKER)
    judge = ProgramJudge(worker, confined.confinement().python, OPTIONS)
    judge = ProgramJudge(worker, confined.confinement().python, OPTIONS, judge.custom_checker(file))
    task = ContestProblem("p", "test", "p", "", hidden_cases=(StdioCase("5\n", "1 4\n"),))
    assert judge.judge(task, Program("print(2, int(input()) - 2)", "python")).passed
    wrong = judge.judge(task, Program("print(2, 2)", "python"))
    assert (wrong.code, wrong.detail) == ("WA", "the checker says: the sum is wrong")
    assert judge.judge(task, Program("print('x')", "python")).code == "WA"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("checker.py", "def", "does not build: SyntaxError"),
        ("checker.rb", "", "expected a file ending in .py or .cpp"),
        ("none.py", None, "cannot be read: No such file or directory"),
    ],
)
def test_a_checker_that_is_none_is_named(
    worker: Worker, tmp_path: Path, name: str, text: str | None, words: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    judge = ProgramJudge(worker, confined.confinement().python, OPTIONS)
    with pytest.raises(ConfigError, match=words):
        judge.custom_checker(tmp_path / name)


@pytest.mark.parametrize(
    ("checker", "got", "same"),
    [
        ("exact", "1 2\n3\n", True),
        ("exact", "1 2  \n3\n\n", True),
        ("exact", "1  2\n3\n", False),
        ("tokens", "1\n2   3", True),
        ("tokens", "1 2", False),
        ("tokens", "1 2 3 4", False),
        ("tokens", "1 2 3.0", False),
        ("float", "1 2 3.0000001", True),
        ("float", "1 2 3.001", False),
        ("float", "1 2 nan", False),
        ("float", "1 2 3.x", False),
    ],
)
def test_checkers(checker: str, got: str, same: bool) -> None:
    found = difference(checker, got, "1 2\n3\n", 1e-6)
    assert (found is None) == same, found


def test_integers_are_compared_exactly_whatever_the_tolerance() -> None:
    assert difference("float", "1000000000000", "1000000000001", 1e-6)
    assert value_difference(10**12, (10**12 + 1,), 1e-6)
    assert value_difference(True, (1,), 1e-6)
    assert value_difference([1, [2.0000000001]], ([1, [2.0]],), 1e-6) is None


@pytest.mark.parametrize(
    ("language", "one", "other", "equal"),
    [
        ("python", "a = 1\nprint(a)", "a=1 # one\n\nprint( a )\n", True),
        ("python", "if a:\n  b()\n", "if a:\n    b()  # c\n", True),
        ("python", "if a:\n  b()\n  c()", "if a:\n  b()\nc()", False),
        ("python", "print('a b')", "print('a  b')", False),
        ("python", "x = '# no'", "x = '# yes'", False),
        ("python", "print(", "print( ", False),
        ("cpp", "int main() { }", "int  main()\n{ } // x", True),
        ("cpp", "int a; /* x */ int b;", "int a;   int b;", True),
        ("cpp", "#define A 1\nint a;", "#define A 1 int a;", False),
        ("cpp", 'char* s = "a b";', 'char* s = "a  b";', False),
        ("cpp", 's = "// a";', 's = "// b";', False),
        ("cpp", 's = R"(a  b)";', 's = R"(a b)";', False),
        ("cpp", 'f(1\'000, "x\'", "a  b");', 'f(1\'000, "x\'", "a b");', False),
        ("cpp", '#define A "a  b"', '#define A "a b"', False),
        ("cpp", "int x = __LINE__;", "\nint x = __LINE__;", False),
        ("cpp", "inta;", "int a;", False),
    ],
)
def test_equal_programs_have_equal_keys(language: str, one: str, other: str, equal: bool) -> None:
    assert (program_key(one, language) == program_key(other, language)) == equal


@pytest.mark.parametrize(
    ("text", "program", "language"),
    [
        ("print(1)", "print(1)\n", "python"),
        ("Sure:\n```python\nprint(1)\n```\nBye", "print(1)\n", "python"),
        ("```py\na\n```\nbetter:\n```python3\nb\n```", "b\n", "python"),
        ("```python\na\n```\nOutput:\n```text\nb\n```", "a\n", "python"),
        ("```c++\nint x;\n```", "int x;\n", "cpp"),
        ("```\nx\n```", "x\n", "python"),
        ("```python\nunfinished", "unfinished\n", "python"),
    ],
)
def test_the_program_is_found_in_a_completion(text: str, program: str, language: str) -> None:
    problem = ContestProblem("p", "apps", "p", "")
    assert extract(text, problem) == Program(program, language)


def test_an_embedded_program_ends_at_its_stop_line() -> None:
    problem = ContestProblem("p", "embedded", "p", "")
    assert extract("print(1)\n# end\n```", problem).text == "print(1)\n"


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("print(int(input()) * 2)", "AC"),
        ("while True: pass", "TLE"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "MLE"),
        ("while True: print('x' * 1000)", "OLE"),
        ("open('main.py', 'a')", "WA"),
    ],
)
def test_without_a_sandbox_limits_still_hold(program: str, code: str) -> None:
    """What `--no-sandbox` runs: time, memory and output end a program there too."""
    limits = Limits(output_bytes=MEBIBYTE, processes=8)
    options = replace(confined.hasty(OPTIONS, code), limits=limits)
    worker = Worker(None)
    try:
        judge = ProgramJudge(worker, "/usr/bin/python3", options)
        task = ContestProblem("p", "test", "p", "", hidden_cases=DOUBLE)
        verdict = judge.judge(task, Program(program, "python"))
    finally:
        worker.close()
        worker.release()
    assert verdict.code == code


def test_a_sandbox_that_is_ended_while_it_is_set_up_leaves_no_process() -> None:
    """Its inner process waits for the outer one then, and does not yet die with it. Nor has the
    time of its program begun, of which there is none here: it would have been ended before.
    """
    mark = uuid.uuid4().hex
    # What it says of itself is read by nobody, and what it waits for never comes.
    held = 'exec -a $0 $1 --userns-block-fd 88 --info-fd 99 "${@:2}" 99>/dev/null '
    held += "88< <(exec -a $0 sleep 1000)"
    bwrap = [part for part in confined.confinement().bwrap or () if part != "--disable-userns"]
    worker = Worker(("/bin/bash", "-c", held, mark, *bwrap))
    with ThreadPoolExecutor() as pool:
        run = pool.submit(worker.run, ["/bin/true"], {}, b"", Limits(99.0, 0.0, processes=4))
        try:
            while len(started := confined.running(mark)) < 3:  # bubblewrap's two, and `sleep`
                assert not wait([run], 0.05).done, run.exception()
            processes = [os.pidfd_open(pid) for pid in started]
        finally:
            worker.close()
        with pytest.raises(SandboxFailed, match="has ended"):
            run.result()
    worker.release()
    for process in processes:
        assert select.select([process], [], [], 60.0)[0]
        os.close(process)

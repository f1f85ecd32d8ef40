"""HumanEval and MBPP records: a function, and Python that tests it."""

from treeserve.contest.records import fields
from treeserve.contest.records.contest_problem import ContestProblem, TestCase
from treeserve.contest.records.fields import Record, RecordError


def looks_like_humaneval(record: Record) -> bool:
    """Whether a record is one of HumanEval."""
    return {"task_id", "prompt", "entry_point", "test"} <= record.keys()


def read_humaneval(record: Record, where: str) -> ContestProblem:
    """The problem of a HumanEval record: one test program, which calls `check`.

    What the prompt defines before the function is there for the tests too.
    """
    prompt = fields.text(record, "prompt", where)
    name = fields.text(record, "entry_point", where)
    if not name.isidentifier():
        raise RecordError(f"{where}: field 'entry_point': expected a name, found {name!r}")
    problem_id = fields.identifier(record, "task_id", where)
    test = fields.optional_text(record, "test", where)
    code = f"{test}\n\ncheck({name})\n"
    return ContestProblem(
        problem_id=problem_id,
        source="humaneval",
        title=name,
        statement=prompt,
        starter_code=prompt,
        function_name=name,
        hidden_cases=(TestCase(code, _definitions(prompt)),) if test.strip() else (),
        solution=fields.optional_text(record, "canonical_solution", where),
    )


def looks_like_mbpp(record: Record) -> bool:
    """Whether a record is one of MBPP, whole or sanitised."""
    return {"task_id", "test_list"} <= record.keys()


def read_mbpp(record: Record, where: str) -> ContestProblem:
    """The problem of an MBPP record: each assertion is a case; the first may be shown."""
    setup = "\n".join(
        [
            *fields.texts(record, "test_imports", where),
            fields.optional_text(record, "test_setup_code", where),
        ]
    )
    asserts = fields.texts(record, "test_list", where)
    challenges = fields.texts(record, "challenge_test_list", where)
    cases = tuple(TestCase(code, setup) for code in asserts + challenges)
    problem_id = fields.identifier(record, "task_id", where)
    return ContestProblem(
        problem_id=problem_id,
        source="mbpp",
        title=f"MBPP {problem_id}",
        statement=fields.text(record, "text" if "text" in record else "prompt", where),
        sample_cases=cases[:1],
        hidden_cases=cases[1:],
        solution=fields.optional_text(record, "code", where),
    )


def _definitions(prompt: str) -> str:
    """The prompt as a program: its last function has a docstring and gets a body."""
    return f"{prompt.rstrip()}\n    pass\n"

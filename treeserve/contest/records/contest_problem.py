"""The contest problem as every reader gives it and the judge takes it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

CheckerName = Literal["exact", "tokens", "float"]


@dataclass(frozen=True)
class StdioCase:
    """One run of a program: what it reads and what it must print."""

    stdin: str
    stdout: str


@dataclass(frozen=True)
class CallCase:
    """One call of the problem's function.

    `arguments` and `expected` are JSON values; what is returned may equal any of `expected`.
    """

    arguments: tuple[Any, ...]
    expected: tuple[Any, ...]


@dataclass(frozen=True)
class TestCase:
    """Python that calls the problem's functions and raises where one is wrong.

    `setup` runs before it; neither is ever shown to the program under test.
    """

    __test__ = False

    code: str
    setup: str = ""


Case = StdioCase | CallCase | TestCase


@dataclass(frozen=True)
class ContestProblem:
    """A problem and how its programs are judged. All of its cases are of one kind.

    Attributes:
        problem_id: Unique in its file.
        source: The format it was read from, such as `apps`.
        statement: What a model is shown, without the cases.
        difficulty: In the words of its source; empty where it has none.
        starter_code: What a program begins with; empty where it has none.
        function_name: The function that cases call; None where programs read stdin.
        sample_cases: Cases that the statement may show.
        hidden_cases: The others; both may be empty, and then nothing is judged.
        time_seconds: Processor time of one case; None where the source sets no limit.
        memory_bytes: None where the source sets no limit.
        checker: How output is compared; see docs/contest.md.
        solution: A Python program that solves it, for few-shot prompts; empty where there is none.
    """

    problem_id: str
    source: str
    title: str
    statement: str
    difficulty: str = ""
    starter_code: str = ""
    function_name: str | None = None
    sample_cases: tuple[Case, ...] = ()
    hidden_cases: tuple[Case, ...] = ()
    time_seconds: float | None = None
    memory_bytes: int | None = None
    checker: CheckerName = "tokens"
    solution: str = ""

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases, the samples first."""
        return self.sample_cases + self.hidden_cases

    @property
    def digest(self) -> str:
        """What judging depends on, as a hash: equal problems have equal digests anywhere."""
        judged = {name: value for name, value in asdict(self).items() if name != "solution"}
        text = json.dumps(judged, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

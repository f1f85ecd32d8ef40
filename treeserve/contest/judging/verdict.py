"""The verdict on a program."""

from dataclasses import dataclass
from typing import Literal, get_args

Code = Literal["AC", "WA", "TLE", "MLE", "RE", "CE", "OLE", "unjudged"]
"""Accepted; wrong answer; time, memory, run-time error; no program (compile error); too much
output; not judged, for want of cases.
"""

MEANINGS: dict[str, str] = {
    "AC": "accepted",
    "WA": "wrong answer",
    "TLE": "over the time limit",
    "MLE": "over the memory limit",
    "RE": "error while running",
    "CE": "no program",
    "OLE": "too much output",
    "unjudged": "no cases",
}
"""Of each code, in words."""

CODES: tuple[Code, ...] = get_args(Code)


@dataclass(frozen=True)
class Verdict:
    """What came of a program.

    Attributes:
        code: See `Code`.
        first_failing_case: Index among all cases, samples first; None where none failed.
        num_cases: How many the problem has.
        cpu_seconds: Of the case that took longest; 0 where none was run.
        memory_bytes: Of the case that took most.
        detail: Why it failed, in a line.
    """

    code: Code
    first_failing_case: int | None = None
    num_cases: int = 0
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether every case came out as expected."""
        return self.code == "AC"

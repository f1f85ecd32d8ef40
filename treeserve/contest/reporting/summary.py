"""The report's figures: pass@k, verdicts and what sharing saved, from verdict files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from treeserve.contest.judging.verdict import CODES
from treeserve.contest.judging.verdict_file import JudgedProblem, JudgedSample, VerdictFile
from treeserve.contest.reporting.pass_at_k import Estimate, curve
from treeserve.errors import ConfigError


@dataclass(frozen=True)
class ProblemResult:
    """A problem, and how many of its samples got which verdict; repairs are not among them."""

    problem: JudgedProblem
    counts: Mapping[str, int]

    @property
    def num_samples(self) -> int:
        """Judged ones; of an unjudged problem, none."""
        return sum(count for code, count in self.counts.items() if code != "unjudged")

    @property
    def num_passing(self) -> int:
        """Accepted ones."""
        return self.counts.get("AC", 0)


@dataclass(frozen=True)
class Savings:
    """What sharing saved: tokens and bytes as they were against as they would be alone.

    A field is None where the samples file does not say.
    """

    prompt_tokens: float | None
    computed_tokens: float | None
    kv_tokens_read: float | None
    kv_tokens_read_flat: float | None
    kv_bytes_read: float | None
    kv_bytes_read_flat: float | None
    seconds: float | None
    seconds_sharing_off: float | None
    completion_tokens: float | None


@dataclass(frozen=True)
class Summary:
    """Everything that the report says; `num_unjudged` problems are in none of the estimates.

    Repairs are in `counts`, and in none of the estimates either: they are told what was wrong.
    `solved_by_round` has the problems that an accepted sample solves with so many repairs before
    it, or fewer; empty where nothing was repaired.
    """

    problems: tuple[ProblemResult, ...]
    counts: Mapping[str, int]
    estimates: tuple[Estimate, ...]
    by_difficulty: Mapping[str, tuple[Estimate, ...]]
    num_unjudged: int
    savings: Savings | None
    solved_by_round: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For `--json`: plain values, in a fixed order."""
        return {
            "problems": len(self.problems),
            "unjudged_problems": self.num_unjudged,
            "solved_problems": sum(result.num_passing > 0 for result in self.problems),
            "solved_by_round": list(self.solved_by_round),
            "samples": sum(self.counts.values()),
            "verdicts": dict(self.counts),
            "pass_at_k": [asdict(estimate) for estimate in self.estimates],
            "by_difficulty": {
                name: [asdict(estimate) for estimate in estimates]
                for name, estimates in self.by_difficulty.items()
            },
            "sharing": None if self.savings is None else asdict(self.savings),
            "per_problem": [
                {
                    "problem_id": result.problem.problem_id,
                    "difficulty": result.problem.difficulty,
                    "samples": result.num_samples,
                    "passing": result.num_passing,
                    "verdicts": dict(result.counts),
                }
                for result in self.problems
            ],
        }


def summarise(
    files: Sequence[VerdictFile], usage: Mapping[str, float] | None = None, seed: int = 0
) -> Summary:
    """The figures of one or several verdict files, whose problems or samples must be distinct.

    Problems that no sample was judged for are left out, as in a run that is not finished.

    Args:
        usage: Sums of the samples file's usage lines.
        seed: Of the bootstrap.
    """
    problems = {problem.problem_id: problem for file in files for problem in file.problems}
    samples = distinct_samples(files)
    counts: dict[str, Counter[str]] = {}
    for sample in samples:
        of_problem = counts.setdefault(sample.problem_id, Counter())
        if sample.round == 0:
            of_problem[sample.verdict.code] += 1
    results = tuple(
        ProblemResult(problem, _in_order(counts[problem.problem_id]))
        for problem in problems.values()
        if problem.problem_id in counts
    )
    total = Counter(str(sample.verdict.code) for sample in samples)
    judged = [result for result in results if result.num_samples]
    groups: dict[str, list[ProblemResult]] = {}
    for result in judged:
        groups.setdefault(result.problem.difficulty or "none given", []).append(result)
    return Summary(
        problems=results,
        counts=_in_order(total),
        estimates=_curve(judged, seed),
        by_difficulty={name: _curve(groups[name], seed) for name in sorted(groups)},
        num_unjudged=len(results) - len(judged),
        savings=_savings(usage or {}),
        solved_by_round=_solved_by_round(samples),
    )


def distinct_samples(files: Sequence[VerdictFile]) -> list[JudgedSample]:
    """All samples; ConfigError where two files hold the same one."""
    seen: set[tuple[str, int]] = set()
    samples = [sample for file in files for sample in file.samples]
    for sample in samples:
        key = (sample.problem_id, sample.sample_index)
        if key in seen:
            raise ConfigError(
                f"VERDICTS: sample {key[1]} of problem {key[0]!r} occurs twice; give files of "
                "different problems or samples"
            )
        seen.add(key)
    return samples


def _curve(results: Sequence[ProblemResult], seed: int) -> tuple[Estimate, ...]:
    return tuple(curve([(result.num_samples, result.num_passing) for result in results], seed))


def _solved_by_round(samples: Sequence[JudgedSample]) -> tuple[int, ...]:
    rounds = max((sample.round for sample in samples), default=0)
    solved = [
        {s.problem_id for s in samples if s.round <= round_ and s.verdict.passed}
        for round_ in range(rounds + 1)
    ]
    return tuple(map(len, solved)) if rounds else ()


def _in_order(counts: Counter[str]) -> dict[str, int]:
    return {code: counts[code] for code in CODES if counts[code]}


def _savings(usage: Mapping[str, float]) -> Savings | None:
    if not usage:
        return None
    size = usage.get("kv_bytes_per_token")
    read, flat = usage.get("kv_tokens_read"), usage.get("kv_tokens_read_flat")
    return Savings(
        prompt_tokens=usage.get("prompt_tokens"),
        computed_tokens=usage.get("computed_tokens"),
        kv_tokens_read=read,
        kv_tokens_read_flat=flat,
        kv_bytes_read=None if read is None or size is None else read * size,
        kv_bytes_read_flat=None if flat is None or size is None else flat * size,
        seconds=usage.get("seconds"),
        seconds_sharing_off=usage.get("seconds_sharing_off"),
        completion_tokens=usage.get("completion_tokens"),
    )

"""The command that writes generated problems: `python -m treeserve.contest.generate`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from treeserve.contest.compose import Split, generate_problem
from treeserve.contest.problem import Problem, write_problems

_EPILOG = """\
The same arguments write the same file. The embedded files were written with:
  python -m treeserve.contest.generate --split held_out --count 40 --seed 1 \\
      --min-difficulty 2 --output treeserve/embedded/problems.jsonl
  python -m treeserve.contest.generate --split train --count 30 --seed 1 \\
      --min-difficulty 1 --output treeserve/embedded/few_shot.jsonl
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write problems of pairwise different compositions."""
    parser = argparse.ArgumentParser(
        prog="python -m treeserve.contest.generate",
        description="Write contest problems with cases and solutions as JSON lines.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="replaced if there"
    )
    parser.add_argument(
        "--split",
        choices=get_args(Split),
        default="held_out",
        help="whether the embedded model saw such compositions (default held_out)",
    )
    parser.add_argument("--count", type=int, default=40, help="how many problems (default 40)")
    parser.add_argument(
        "--seed", type=int, default=1, help="other seeds, other problems (default 1)"
    )
    parser.add_argument(
        "--min-difficulty", type=int, default=2, help="at least so many parts that act (default 2)"
    )
    options = parser.parse_args(arguments)
    problems = distinct_problems(options.split, options.count, options.seed, options.min_difficulty)
    write_problems(options.output, problems)
    print(f"{len(problems)} problems written to {options.output}")


def distinct_problems(split: Split, count: int, seed: int, min_difficulty: int) -> list[Problem]:
    """`count` problems of one split, no two of the same composition."""
    found: dict[tuple[str, ...], Problem] = {}
    index = 0
    while len(found) < count:
        problem = generate_problem(split, seed, index, min_difficulty=min_difficulty)
        found.setdefault(problem.composition, problem)
        index += 1
    return list(found.values())


if __name__ == "__main__":
    main()

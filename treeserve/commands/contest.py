"""`treeserve contest`: the group of commands around contest problems."""

import argparse
from typing import Any

from treeserve.commands import contest_judge, contest_report, contest_sample
from treeserve.commands.options import OneLineParser

_DESCRIPTION = """\
Contest problems: draw programs, judge them, and report how many problems are solved.

  treeserve contest sample problems.jsonl -o samples.jsonl --samples 16
  treeserve contest judge samples.jsonl --problems problems.jsonl -o verdicts.jsonl
  treeserve contest report verdicts.jsonl --samples samples.jsonl --html report.html
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the group."""
    parser = subparsers.add_parser(
        "contest", help="sample contest problems, judge, and report", description=_DESCRIPTION
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=OneLineParser
    )
    contest_sample.add_parser(commands)
    contest_judge.add_parser(commands)
    contest_report.add_parser(commands)

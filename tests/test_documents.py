"""What the README and the pages under docs/ name is there: files, headings, commands, options."""

import argparse
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_layout import ROOT, tracked_files

from treeserve.commands.main import make_parser

PARSER = make_parser()
PAGES = [ROOT / path for path in tracked_files() if path.suffix == ".md"]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
ENDS = {"|", ">", "&", "&&", ";", "2>"}
"""Words of a shell that end a command."""
OTHERS = {"prometheus", "py-spy", "cargo", "git", "pip", "make"}
"""Commands that are not of treeserve, whose options pages name."""


def link_targets(text: str) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text))
    return [target for target in found if not re.match("https?:|mailto:", target)]


def anchors(page: Path) -> set[str]:
    """Of the headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def shell_commands(text: str) -> Iterator[list[str]]:
    """Words after `treeserve` of every such line in a block for a shell."""
    for language, block in BLOCK.findall(text):
        if language not in ("", "sh", "bash", "console"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            begin = re.match(r"(?:.*&& )?(?:\$ )?(?:\S*/)?treeserve (?=[a-z])(.*)", line)
            if begin:
                words = shlex.split(begin[1], comments=True)
                yield list(itertools.takewhile(lambda word: word not in ENDS, words))


def inline_commands(text: str) -> Iterator[list[str]]:
    for span in re.findall(r"`(?:\S*/)?treeserve ([a-z][^`]*)`", BLOCK.sub("", text)):
        yield span.split()


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def options_without_help(parser: argparse.ArgumentParser) -> list[str]:
    own = [
        f"{parser.prog} {action.dest}"
        for action in parser._actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    return own + [name for sub in subparsers(parser).values() for name in options_without_help(sub)]


def all_options(parser: argparse.ArgumentParser) -> set[str]:
    own = {option for action in parser._actions for option in action.option_strings}
    return own.union(*map(all_options, subparsers(parser).values()))


def unknown_words(words: list[str]) -> list[str]:
    """The subcommand or the options that the command line does not know."""
    parser: argparse.ArgumentParser = PARSER
    while (below := subparsers(parser)) and words:
        name, *words = words
        if name not in below:
            return [name]
        parser = below[name]
    known = all_options(parser)
    return [option for word in words for option in OPTION.findall(word) if option not in known]


def test_there_are_pages():
    assert {"README.md", "CHANGELOG.md", "docs/architecture.md", "docs/service.md"} <= set(NAMES)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files_and_headings_that_exist(page):
    for target in link_targets(page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_that_are_named_exist(page):
    """As a path from the root, or as the source names itself: `bench/so_far.py`."""
    if page.name == "CHANGELOG.md":
        return  # It tells of files as they were.
    tops = {path.parts[0] for path in tracked_files()} | {p.name for p in ROOT.glob("treeserve/*")}
    for name in re.findall(r"`([\w.-]+/[\w./-]*\w/?)`", BLOCK.sub("", page.read_text())):
        if name.split("/")[0] in tops:
            bases = (ROOT, ROOT / "treeserve", ROOT / "deploy", page.parent)
            assert any((base / name).exists() for base in bases), name


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_that_are_shown_are_commands_and_options_of_theirs(page):
    for words in inline_commands(page.read_text()):
        assert unknown_words(words) == [], shlex.join(words)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_command_lines_in_blocks_are_taken_as_they_are_written(page, capsys):
    """With every value and every argument: whoever copies one is not told of bad usage."""
    for words in shell_commands(page.read_text()):
        try:
            PARSER.parse_args(words)
        except SystemExit:
            pytest.fail(f"treeserve {shlex.join(words)}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_options_that_are_named_alone_are_some_commands(page):
    known = all_options(PARSER)
    for span in re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text())):
        if not OTHERS & set(span.split()):
            assert set(OPTION.findall(span)) <= known, span


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_targets_of_make_exist(page):
    made = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    blocks = "\n".join(block for _, block in BLOCK.findall(text))
    named = re.findall(r"^make ([a-z][\w-]*)", blocks, re.MULTILINE)
    assert {*named, *re.findall(r"`make ([a-z][\w-]*)", BLOCK.sub("", text))} <= made


def test_every_option_of_every_command_says_what_it_is_for():
    assert options_without_help(PARSER) == []


@pytest.mark.parametrize(
    ("command", "unknown"),
    [
        ("serve --model embedded", []),
        ("bench decode --batch 1 --output file", []),
        ("bench nothing --batch 1", ["nothing"]),
        ("simulate", ["simulate"]),
        ("generate --no-such-thing=1", ["--no-such-thing"]),
    ],
)
def test_an_option_or_a_command_that_is_gone_would_be_noticed(command, unknown):
    assert unknown_words(command.split()) == unknown

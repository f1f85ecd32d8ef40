"""`treeserve pml`: checks, draws and compiles schemas of prompt modules."""

import argparse
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treeserve.commands.options import OneLineParser
from treeserve.errors import ConfigError

if TYPE_CHECKING:
    from treeserve.pml import CompiledSchema, PmlError, PromptTag, Schema

_DESCRIPTION = """\
Schemas of prompt modules, in PML or in Python (docs/pml.md).

  treeserve pml check trip.pml prompt.pml     whether a schema, and prompts for it, are sound
  treeserve pml show trip.pml                 its layout: positions, lengths, unions, parameters
  treeserve pml compile trip.pml -o trip.json its tokens and positions, as JSON
  treeserve pml show trip.py:travel           a decorated function's schema; runs that file

Errors name file, line and column. Tokens are counted with the embedded model's tokenizer, or with
that of --model.
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the group."""
    parser = subparsers.add_parser(
        "pml", help="check, show and compile prompt modules", description=_DESCRIPTION
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=OneLineParser
    )
    _declare(commands, "check", "say whether a schema, and prompts for it, are sound", _check)
    _declare(commands, "show", "draw a schema's layout, and what prompts take of it", _show)
    compiling = _declare(commands, "compile", "write tokens and positions as JSON", _compile)
    compiling.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: standard output"
    )


def _declare(
    commands: "argparse._SubParsersAction[Any]", name: str, text: str, run: Any
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run, prog=parser.prog)
    parser.add_argument("schema", metavar="SCHEMA", help="a PML file, or FILE.py:FUNCTION")
    parser.add_argument(
        "prompts", metavar="PROMPT", type=Path, nargs="*", help="PML files of prompts for it"
    )
    parser.add_argument(
        "--model",
        default="embedded",
        help='whose tokenizer and positions: "embedded" (the default), a folder, or a hub name',
    )
    return parser


def _check(args: argparse.Namespace) -> int:
    from treeserve.pml import PmlError

    try:
        schema, prompts = _read(args)
        compiled = _compiled(args, schema)
    except PmlError as error:
        return _tell(error)
    failures = 0
    for prompt in prompts:
        try:
            compiled.prompt(prompt)
        except PmlError as error:
            failures += _tell(error)
    if not failures:
        print(_summary(compiled, len(prompts)))
    return min(failures, 1)


def _show(args: argparse.Namespace) -> int:
    from rich.console import Console

    from treeserve.pml import PmlError
    from treeserve.pml.drawing import draw_prompt, draw_schema

    try:
        schema, prompts = _read(args)
        compiled = _compiled(args, schema)
        drawings = [draw_schema(compiled)]
        drawings += [draw_prompt(compiled, compiled.prompt(prompt)) for prompt in prompts]
    except PmlError as error:
        return _tell(error)
    console = Console(highlight=False)
    for drawing in drawings:
        console.print(drawing)
    return 0


def _compile(args: argparse.Namespace) -> int:
    from treeserve.pml import PmlError
    from treeserve.pml.records import to_json

    try:
        schema, prompts = _read(args)
        compiled = _compiled(args, schema)
        text = to_json(schema, compiled, [compiled.prompt(prompt) for prompt in prompts])
    except PmlError as error:
        return _tell(error)
    if args.output is None:
        print(text)
        return 0
    try:
        args.output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output: cannot write {args.output}: {error.strerror}") from None
    return 0


def _read(args: argparse.Namespace) -> "tuple[Schema, list[PromptTag]]":
    from treeserve.pml import read_prompt

    return _read_schema(args.schema), [read_prompt(path) for path in args.prompts]


def _read_schema(name: str) -> "Schema":
    from treeserve.pml import read_schema

    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py"):
        return _read_function(Path(file), function)
    return read_schema(Path(name))


def _read_function(file: Path, name: str) -> "Schema":
    """Run a file of Python and take one of its decorated functions."""
    from treeserve.pml import PythonSchema

    if not file.is_file():
        raise ConfigError(f"SCHEMA: there is no file {file}")
    found = runpy.run_path(str(file)).get(name)
    if not isinstance(found, PythonSchema):
        raise ConfigError(f"SCHEMA: {file} has no function {name!r} decorated with @schema")
    return found.build()


def _compiled(args: argparse.Namespace, schema: "Schema") -> "CompiledSchema":
    from treeserve.model import read_max_positions
    from treeserve.model_place import resolve_model
    from treeserve.pml import compile_schema
    from treeserve.tokenizer import Tokenizer

    # Without the weights there is no fingerprint of the model; engines have theirs.
    return compile_schema(
        schema,
        Tokenizer.load(resolve_model(args.model)),
        model_fingerprint="",
        max_positions=read_max_positions(args.model),
    )


def _summary(compiled: "CompiledSchema", num_prompts: int) -> str:
    counts = [
        _counted(sum(1 for name in compiled.modules if name), "module"),
        _counted(len(compiled.scaffolds), "scaffold"),
        f"{compiled.base_position} of {compiled.max_positions} positions",
    ]
    if num_prompts:
        counts.append(_counted(num_prompts, "prompt"))
    return f"{compiled.name}: sound; {', '.join(counts)}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _tell(error: "PmlError") -> int:
    """Print an error as compilers do, with its line; returns the exit status."""
    print(f"{error.place}: error: {error.description}", file=sys.stderr)
    place = error.place
    line = _line_of(Path(place.file), place.line) if place.line else None
    if line is not None:
        print(f"  {line}", file=sys.stderr)
        if place.column:
            margin = "".join("\t" if char == "\t" else " " for char in line[: place.column - 1])
            print(f"  {margin}^", file=sys.stderr)
    return 1


def _line_of(file: Path, number: int) -> str | None:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return lines[number - 1] if number <= len(lines) else None

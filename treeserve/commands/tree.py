"""`treeserve tree`: one picture of a tree, of a server or of a file, for a report."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treeserve.commands.connection_options import (
    add_connection_options,
    connect,
    reject_without_server,
)
from treeserve.commands.tree_outline import make_outline, outline_lines
from treeserve.commands.tree_source import read_file, write_view
from treeserve.commands.tree_svg import draw_svg
from treeserve.errors import ConfigError, NotPossible
from treeserve.inspection import MAX_NODES, TreeView, cut_view

if TYPE_CHECKING:
    from treeserve.client import Client

_DESCRIPTION = """\
Draw one picture of a tree, as text or SVG.

  treeserve tree --server 127.0.0.1:50051                  what a server holds now, as text
  treeserve tree --server HOST:PORT --output tree.svg      the same as SVG
  treeserve tree --server HOST:PORT --output tree.json     the same, to be drawn later
  treeserve tree tree.json --output tree.svg               now
  treeserve tree prompts.json                              what generate --tree would share

A server shows the caller's own namespace, with a key that may "inspect"; all of it with --all.
"""
_FORMATS = ("text", "svg", "json")
_MAX_TEXTS = 64
_TEXT_LENGTH = 60
_TIMEOUT_SECONDS = 30.0


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "tree", help="draw what a server or a file of prompts shares", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    parser.add_argument("file", nargs="?", help="a saved tree, or a tree of prompts, in JSON")
    parser.add_argument("--output", metavar="FILE", help="where to write it; default: stdout")
    parser.add_argument(
        "--format", choices=_FORMATS, help="default: by the ending of --output, else text"
    )
    parser.add_argument(
        "--max-nodes", type=int, metavar="N",
        help=f"to draw, 1 to {MAX_NODES}; default: 60 as text, else {MAX_NODES}",
    )  # fmt: skip
    parser.add_argument(
        "--model", default="embedded", help="whose tokenizer counts the tokens of prompts"
    )
    group = parser.add_argument_group("what a server shows")
    group.add_argument("--all", action="store_true", help='everybody\'s nodes; needs "admin"')
    group.add_argument(
        "--text", action="store_true",
        help="how the texts of nodes begin, if the server was started with --show-text",
    )  # fmt: skip
    add_connection_options(parser, server_help="draw what this server holds now")


def run(args: argparse.Namespace) -> int:
    """Draw it."""
    kind = _format(args)
    max_nodes = args.max_nodes
    if max_nodes is None:
        max_nodes = 60 if kind == "text" else MAX_NODES
    if not 1 <= max_nodes <= MAX_NODES:
        raise ConfigError(f"--max-nodes: must be between 1 and {MAX_NODES}, got {max_nodes}")
    if (args.file is None) == (args.server is None):
        raise ConfigError("file: give exactly one of a file and --server")
    texts: dict[int, str] = {}
    if args.file is not None:
        reject_without_server(args)
        if args.all or args.text:
            raise ConfigError(f"--{'all' if args.all else 'text'}: needs --server")
        view, title = read_file(Path(args.file), args.model), Path(args.file).name
    else:
        with connect(args) as client:
            timeout = args.timeout or _TIMEOUT_SECONDS
            view = client.trees.get(
                max_nodes=MAX_NODES, all_namespaces=args.all, timeout_seconds=timeout
            )
            title = str(args.server)
            if args.text:
                texts = _texts(client, view, timeout)
    _write(args.output, _draw(kind, view, title, max_nodes, texts))
    return 0


def _format(args: argparse.Namespace) -> str:
    if args.format is not None:
        return str(args.format)
    ending = Path(args.output or "").suffix.removeprefix(".")
    if args.output is None or ending == "txt":
        return "text"
    if ending not in _FORMATS:
        raise ConfigError("--output: must end in .svg, .txt or .json, or give --format")
    return ending


def _texts(client: "Client", view: TreeView, timeout_seconds: float) -> dict[int, str]:
    """How the widest nodes begin, by node id."""
    if view.nodes and not any(node.token_ids for node in view.nodes):
        raise NotPossible("--text: the server shows no text: it was started without --show-text")
    texts, waiting = {}, [make_outline(view, _MAX_TEXTS)]
    while waiting:
        outline = waiting.pop()
        waiting += outline.children
        if outline.node is not None:
            ids = outline.node.token_ids
            text = client.detokenize(ids, special_tokens=True, timeout_seconds=timeout_seconds)
            cut = "" if len(text) <= _TEXT_LENGTH else "…"
            texts[outline.node.node_id] = text[:_TEXT_LENGTH] + cut
    return texts


def _draw(kind: str, view: TreeView, title: str, max_nodes: int, texts: dict[int, str]) -> str:
    if kind == "json":
        return write_view(view)
    said = summary(view)
    if kind == "svg":
        return draw_svg(cut_view(view, max_nodes), f"{title}: {said}", texts)
    lines = outline_lines(make_outline(view, max_nodes), texts)
    return "\n".join([f"{title}: {said}", *lines, ""])


def summary(view: TreeView) -> str:
    """How much there is."""
    num_nodes = len(view.nodes) + view.num_left_out_nodes
    least = "at least " if view.is_partly_counted else ""
    left_out = view.num_left_out_nodes
    hidden = f"; {left_out:,} of them not sent" if left_out else ""
    return f"{least}{num_nodes:,} nodes of {view.num_tokens:,} tokens{hidden}"


def _write(output: str | None, content: str) -> None:
    if output is None:
        sys.stdout.write(content)
        return
    try:
        Path(output).write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output: cannot write {output}: {error.strerror}") from None

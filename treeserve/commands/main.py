"""`treeserve`: the subcommands, and how errors leave the process."""

import logging
import os
import sys
from collections.abc import Sequence

from treeserve.commands import (
    bench,
    build_kernels,
    calibrate,
    chat,
    contest,
    demo,
    doctor,
    generate,
    keys,
    pml,
    serve,
    top,
    tree,
)
from treeserve.commands.options import OneLineParser, package_version
from treeserve.errors import ConfigError, InvalidRequest, TreeserveError
from treeserve.prompt_tree import TreeFileError

_DESCRIPTION = """\
Serves text generation where many live requests share text: what prompts have in common is computed
once, stored once, and read once for all the samples beneath it.

  treeserve demo                              see it work, with the embedded model
  treeserve generate "Once upon" -n 4         draw four samples in this process
  treeserve serve --model /path/to/model      serve a checkpoint over gRPC
  treeserve top                               watch what a server shares
"""


def make_parser() -> OneLineParser:
    """The whole command line."""
    parser = OneLineParser(prog="treeserve", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"treeserve {package_version()}")
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=OneLineParser
    )
    serve.add_parser(subparsers)
    keys.add_parser(subparsers)
    generate.add_parser(subparsers)
    chat.add_parser(subparsers)
    demo.add_parser(subparsers)
    bench.add_parser(subparsers)
    calibrate.add_parser(subparsers)
    contest.add_parser(subparsers)
    pml.add_parser(subparsers)
    doctor.add_parser(subparsers)
    build_kernels.add_parser(subparsers)
    top.add_parser(subparsers)
    tree.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 is success, 1 a failure, 2 bad usage, 130 an interrupt."""
    # It warns of every attempt to reach the hub, and the error that comes of them says enough. One
    # is for when it is imported already, the other for when it is not.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    # Before grpc is imported: its core would write lines of its own beside ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if not sys.stderr.isatty():
        # Before transformers is imported, too, and not by importing it: that takes seconds, and
        # many commands never need it.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    args = make_parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TreeserveError as error:
        print(f"{args.prog}: {_one_line(error)}", file=sys.stderr)
        bad_usage = isinstance(error, ConfigError | InvalidRequest | TreeFileError)
        return 2 if bad_usage else 1
    return status


def _one_line(error: TreeserveError) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())

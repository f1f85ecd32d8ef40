"""`treeserve build-kernels`: compiles the CPU kernels ahead of time."""

import argparse
from typing import Any

_DESCRIPTION = """\
Compile the CPU kernels, of attention and of linear layers, which engines otherwise compile at their
first start, in a few seconds with g++ (or $CXX). They are kept in $TREESERVE_CACHE, else
$XDG_CACHE_HOME/treeserve, else ~/.cache/treeserve, under a name that is made from their source;
other machines may be given the file.

  treeserve build-kernels              where it is not there yet
  treeserve build-kernels --force      also where it is
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "build-kernels", help="compile the CPU kernels now", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    parser.add_argument("--force", action="store_true", help="also where it is there already")


def run(args: argparse.Namespace) -> int:
    """Build it and say where it is."""
    from treeserve.attention.cpu_build import build, library_path, missing_instructions

    path = library_path()
    was_there = path.is_file() and not args.force
    build(path, print, again=args.force)
    if was_there:
        print(f"there already: {path}")
    missing = missing_instructions()
    if missing:
        print(f"it does not run on this processor, which has no {', '.join(missing)}")
    return 0

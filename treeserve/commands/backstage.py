"""What `treeserve serve` offers beside generation: its options, and what a loaded engine says."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treeserve.commands.options import package_version
from treeserve.prefixes.folder import DEFAULT_MAX_BYTES, PrefixFolder
from treeserve.server.backstage import Backstage

if TYPE_CHECKING:
    from treeserve.building import BuiltEngine
    from treeserve.loop import EngineLoop


@dataclass(frozen=True, slots=True, eq=False)
class BackstageOptions:
    """Checked at the start, before a model is loaded."""

    show_text: bool = False
    """Whether the tree is shown with its token ids."""
    folder: PrefixFolder | None = None
    """Where prefixes and schemas are saved; None: nowhere."""


def add_backstage_options(group: "argparse._ArgumentGroup") -> None:
    """Declare them."""
    group.add_argument(
        "--show-text", action="store_true",
        help="let TreeService show the token ids of what is cached, which is what clients wrote",
    )  # fmt: skip
    group.add_argument(
        "--prefix-folder", type=Path, metavar="FOLDER",
        help="where prefixes, and schemas of modules, are saved with their KV; default: nowhere",
    )  # fmt: skip
    group.add_argument(
        "--prefix-folder-bytes", type=int, default=DEFAULT_MAX_BYTES, metavar="N",
        help="of all that is saved there, at most; default: %(default)s",
    )  # fmt: skip


def read_backstage_options(args: argparse.Namespace) -> BackstageOptions:
    """Raises ConfigError where a folder cannot be used."""
    folder = None
    if args.prefix_folder is not None:
        folder = PrefixFolder(args.prefix_folder, args.prefix_folder_bytes)
    return BackstageOptions(args.show_text, folder)


def make_backstage(
    built: "BuiltEngine",
    engine_options: Mapping[str, Any],
    options: BackstageOptions,
    loop: "EngineLoop",
) -> Backstage:
    """For an engine whose loop has started, built with these options."""
    from treeserve.config import EngineOptions
    from treeserve.server.engine_side import open_backstage

    return open_backstage(
        built,
        EngineOptions(**engine_options),
        loop,
        version=package_version(),
        shows_tokens=options.show_text,
        folder=options.folder,
    )

"""Prompts of modules for `treeserve generate`: their files read, drawn here or at a server."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from treeserve.errors import ConfigError, TreeserveError
from treeserve.module_prompt import ImportingPrompt
from treeserve.types import SamplingParams

if TYPE_CHECKING:
    from treeserve.client import Client, Stream
    from treeserve.llm import LLM
    from treeserve.pml import PromptTag, Schema
    from treeserve.text_stream import Item


@dataclass(frozen=True, slots=True, eq=False)
class ModuleFiles:
    """A prompt and its schema, read from PML."""

    prompt: "PromptTag"
    schema: "Schema"
    exact: bool


def read_module_files(args: argparse.Namespace) -> ModuleFiles | None:
    """What --pml and --schema name; None where no --pml is given.

    Raises:
        ConfigError: An option is there without the other.
        TreeserveError: A file is not sound: file, line and column.
    """
    if args.pml is None:
        for option in ("schema", "exact"):
            if getattr(args, option):
                raise ConfigError(f"--{option}: needs --pml, a file with a prompt of modules")
        return None
    if args.schema is None:
        raise ConfigError("--schema: must be given with --pml, the file of its schema")
    from treeserve.pml import PmlError, read_prompt, read_schema

    try:
        schema, prompt = read_schema(Path(args.schema)), read_prompt(Path(args.pml))
    except PmlError as error:
        raise TreeserveError(str(error)) from None
    return ModuleFiles(prompt, schema, args.exact)


def draw_here(
    llm: "LLM", files: ModuleFiles, params: SamplingParams, max_tokens: int | None
) -> "Iterator[Item]":
    """Samples of the prompt; the PML's max_tokens holds where the command line has none.

    Raises:
        TreeserveError: The prompt does not fit its schema: file, line and column.
    """
    from treeserve.pml import PmlError

    try:
        prompt = llm.compile_schema(files.schema).prompt(files.prompt)
    except PmlError as error:
        raise TreeserveError(str(error)) from None
    params = _limited(files, params, max_tokens)
    if files.exact:
        return llm.stream(prompt.exact_token_ids, params)
    return llm.stream(prompt.own_token_ids, params, modules=prompt.module_set)


def put_and_draw(
    client: "Client", files: ModuleFiles, params: SamplingParams, max_tokens: int | None
) -> "Stream":
    """The same at a server, which keeps the schema."""
    from treeserve.pml import write_prompt, write_schema

    client.modules.put(write_schema(files.schema))
    asked = ImportingPrompt(write_prompt(files.prompt), files.exact)
    return client.generate(asked, _limited(files, params, max_tokens))


def _limited(files: ModuleFiles, params: SamplingParams, max_tokens: int | None) -> SamplingParams:
    own = files.prompt.max_tokens
    if max_tokens is None and own is not None:
        return replace(params, max_tokens=own)
    return params

"""`treeserve generate`: draws samples here or at a server, and shows them as they come."""

import argparse
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from treeserve.commands.connection_options import (
    add_connection_options,
    connect,
    reject_without_server,
)
from treeserve.commands.generate_modules import (
    ModuleFiles,
    draw_here,
    put_and_draw,
    read_module_files,
)
from treeserve.commands.interrupt import DeferredInterrupt
from treeserve.commands.options import (
    ENGINE_OPTIONS,
    add_engine_options,
    given_engine_options,
    reject_together,
)
from treeserve.commands.report import JsonReport, LiveReport, Report, SampleReport, total_usage
from treeserve.errors import ConfigError, InvalidRequest
from treeserve.prompt_tree import read_tree_file, tree_file_error
from treeserve.types import Delta, Finished, PromptTree, SamplingParams, Sharing

if TYPE_CHECKING:
    from treeserve.text_stream import Item

Work: TypeAlias = str | PromptTree | ModuleFiles


class Events(Protocol):
    """Deltas and usages; closing it ends the samples."""

    def __iter__(self) -> Iterator[Delta | Finished]: ...

    def close(self) -> None: ...


_DESCRIPTION = """\
Draw samples after a prompt, or after every node of a tree of prompts.

  treeserve generate "Once upon a time"
  treeserve generate "Once upon a time" -n 4 --temperature 0.8 --max-tokens 64 --seed 7
  treeserve generate --prompt-file question.txt --stop "# end" --json
  treeserve generate --tree contest.json --server 127.0.0.1:50051
  treeserve generate --pml prompt.pml --schema travel.pml --exact
  treeserve generate "Once" --server host:50051 --tls-ca ca.pem --api-key-file key

A tree file is JSON; a node's prompt is the texts from the trunk down to it:

  {"text": "You are terse.\\n", "params": {"max_tokens": 32},
   "branches": [{"text": "Q: 2+2? A:", "n": 3},
                {"text": "Q: ", "branches": [{"text": "3+3? A:"}, {"text": "4+4? A:"}]}]}

n is 1 for a node without branches, otherwise 0. A node without params has its parent's; what params
leave out is as on the command line. The last line, on stderr, says what sharing saved.
"""

_PARAMS = (
    ("temperature", float, "T", "0 is greedy; default: 1"),
    ("top_k", int, "K", "draw from the k likeliest tokens only; default: 0, all"),
    ("top_p", float, "P", "draw from the likeliest that together reach P; default: 1, all"),
    ("min_p", float, "P", "leave out what is less likely than P times the likeliest; default: 0"),
    ("seed", int, "N", "the same seed draws the same samples; default: a random one"),
    ("max_tokens", int, "N", "of each sample, at most; default: 128"),
    ("logprobs", int, "K", "log-probabilities of each token and the K likeliest (with --json)"),
)


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "generate", help="draw samples after a prompt or a tree", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    parser.add_argument("prompt", nargs="?", help="the text to continue")
    parser.add_argument("--prompt-file", metavar="FILE", help="read the prompt; - is stdin")
    parser.add_argument("--tree", metavar="FILE", help="a tree of prompts in JSON")
    parser.add_argument("--pml", metavar="FILE", help="a prompt of modules; needs --schema")
    parser.add_argument("--schema", metavar="FILE", help="the schema of --pml, a PML file")
    parser.add_argument(
        "--exact", action="store_true", help="compute the --pml prompt without approximation"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for machines")
    _add_sampling_options(parser)
    add_connection_options(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Draw, show, and say what sharing saved."""
    params = _params(args)
    work = _work(args, params)
    report = _report(args, work)
    if args.server is None:
        _run_here(args, work, params, report)
    else:
        _run_at_server(args, work, params, report)
    return 0


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument("-n", type=int, metavar="N", help="samples to draw; default: 1")
    for name, kind, metavar, text in _PARAMS:
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, type=kind, metavar=metavar, help=text)
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text; may be repeated"
    )
    group.add_argument(
        "--stop-token-id", type=int, action="append", metavar="ID", help="may be repeated"
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on past the model's own end")


def _params(args: argparse.Namespace) -> SamplingParams:
    names = ("n", *(name for name, *_ in _PARAMS))
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return SamplingParams(
        stop=tuple(args.stop or ()),
        stop_token_ids=tuple(args.stop_token_id or ()),
        ignore_eos=args.ignore_eos,
        **given,
    )


def _work(args: argparse.Namespace, params: SamplingParams) -> Work:
    sources = [args.prompt, args.prompt_file, args.tree, args.pml]
    if sum(source is not None for source in sources) != 1:
        raise ConfigError("prompt: give exactly one of a text, --prompt-file, --tree and --pml")
    files = read_module_files(args)
    if files is not None:
        return files
    if args.tree is not None:
        reject_together(args, ["n"], "--tree", "each node of the file has its own n")
        return read_tree_file(Path(args.tree), params)
    if args.prompt_file is not None:
        return _read_prompt(args.prompt_file)
    return str(args.prompt)


def _read_prompt(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode()
    except OSError as error:
        raise ConfigError(f"--prompt-file: cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--prompt-file: {file} is not valid UTF-8 at byte {error.start}"
        ) from None


def _report(args: argparse.Namespace, work: Work) -> Report:
    if args.json:
        return JsonReport(sys.stdout)
    if isinstance(work, PromptTree) or (args.n or 1) > 1:
        return SampleReport(sys.stdout, sys.stderr)
    return LiveReport(sys.stdout, sys.stderr)


def _run_here(args: argparse.Namespace, work: Work, params: SamplingParams, report: Report) -> None:
    from treeserve.llm import LLM

    def start() -> Events:
        if isinstance(work, ModuleFiles):
            return _interruptible(draw_here(llm, work, params, args.max_tokens))
        return _interruptible(llm.stream(work, params))

    reject_without_server(args)
    llm = LLM(**given_engine_options(args))
    _show(args, report, start, llm.sharing)


def _interruptible(stream: "Iterator[Item]") -> Generator[Delta | Finished, None, None]:
    """Let an interrupt wait until the step that runs has ended; a second one does not wait."""
    with DeferredInterrupt() as interrupt:
        for event in stream:
            if isinstance(event, Delta | Finished):
                yield event
            if interrupt.is_asked:
                raise KeyboardInterrupt


def _run_at_server(
    args: argparse.Namespace, work: Work, params: SamplingParams, report: Report
) -> None:
    reject_together(args, ENGINE_OPTIONS, "--server", "the server has its own")

    def start() -> Events:
        if isinstance(work, PromptTree):
            return client.generate_tree(work)
        if isinstance(work, ModuleFiles):
            return put_and_draw(client, work, params, args.max_tokens)
        return client.generate(work, params)

    with connect(args) as client:
        _show(args, report, start, lambda: None)


def _show(
    args: argparse.Namespace,
    report: Report,
    start: Callable[[], Events],
    sharing: Callable[[], Sharing | None],
) -> None:
    usages = []
    try:
        with closing(start()) as events:
            for event in events:
                report.see(event)
                if isinstance(event, Finished):
                    usages.append(event.usage)
    except InvalidRequest as error:
        if args.tree is None:
            raise
        raise tree_file_error(Path(args.tree), error) from None
    report.end(total_usage(usages), sharing())

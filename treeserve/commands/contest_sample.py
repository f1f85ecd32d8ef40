"""`treeserve contest sample`: draws programs for contest problems into a file that goes on."""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treeserve.commands.connection_options import (
    add_connection_options,
    connection,
    reject_without_server,
)
from treeserve.commands.interrupt import DeferredInterrupt
from treeserve.commands.options import (
    ENGINE_OPTIONS,
    add_engine_options,
    given_engine_options,
    reject_together,
    require_at_least,
)
from treeserve.commands.sample_progress import display
from treeserve.contest.records.contest_problem import ContestProblem
from treeserve.contest.records.fields import RecordError
from treeserve.contest.records.problem_file import FORMATS, ProblemSet, read_contest_problems
from treeserve.contest.sampling.background_judge import BackgroundJudge
from treeserve.contest.sampling.drawing import DrawSettings
from treeserve.contest.sampling.few_shot import FewShot, few_shot
from treeserve.contest.sampling.portion import ROUND_STRIDE, Source
from treeserve.contest.sampling.progress import Progress
from treeserve.contest.sampling.run_head import Wording, describe_model, head_parts, make_drawings
from treeserve.contest.sampling.sample_file import SampleWriter, make_head
from treeserve.contest.sampling.sampling_run import SamplingRun
from treeserve.contest.sampling.selection import select
from treeserve.contest.sampling.template import (
    TEMPLATES,
    parse_repair_template,
    parse_template,
    read_template_text,
)
from treeserve.contest.sandbox.bubblewrap import NoSandbox
from treeserve.contest.sandbox.languages import LANGUAGES
from treeserve.contest.sandbox.sandbox import find_confinement
from treeserve.errors import ConfigError
from treeserve.types import SamplingParams

if TYPE_CHECKING:
    from treeserve.building import BuiltEngine
    from treeserve.config import EngineOptions

_DESCRIPTION = """\
Draw programs for contest problems. Prompts share their examples, samples their problem: what they
have in common is computed once. The file grows as samples end; the same command goes on where it
was stopped or killed, with the samples that it would have drawn.

  treeserve contest sample problems.jsonl -o samples.jsonl --samples 16 --examples 3
  treeserve contest sample problems.jsonl -o samples.jsonl --problems difficulty:easy \\
      --problems first:20 --enough-passing 1
  treeserve contest sample problems.jsonl -o samples.jsonl --rounds 2
  treeserve contest sample problems.jsonl -o samples.jsonl --server 127.0.0.1:50051
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "sample", help="draw programs for problems", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    parser.add_argument("data_set", type=Path, metavar="PROBLEMS", help="JSON lines, or a folder")
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="SAMPLES", help="for the samples")
    add("--format", choices=list(FORMATS), help="of the problems; default: by each record's looks")
    add("--keep-going", action="store_true", help="leave out what cannot be used, and say so")
    add(
        "--problems",
        action="append",
        default=[],
        metavar="SELECTION",
        help="ids, START:END, difficulty:WORD, first:N, between commas; repeated, it narrows",
    )
    _add_prompt_options(parser)
    _add_sampling_options(parser)
    _add_judging_options(parser)
    add_connection_options(parser, "of each call").add_argument(
        "--at-once", type=int, metavar="N", help="calls to the server at once; default: 16"
    )
    add_engine_options(parser)


def _add_prompt_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("prompt").add_argument
    add(
        "--examples",
        type=int,
        metavar="N",
        help="solved problems before each; default: all of --example-file, or none",
    )
    add(
        "--example-file",
        type=Path,
        metavar="PATH",
        help="problems with solutions; default: the last ones of PROBLEMS",
    )
    add(
        "--template",
        type=Path,
        metavar="FILE",
        help="a solved problem with {statement}, {solution}, …; default: the format's",
    )
    add("--repair-template", type=Path, metavar="FILE", help="what a program that failed is told")
    add("--language", choices=list(LANGUAGES), help="of the programs; default: as the texts say")


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("sampling").add_argument
    add("--samples", type=int, default=16, metavar="N", help="of each; default: %(default)s")
    add("--temperature", type=float, default=0.8, metavar="T", help="default: %(default)s")
    add("--top-p", type=float, default=1.0, metavar="P", help="default: 1, all tokens")
    add("--top-k", type=int, default=0, metavar="K", help="default: 0, all tokens")
    add("--min-p", type=float, default=0.0, metavar="P", help="default: 0, all tokens")
    add("--max-tokens", type=int, default=512, metavar="N", help="default: %(default)s")
    add("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    add(
        "--stop",
        action="append",
        metavar="TEXT",
        help="end before this text; may be repeated; default: the format's",
    )


def _add_judging_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("verdicts").add_argument
    add(
        "--rounds",
        type=int,
        default=0,
        metavar="R",
        help="judge samples as they end, and let one that fails go on from its own tokens, told "
        "why, up to R times; default: 0",
    )
    add("--enough-distinct", type=int, metavar="K", help="stop a problem at K different programs")
    add("--enough-passing", type=int, metavar="K", help="stop a problem at K accepted samples")
    add("--jobs", type=int, default=1, metavar="N", help="programs at once; default: %(default)s")
    add(
        "--no-sandbox",
        action="store_true",
        help="judge without bubblewrap, as yourself: only programs that you trust",
    )


@dataclass(frozen=True)
class _Inputs:
    """What is sampled, and how."""

    data_set: ProblemSet
    chosen: list[ContestProblem]
    examples: FewShot
    wording: Wording
    settings: DrawSettings


@dataclass(frozen=True)
class _Opened:
    """Where samples come from, and what is known of it."""

    source: Source
    model: Mapping[str, Any]
    kv_bytes_per_token: int | None


def run(args: argparse.Namespace) -> int:
    """Draw."""
    _check(args)
    inputs = _read(args)
    for error in inputs.data_set.errors:
        print(f"left out: {error}", file=sys.stderr)
    with _opened_source(args) as opened:
        head = make_head(
            head_parts(
                inputs.data_set.problems,
                inputs.examples,
                inputs.wording,
                inputs.settings,
                opened.model,
            )
        )
        with _judge(args, inputs.settings) as judge, SampleWriter(args.output, head) as writer:
            return _draw(args, inputs, opened, writer, judge)


def _draw(
    args: argparse.Namespace,
    inputs: _Inputs,
    opened: _Opened,
    writer: SampleWriter,
    judge: BackgroundJudge | None,
) -> int:
    sampling = SamplingRun(
        make_drawings(inputs.chosen, inputs.examples, inputs.wording, inputs.settings),
        inputs.settings,
        opened.source,
        writer,
        judge=judge,
        repair_template=inputs.wording.repair_of,
        kv_bytes_per_token=opened.kv_bytes_per_token,
        left_out=_say_left_out if args.keep_going else None,
    )
    with DeferredInterrupt() as interrupt, display() as shown:
        is_whole = sampling.run(shown.tell, lambda: interrupt.is_asked)
    progress = sampling.progress
    if interrupt.is_asked:
        print(
            f"stopped: {progress.samples_done} of {progress.num_samples} samples are drawn; the "
            "same command goes on",
            file=sys.stderr,
        )
        raise KeyboardInterrupt
    print(_summary(progress))
    return 0 if is_whole else 1


def _say_left_out(what: str) -> None:
    print(f"left out: {what}", file=sys.stderr)


def _summary(progress: Progress) -> str:
    text = f"{progress.samples_done} samples of {progress.num_problems} problems"
    if progress.repairs_done:
        text += f" and {progress.repairs_done} repairs"
    if progress.repairs_too_long:
        text += f"; {progress.repairs_too_long} more repairs would be too long"
    if progress.samples_before:
        text += f"; {progress.samples_before} of them drawn before"
    if progress.tokens_drawn:
        text += (
            f"; {progress.tokens_drawn:,} tokens in {progress.seconds:.1f} s, "
            f"{progress.tokens_per_second:,.0f} a second"
        )
    if progress.prompt_tokens:
        text += (
            f"; prompt tokens: {progress.computed_tokens:,} of {progress.prompt_tokens:,} "
            f"computed, {progress.part_saved:.0%} saved by sharing"
        )
    if progress.num_failed:
        text += (
            f"; {progress.num_failed} samples could not be drawn; the same command draws them again"
        )
    return text


def _read(args: argparse.Namespace) -> _Inputs:
    data_set = read_contest_problems(args.data_set, args.format, args.keep_going)
    if not data_set.problems:
        raise RecordError(f"{args.data_set}: every record was left out")
    example_file = None
    if args.example_file is not None:
        example_file = read_contest_problems(args.example_file, None, args.keep_going).problems
    examples = few_shot(data_set.problems, example_file, args.examples)
    wording = Wording(
        _parsed(args.template, "--template", parse_template),
        _parsed(args.repair_template, "--repair-template", parse_repair_template),
    )
    chosen = select(data_set.problems, args.problems)
    settings = DrawSettings(
        num_samples=args.samples,
        params=_params(args, data_set),
        seed=args.seed,
        rounds=args.rounds,
        enough_distinct=args.enough_distinct,
        enough_passing=args.enough_passing,
        language=args.language,
    )
    return _Inputs(data_set, chosen, examples, wording, settings)


def _parsed(file: Path | None, option: str, parse: Any) -> Any:
    if file is None:
        return None
    return parse(read_template_text(file, option), f"{option}: {file}")


def _params(args: argparse.Namespace, data_set: ProblemSet) -> SamplingParams:
    stop = args.stop
    if stop is None:
        # Of several formats in one folder: whatever ends a program in any of them.
        sources = dict.fromkeys(problem.source for problem in data_set.problems)
        stop = dict.fromkeys(text for source in sources for text in TEMPLATES[source][1])
    return SamplingParams(
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        max_tokens=args.max_tokens,
        stop=tuple(stop),
    )


def _check(args: argparse.Namespace) -> None:
    least = {"samples": 1, "max_tokens": 1, "jobs": 1, "rounds": 0, "examples": 0, "seed": 0}
    least |= {"enough_distinct": 1, "enough_passing": 1, "at_once": 1}
    require_at_least(args, **least)
    if args.samples > ROUND_STRIDE:
        raise ConfigError(f"--samples: must be at most {ROUND_STRIDE:,}, got {args.samples}")
    if args.server is None:
        reject_without_server(args)
        if args.at_once is not None:
            raise ConfigError("--at-once: only with --server; an engine here is filled by itself")
        return
    reject_together(args, ENGINE_OPTIONS, "--server", "the server has its own")


@contextmanager
def _opened_source(args: argparse.Namespace) -> Iterator[_Opened]:
    if args.server is not None:
        from treeserve.contest.sampling.at_server import AtServer

        with closing(AtServer(args.server, args.at_once or 16, connection(args))) as server:
            # Which model a server has, only whoever runs it can say.
            yield _Opened(server, {"name": "a server's"}, None)
        return
    from treeserve.building import build_engine
    from treeserve.config import EngineOptions
    from treeserve.contest.sampling.in_process import InProcess

    options = EngineOptions(**given_engine_options(args))
    built = build_engine(options)
    most = min(options.max_running, options.token_budget)
    with closing(InProcess(built, most)) as engine:
        yield _Opened(engine, _model(options, built), built.kv_bytes_per_token)


def _model(options: "EngineOptions", built: "BuiltEngine") -> dict[str, Any]:
    from treeserve.model_place import resolve_model

    dtype = str(built.model.dtype).removeprefix("torch.")
    if options.quantization != "none":
        dtype = f"{dtype}, {options.quantization} weights"
    return describe_model(options.model, resolve_model(options.model), dtype)


@contextmanager
def _judge(args: argparse.Namespace, settings: DrawSettings) -> Iterator[BackgroundJudge | None]:
    if not settings.judges:
        yield None
        return
    try:
        confinement = find_confinement(not args.no_sandbox)
    except NoSandbox as error:
        raise NoSandbox(
            f"{error}; or type --no-sandbox to run programs that you trust as yourself"
        ) from None
    jobs = min(args.jobs, len(os.sched_getaffinity(0)))
    with closing(BackgroundJudge(confinement, jobs)) as judge:
        yield judge

"""`treeserve bench contest`: what sharing saves of a contest's tree, trunk only or whole."""

import argparse
from typing import TYPE_CHECKING, Any

from treeserve.commands.bench_result import (
    add_going_on_option,
    add_result_options,
    check_result_options,
    read_before,
    read_result,
    resolve_bench_device,
    show_result,
    watch_result,
)
from treeserve.commands.options import require_at_least
from treeserve.commands.progress import ProgressLine
from treeserve.contest.records.problem_file import read_contest_problems
from treeserve.contest.sampling.few_shot import few_shot
from treeserve.contest.sampling.template import template_of_format
from treeserve.embedded import FEW_SHOT_FILE, PROBLEMS_FILE
from treeserve.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from treeserve.bench.contest.sides import Contest
    from treeserve.model import LoadedModel

_DESCRIPTION = """\
Draw samples of contest problems after solved examples, as Hydragen's paper did, under one pool:
with nothing reused, with pages reused, with the examples shared, with the whole tree shared. Says
which part of the difference comes from a larger batch. What the sides drew is compared before a
time is shown. The times are of one run: the machine should do nothing else.
With --output, what is measured is kept part by part, and --go-on leaves out what is there.

  treeserve bench contest
  treeserve bench contest --shape qwen-0.5b --temperature 0 --output contest.json --go-on
"""
_LINE_SECONDS = 30.0
_SIDES = ("nothing", "pages", "trunk", "tree-same-batch", "tree")
_SHAPES = ("qwen-0.5b", "tiny")


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "contest", help="a contest's tree, shared in part or as a whole", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add("--shape", choices=_SHAPES, help="random weights; default: the embedded model")
    add("--problems", type=int, default=16, metavar="N", help="default: %(default)s")
    add("--samples", type=int, default=32, metavar="N", help="of each; default: %(default)s")
    add("--max-tokens", type=int, default=64, metavar="N", help="of each; default: %(default)s")
    add(
        "--trunk", type=int, default=2400, metavar="TOKENS",
        help="of solved examples, about; default: %(default)s",
    )  # fmt: skip
    add("--num-pages", type=int, default=1200, metavar="N", help="default: %(default)s, of 16")
    add("--temperature", type=float, default=0.8, metavar="T", help="default: %(default)s")
    add("--side", action="append", choices=_SIDES, help="may be repeated; default: all")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    add("--device", default="cpu", help="default: %(default)s")
    add_going_on_option(parser)
    add_result_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and show."""
    check_result_options(args)
    result = _measure(args) if args.source is None else read_result(args.source, "contest")
    from treeserve.bench.contest.suite import contest_lines

    show_result(args, result, contest_lines)
    return 0


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    require_at_least(args, problems=1, samples=1, max_tokens=1, num_pages=1)
    sides = args.side or _SIDES
    if "tree-same-batch" in sides and "trunk" not in sides:
        raise ConfigError("--side: tree-same-batch has the batch of trunk: give --side trunk too")
    before = read_before(args, "contest")
    from treeserve.bench.contest.suite import measure_contest
    from treeserve.building import backend_for
    from treeserve.calibration.choice import choose_costs
    from treeserve.calibration.subject import make_subject
    from treeserve.config import DEFAULT_PAGE_SIZE, SchedulerConfig

    device = resolve_bench_device(args.device, "treeserve bench contest --device cpu")
    model = _model(args, device)
    contest = _contest(args, model.vocabulary_size)
    backend = backend_for(model, DEFAULT_PAGE_SIZE)
    with ProgressLine(_LINE_SECONDS) as progress:
        subject = make_subject(model.layers, backend, model.dtype, device)
        costs = choose_costs("auto", subject, device, progress.start)
        config = SchedulerConfig(num_pages=args.num_pages)
        watch = watch_result(args, progress)
        return measure_contest(
            contest, sides, model, backend, costs, config, watch, args.time_limit, before
        )


def _model(args: argparse.Namespace, device: "torch.device") -> "LoadedModel":
    import torch

    from treeserve.bench.decode.models import make_random_model
    from treeserve.config import ModelConfig
    from treeserve.model import load_model

    if args.shape is None:
        return load_model(ModelConfig(model="embedded", dtype=args.dtype, device=str(device)))
    dtype: torch.dtype = getattr(torch, args.dtype)
    return make_random_model(args.shape, dtype, device)


def _contest(args: argparse.Namespace, vocabulary_size: int) -> "Contest":
    """Embedded problems in the embedded tokenizer's ids, folded into a smaller vocabulary."""
    from treeserve.bench.contest.sides import Contest
    from treeserve.model_place import resolve_model
    from treeserve.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(resolve_model("embedded"))
    template = template_of_format("embedded")
    examples = read_contest_problems(FEW_SHOT_FILE).problems
    number = 0
    text = ""
    while number < len(examples) and len(tokenizer.encode(text)) < args.trunk:
        text += template.solved(examples[number])
        number += 1
    problems = read_contest_problems(PROBLEMS_FILE).problems
    if len(problems) < args.problems:
        raise ConfigError(f"--problems: at most {len(problems)}, got {args.problems}")
    shots = few_shot(problems, examples, number)
    prompts = [
        tuple(
            token_id % vocabulary_size
            for token_id in tokenizer.encode(template.prompt(problem, shots.before(problem)))
        )
        for problem in problems[: args.problems]
    ]
    return Contest(prompts, _common(prompts), args.samples, args.max_tokens, args.temperature)


def _common(prompts: list[tuple[int, ...]]) -> int:
    """Tokens that all begin with; of a single prompt, all but its last."""
    shortest = min(map(len, prompts)) - 1
    differing = (i for i in range(shortest) if len({prompt[i] for prompt in prompts}) > 1)
    return next(differing, shortest)

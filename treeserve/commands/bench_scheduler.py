"""`treeserve bench scheduler`: the host's time for a step, and what it does not grow with."""

import argparse
import itertools
import json
from dataclasses import asdict
from typing import Any

from treeserve.commands.progress import ProgressLine
from treeserve.errors import ConfigError
from treeserve.simulation.balanced_load import LoadShape
from treeserve.simulation.step_times import StepTimes, measure_steps
from treeserve.simulation.tree_times import TreeTimes, measure_tree

_DESCRIPTION = """\
How long the scheduler takes for a step: the real one, with tokens from an array in place of a
model. Requests decode over a balanced tree: of 64 requests at depth 3, level 1 has 4 nodes, level 2
has 16, level 3 a leaf for each. At depth 1 nothing is shared. First nobody ends (decode), then in
every step some end and are replaced by new ones (churn). host is schedule() and complete() in all,
plan is within it; Python's garbage collector runs as it does in a server.

  treeserve bench scheduler
  treeserve bench scheduler --running 256 --depth 1,3,6 --json
  treeserve bench scheduler --running 1024 --depth 4 --cached 0,1000000,4000000

Then single operations on a radix tree: finding and inserting a long prompt, evicting.
"""


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "scheduler", help="the scheduler's own time for a step", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add("--running", default="64,256,1024", metavar="N[,N]", help="default: %(default)s")
    add("--depth", default="1,2,3,4,5,6", metavar="D[,D]", help="default: %(default)s")
    add(
        "--cached",
        default="0,1000000",
        metavar="TOKENS[,TOKENS]",
        help="in the cache besides; more than the first only at the middle one of --running and "
        "--depth; default: %(default)s",
    )
    add("--level-tokens", type=int, default=128, metavar="TOKENS", help="default: %(default)s")
    add("--steps", type=int, default=200, metavar="N", help="measured; default: %(default)s")
    add(
        "--churn",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of the running requests, replaced in every step; default: %(default)s",
    )
    add("--tree-tokens", type=int, default=1_000_000, metavar="N", help="default: %(default)s")
    add("--prompt-tokens", type=int, default=32_768, metavar="N", help="default: %(default)s")
    add("--evict-tokens", type=int, default=100_000, metavar="N", help="default: %(default)s")
    add("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Measure every load, then the tree, and print a line for each."""
    shapes = _shapes(args)
    _require_sizes(args)
    if not args.json:
        print(
            f"{'':7} {'':>7} {'':>5} {'':>9} {'plan, ms':>15} {'host, ms':>15} {'add, ms':>8}"
            f" {'gc, ms':>7}\n"
            f"{'mode':7} {'running':>7} {'depth':>5} {'cached':>9} {'p50':>7} {'p99':>7}"
            f" {'p50':>7} {'p99':>7} {'p50':>8} {'longest':>7}"
        )
    with ProgressLine() as progress:
        for shape, churn in itertools.product(shapes, (None, args.churn)):
            progress.start(f"{shape.running} running, depth {shape.depth}")
            times = measure_steps(shape, args.steps, churn)
            progress.clear()
            print(json.dumps(asdict(times)) if args.json else _step_line(times), flush=True)
        progress.start("tree")
        tree = measure_tree(args.tree_tokens, args.prompt_tokens, args.evict_tokens, rounds=5)
        progress.clear()
    print(json.dumps({"mode": "tree", **asdict(tree)}) if args.json else _tree_lines(tree))
    return 0


def _shapes(args: argparse.Namespace) -> list[LoadShape]:
    """Each running at each depth; then the middle one of them with more cached tokens."""
    running = _integers("--running", args.running, least=1)
    depths = _integers("--depth", args.depth, least=1)
    first, *more = _integers("--cached", args.cached, least=0)
    middle = (running[len(running) // 2], depths[len(depths) // 2])
    loads = [(n, depth, first) for n in running for depth in depths]
    loads += [(*middle, cached) for cached in more]
    return [
        LoadShape(running=n, depth=depth, level_tokens=args.level_tokens, cached_tokens=cached)
        for n, depth, cached in loads
    ]


def _require_sizes(args: argparse.Namespace) -> None:
    for name in ("level_tokens", "steps", "tree_tokens", "prompt_tokens", "evict_tokens"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: must be at least 1")
    if not 0 < args.churn <= 1:
        raise ConfigError(f"--churn: must be more than 0 and at most 1, got {args.churn}")


def _integers(option: str, text: str, least: int) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} is not a list of integers, 64,256 say") from error
    if min(values) < least:
        raise ConfigError(f"{option}: must be at least {least}, got {min(values)}")
    return values


def _step_line(times: StepTimes) -> str:
    return (
        f"{times.mode:7} {times.running:7d} {times.depth:5d} {times.cached_tokens:9d}"
        f" {times.plan_ms_p50:7.2f} {times.plan_ms_p99:7.2f}"
        f" {times.host_ms_p50:7.2f} {times.host_ms_p99:7.2f} {times.add_ms_p50:8.2f}"
        f" {times.gc_ms_longest:7.2f}"
    )


def _tree_lines(times: TreeTimes) -> str:
    return (
        f"\na tree of {times.tree_tokens:,} tokens in {times.tree_segments:,} segments, medians\n"
        f"find a cached prompt of {times.prompt_tokens:,} tokens   {times.match_ms:8.2f} ms\n"
        f"insert a new one of as many            {times.insert_ms:8.2f} ms\n"
        f"evict {times.evicted_tokens:,} tokens                  {times.evict_ms:8.2f} ms"
    )

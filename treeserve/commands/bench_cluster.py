"""`treeserve bench cluster`: routers against each other, on Ray Serve or on paper."""

import argparse
from typing import Any

from treeserve.bench.cluster.table import render, render_decisions, render_paper
from treeserve.commands.bench_result import (
    add_result_options,
    check_result_options,
    read_result,
    show_result,
)
from treeserve.commands.options import add_engine_options, given_engine_options
from treeserve.commands.progress import ProgressLine
from treeserve.errors import ConfigError

_DESCRIPTION = """\
Calls that share prefixes against several replicas of the embedded model on a Ray of its own, on
this machine: how many prompt tokens are computed, how even the load is, how fast it goes. Behind
treeserve's router, Ray Serve's default, and Ray's own router by prefixes; and one replica alone,
which holds everything. Needs treeserve[ray].

With --simulate no model runs and Ray is not needed: the real router before engines on paper, with
as many replicas as you like. Lean engines take steps that are alike as one; with --engines
scheduler each is the real scheduler, many times slower. With --decisions the router alone is timed.

  treeserve bench cluster                                    two replicas, about five minutes
  treeserve bench cluster --simulate 64,256,1024             on paper; 1,024 take an hour or two
  treeserve bench cluster --decisions 1024                   10 million cached tokens, seconds
"""
_WORKLOADS = ("prompts", "contest", "agents")
_ROUTERS = ("treeserve", "two choices", "ray prefix")
_ENGINES = ("lean", "scheduler")
_NUM_DECISIONS = 5_000
_LINE_SECONDS = 30.0


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "cluster", help="routers of several replicas", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add("--replicas", type=int, default=2, metavar="N", help="default: %(default)s")
    add("--chains", type=int, default=48, metavar="N", help="of each workload; default: 48")
    add("--streams", type=int, default=16, metavar="N", help="open at once; default: %(default)s")
    add("--workload", action="append", choices=_WORKLOADS, help="may be repeated; default: all")
    add("--router", action="append", choices=_ROUTERS, help="may be repeated; default: all")
    add("--simulate", metavar="N,…", help="numbers of replicas, on paper; no model, no Ray")
    add(
        "--engines", choices=_ENGINES, default="lean",
        help="with --simulate; default: %(default)s",
    )  # fmt: skip
    add("--decisions", metavar="N,…", help="numbers of replicas: what a decision takes")
    add(
        "--cached-tokens", type=int, default=10_000_000, metavar="N",
        help="with --decisions; default: %(default)s",
    )  # fmt: skip
    add(
        "--seconds", type=float, default=30.0, metavar="SECONDS",
        help="of arrivals, with --simulate; default: %(default)g",
    )  # fmt: skip
    add_engine_options(parser)
    add_result_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure or simulate, and print a table."""
    check_result_options(args)
    for name in ("replicas", "chains", "streams", "cached-tokens"):
        value = getattr(args, name.replace("-", "_"))
        if value < 1:
            raise ConfigError(f"--{name}: must be at least 1, got {value}")
    if not 0 < args.seconds < float("inf"):
        raise ConfigError(f"--seconds: must be above 0, got {args.seconds:g}")
    if args.simulate is not None:
        if args.decisions is not None:
            raise ConfigError("--decisions: not with --simulate; choose one")
        return _simulate(args, _sizes("--simulate", args.simulate))
    if args.decisions is not None:
        return _decide(args, _sizes("--decisions", args.decisions))
    if args.source is not None:
        show_result(args, read_result(args.source, "cluster"), render)
        return 0
    show_result(args, _measure(args), render)
    return 0


def _simulate(args: argparse.Namespace, sizes: list[int]) -> int:
    from treeserve.bench.cluster.simulated import PaperOptions, simulate_clusters

    if args.source is not None:
        show_result(args, read_result(args.source, "cluster simulation"), render_paper)
        return 0
    routers = [name for name in args.router or _ROUTERS if name != "ray prefix"]
    with ProgressLine(line_seconds=_LINE_SECONDS) as progress:
        last = ""

        def tell(title: str, num_ended: int, now: float) -> None:
            nonlocal last
            if title != last:
                progress.start(title)
                last = title
            progress.tell(f"{num_ended} requests, {now:.1f} s of virtual time")

        options = PaperOptions(
            sizes=sizes,
            workloads=args.workload or _WORKLOADS,
            seconds=args.seconds,
            routers=routers,
            engines=args.engines,
        )
        result = simulate_clusters(options, tell)
    show_result(args, result, render_paper)
    return 0


def _decide(args: argparse.Namespace, sizes: list[int]) -> int:
    from treeserve.bench.cluster.decisions import measure_decisions

    if args.source is not None:
        show_result(args, read_result(args.source, "router decisions"), render_decisions)
        return 0
    with ProgressLine() as progress:
        measured = [
            measure_decisions(size, args.cached_tokens, _NUM_DECISIONS, progress.start)
            for size in sizes
        ]
    result = {"benchmark": "router decisions", "measured": measured}
    show_result(args, result, render_decisions)
    return 0


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    from treeserve.ray.installed import require_ray

    require_ray()
    from treeserve.bench.cluster.suite import ClusterOptions, measure_cluster

    options = ClusterOptions(
        num_replicas=args.replicas,
        num_chains=args.chains,
        num_streams=args.streams,
        workloads=tuple(args.workload or _WORKLOADS),
        routers=tuple(args.router or _ROUTERS),
        engine={"calibration": "off", **given_engine_options(args)},
    )
    with ProgressLine() as progress:
        return measure_cluster(options, progress.start)


def _sizes(option: str, text: str) -> list[int]:
    sizes = [part.strip() for part in text.split(",")]
    for part in sizes:
        if not part.isdigit() or int(part) < 1:
            raise ConfigError(f"{option}: must be numbers of at least 1, got {part!r}")
    return [int(part) for part in sizes]

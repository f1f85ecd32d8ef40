"""`treeserve bench`: measurements that anyone can rerun, both sides in one run."""

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from treeserve.commands import (
    bench_attention,
    bench_cluster,
    bench_contest,
    bench_decode,
    bench_metrics,
    bench_modules,
    bench_prefill,
    bench_scheduler,
    bench_serve,
    bench_simulate,
    bench_watching,
)
from treeserve.commands.options import (
    add_engine_options,
    given_engine_options,
    reject_together,
    require_at_least,
)
from treeserve.errors import TreeserveError
from treeserve.types import SamplingParams

if TYPE_CHECKING:
    from treeserve.llm import LLM

_DESCRIPTION = """\
Measure on this machine. Both sides run in turn, results are compared before times are printed, and
figures are medians.

  treeserve bench sharing                              sharing on against off, one shared prefix
  treeserve bench sharing --prefix 2048 --batch 64 --json
  treeserve bench attention                            one layer's attention, beside other kernels
  treeserve bench decode                               tokens per second against batch and prefix
  treeserve bench metrics                              what observing the engine costs
  treeserve bench modules                              prompt modules against full prefill
  treeserve bench prefill                              a prompt that shares nothing
  treeserve bench serve                                the service under load, and what it costs
  treeserve bench contest                              a contest's tree under one pool
  treeserve bench cluster                              routers of several replicas
  treeserve bench simulate                             scheduling policies on traces, no model
  treeserve bench scheduler                            the scheduler's own time for a step
"""
_SHARING_DESCRIPTION = """\
Decode with attention planned over the tree against ordinary attention over the same stored KV: a
batch of samples with one shared prefix. The prefix is computed beforehand and not timed.

  treeserve bench sharing --prefix 2048 --batch 64 --new-tokens 32
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "bench", help="measure on this machine", description=_DESCRIPTION
    )
    benches = parser.add_subparsers(
        title="benchmarks", metavar="BENCHMARK", required=True, parser_class=type(parser)
    )
    bench_attention.add_parser(benches)
    bench_cluster.add_parser(benches)
    bench_contest.add_parser(benches)
    bench_decode.add_parser(benches)
    bench_metrics.add_parser(benches)
    bench_modules.add_parser(benches)
    bench_prefill.add_parser(benches)
    bench_serve.add_parser(benches)
    bench_scheduler.add_parser(benches)
    bench_simulate.add_parser(benches)
    bench_watching.add_parser(benches)
    sharing = benches.add_parser(
        "sharing", help="sharing on against off", description=_SHARING_DESCRIPTION
    )
    sharing.set_defaults(run=run_sharing, prog=sharing.prog)
    add = sharing.add_argument
    add("--prefix", type=int, default=2048, metavar="TOKENS", help="default: %(default)s")
    add("--batch", type=int, default=32, metavar="SAMPLES", help="default: %(default)s")
    add("--new-tokens", type=int, default=32, metavar="TOKENS", help="default: %(default)s")
    add("--rounds", type=int, default=5, help="timed runs of each side; default: %(default)s")
    add("--json", action="store_true", help="one JSON object on stdout")
    add_engine_options(sharing)


@dataclass(frozen=True, slots=True)
class SharingResult:
    """Medians over the rounds."""

    prefix: int
    batch: int
    new_tokens: int
    rounds: int
    seconds_on: float
    seconds_off: float
    speedup: float
    """Median of the ratios round by round."""
    kv_tokens_read_on: int
    kv_tokens_read_off: int
    machine: str
    torch: str


def run_sharing(args: argparse.Namespace) -> int:
    """Time both sides in turn and print the medians."""
    reject_together(args, ["sharing"], "bench sharing", "it measures both sides")
    require_at_least(args, prefix=1, batch=1, new_tokens=1, rounds=1)
    result = measure_sharing(args)
    if args.json:
        print(json.dumps(asdict(result)))
        return 0
    tokens = result.batch * result.new_tokens
    print(f"{result.machine}, torch {result.torch}; {result.rounds} rounds, medians")
    print(f"prefix {result.prefix}, batch {result.batch}, {result.new_tokens} new tokens each")
    for side, seconds, read in (
        ("on", result.seconds_on, result.kv_tokens_read_on),
        ("off", result.seconds_off, result.kv_tokens_read_off),
    ):
        rate = tokens / seconds
        print(f"sharing {side:3}  {rate:9.0f} tokens/s  {read:13,d} KV tokens read per layer")
    print(f"speed-up     {result.speedup:9.2f}x")
    return 0


def measure_sharing(args: argparse.Namespace) -> SharingResult:
    """Run both sides, interleaved; raises TreeserveError if their samples differ."""
    import torch

    from treeserve.llm import LLM

    options = {"dtype": "float32", **given_engine_options(args)}
    sides = {mode: LLM(**{**options, "sharing": mode}) for mode in ("on", "off")}
    prefix = _prefix(sides["on"], args.prefix)
    # A sample of one token computes the prefix; the timed calls find it in the cache.
    for llm in sides.values():
        llm.generate([prefix], SamplingParams(max_tokens=1))
    params = SamplingParams(n=args.batch, max_tokens=args.new_tokens, seed=1, ignore_eos=True)
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    read = {}
    for round_number in range(args.rounds + 1):
        samples = {}
        for mode, llm in sides.items():
            before = llm.sharing().kv_tokens_read
            started = time.perf_counter()
            [generation] = llm.generate([prefix], params)
            elapsed = time.perf_counter() - started
            samples[mode] = [sample.token_ids for sample in generation.samples]
            read[mode] = llm.sharing().kv_tokens_read - before
            llm.engine.scheduler.check()
            if round_number > 0:
                seconds[mode].append(elapsed)
        if samples["on"] != samples["off"]:
            raise TreeserveError("sharing on and off drew different samples: no times are shown")
        print(f"round {round_number} of {args.rounds}", file=sys.stderr)
    ratios = [off / on for on, off in zip(seconds["on"], seconds["off"], strict=True)]
    return SharingResult(
        prefix=args.prefix,
        batch=args.batch,
        new_tokens=args.new_tokens,
        rounds=args.rounds,
        seconds_on=statistics.median(seconds["on"]),
        seconds_off=statistics.median(seconds["off"]),
        speedup=statistics.median(ratios),
        kv_tokens_read_on=read["on"],
        kv_tokens_read_off=read["off"],
        machine=f"{platform.machine()}, {torch.get_num_threads()} threads",
        torch=torch.__version__,
    )


def _prefix(llm: "LLM", length: int) -> list[int]:
    """Some text's tokens, over and over."""
    tokens = llm.prompter.tokenizer.encode("Read n numbers and print the sum of the even ones.\n")
    return (tokens * (length // len(tokens) + 1))[:length]

"""`treeserve bench metrics`: what observing the engine costs."""

import argparse
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from treeserve.commands.options import (
    add_engine_options,
    given_engine_options,
    require_at_least,
)
from treeserve.errors import ConfigError

if TYPE_CHECKING:
    from treeserve.bench.observing import ObservingCost

_DESCRIPTION = """\
What it costs to observe the engine: a batch decodes behind one shared prefix, and the metrics are
told of every other step. Both kinds of steps are timed; so are making the numbers (report) and
telling them (observe) by themselves, since steps differ by far more than that from one to the next.
observing is the share of a step that these two take, scraping that of one scrape every 5 seconds.
Figures are medians.

  treeserve bench metrics
  treeserve bench metrics --batch 1,32,128 --json
"""


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "metrics", help="what observing the engine costs", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add("--batch", default="1,16,64", metavar="N[,N]", help="samples; default: %(default)s")
    add("--prefix", type=int, default=512, metavar="TOKENS", help="default: %(default)s")
    add("--steps", type=int, default=200, metavar="N", help="of each side; default: %(default)s")
    add(
        "--cpu-time", action="store_true", help="of this process, for a machine that others use too"
    )
    add("--json", action="store_true", help="one JSON object a line")
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure each batch and print a line for it."""
    batches = _batches(args.batch)
    require_at_least(args, prefix=1, steps=1)
    from treeserve.bench.observing import measure_observing
    from treeserve.llm import LLM

    clock = time.process_time if args.cpu_time else time.perf_counter
    llm = LLM(**given_engine_options(args))
    token_ids = llm.prompter.tokenizer.encode("Read n numbers and print their sum.\n")
    prefix = (token_ids * (args.prefix // len(token_ids) + 1))[: args.prefix]
    if not args.json:
        print(
            "batch  unobserved   observed  difference     report    observe  observing"
            "     scrape  scraping"
        )
    for batch in batches:
        cost = measure_observing(llm, prefix, batch, args.steps, clock)
        print(json.dumps(_record(cost)) if args.json else _line(cost), flush=True)
    return 0


def _batches(given: str) -> list[int]:
    try:
        batches = [int(batch) for batch in given.split(",")]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise ConfigError(f"--batch: must be numbers from 1 on with commas, got {given!r}")
    return batches


def _record(cost: "ObservingCost") -> dict[str, float]:
    return asdict(cost) | {
        "observing_share": cost.observing_share,
        "difference_share": cost.difference_share,
        "scraping_share": cost.scraping_share,
    }


def _line(cost: "ObservingCost") -> str:
    return (
        f"{cost.batch:5d} {_ms(cost.unobserved_step_seconds)} {_ms(cost.observed_step_seconds)}"
        f" {cost.difference_share:+11.2%} {_us(cost.report_seconds)} {_us(cost.observe_seconds)}"
        f" {cost.observing_share:10.2%} {_ms(cost.scrape_seconds)} {cost.scraping_share:9.3%}"
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:8.3f} ms"[-11:]


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:7.1f} us"

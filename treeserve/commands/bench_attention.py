"""`treeserve bench attention`: values against the reference, then times, shared plan and plain."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from treeserve.config import SchedulerConfig
from treeserve.errors import ConfigError, TreeserveError
from treeserve.scheduler.request import ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import Plan, Step

if TYPE_CHECKING:
    import torch

    from treeserve.attention.backend import AttentionBackend
    from treeserve.batch import Batch

_DESCRIPTION = """\
One layer's decode attention over a tree: a batch of samples, one under each leaf. The values of
both plans are compared with the reference first; a tree that fails shows no times.

  treeserve bench attention                                      every tree, on cuda
  treeserve bench attention --backend torch --device cpu --tree '1,64 | 512,32'

A tree is its nodes per level | its tokens per level (the first ten are FastTree's, MLSys 2025).
"""
TREES = (
    "1,2,64 | 8,256,32",
    "1,4,256 | 8,256,32",
    "1,4,8,256 | 8,256,256,32",
    "1,256 | 256,32",
    "1,1024 | 2048,32",
    "1,16,64 | 1024,256,32",
    "1,4,16,512 | 1024,256,128,32",
    "1,4,16,64,256,1024 | 256,8,256,64,32,256",
    "1,10 | 4000,400",
    "1,2,4,8,16,32,64,128,256,512 | 16,16,16,16,16,16,16,16,16,16",
    "1,1,1,1 | 1024,256,1024,32",
    "1,1024 | 4096,1",
    "256 | 512",
    "1 | 4096",
)
VALUE_TOLERANCES = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
FLUSH_BYTES = 256 << 20


def add_parser(benches: "argparse._SubParsersAction[Any]") -> None:
    """Declare the benchmark."""
    parser = benches.add_parser(
        "attention", help="one layer's attention over a tree", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add("--tree", action="append", metavar="TREE", help="may be repeated; default: 14 trees")
    add("--heads", default="32/8", metavar="QUERY/KV", help="default: %(default)s")
    add("--head-dim", type=int, default=128, help="default: %(default)s")
    add("--dtype", default="bfloat16", choices=sorted(VALUE_TOLERANCES), help="default: bfloat16")
    add("--backend", default="triton", choices=("torch", "triton"), help="default: %(default)s")
    add("--device", default="cuda", help="default: %(default)s")
    add("--rounds", type=int, default=20, help="timed runs of each plan; default: %(default)s")
    add("--json", action="store_true", help="one JSON object a tree")


@dataclass(frozen=True, slots=True)
class TreeResult:
    """Times are medians over the rounds, the caches flushed before each."""

    tree: str
    samples: int
    work_items: int
    max_error: float
    """Largest difference from the reference, over both plans."""
    shared_microseconds: float
    plain_microseconds: float
    speedup: float


@dataclass(frozen=True, slots=True)
class _Problem:
    """One layer's inputs."""

    query: "torch.Tensor"
    key: "torch.Tensor"
    value: "torch.Tensor"
    scaling: float

    def attend(self, backend: "AttentionBackend", batch: "Batch") -> "torch.Tensor":
        return backend.attend(self.query, self.key, self.value, 0, batch, scaling=self.scaling)


def run(args: argparse.Namespace) -> int:
    """Measure every tree and print a line for each; 1 if a value check failed."""
    from treeserve.model import resolve_device

    device = resolve_device(args.device)
    if (args.backend == "triton") != (device.type == "cuda"):
        raise ConfigError(f"--backend: {args.backend} does not run on {device}")
    if not args.json:
        print(f"{'tree':58} {'samples':>7} {'items':>6} {'error':>8} {'shared':>9} {'plain':>9}")
    failed = False
    for tree in args.tree or TREES:
        try:
            result = measure_tree(tree, args, device)
        except ValueCheckFailed as error:
            failed = True
            print(error)
            continue
        print(json.dumps(asdict(result)) if args.json else _line(result))
    return int(failed)


class ValueCheckFailed(TreeserveError):
    """A plan's values differ from the reference."""


def measure_tree(tree: str, args: argparse.Namespace, device: "torch.device") -> TreeResult:
    """Check the values of both plans against the reference, then time them in turn."""
    import torch

    from treeserve.attention.backend import make_backend
    from treeserve.batch import make_batch
    from treeserve.kv_cache import KVCache

    steps = {mode: decode_step(tree, mode) for mode in ("on", "off")}
    num_slots = max(_last_slot(step.plan) for step in steps.values()) + 1
    num_heads, num_kv_heads = _parse_heads(args.heads)
    dtype = getattr(torch, args.dtype)
    cache = KVCache([(num_kv_heads, args.head_dim)], num_slots, dtype, device)
    generator = torch.Generator(device).manual_seed(0)
    for stored in cache.layer(0):
        stored.normal_(generator=generator)
    num_rows = steps["on"].num_rows

    def random(heads: int) -> torch.Tensor:
        shape = (num_rows, heads, args.head_dim)
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

    inputs = (random(num_heads), random(num_kv_heads), random(num_kv_heads))
    problem = _Problem(*inputs, scaling=args.head_dim**-0.5)
    backend = make_backend(args.backend, cache, num_heads // num_kv_heads)
    reference = make_backend("reference", cache)
    batches = {mode: make_batch(step, device, backend) for mode, step in steps.items()}
    truth = problem.attend(reference, make_batch(steps["off"], device, reference))
    errors = [
        float((problem.attend(backend, batch).float() - truth.float()).abs().max())
        for batch in batches.values()
    ]
    if not max(errors) <= VALUE_TOLERANCES[args.dtype]:
        raise ValueCheckFailed(f"{tree}: values differ from the reference by {max(errors):.2e}")
    runs = {mode: _runner(problem, backend, batch) for mode, batch in batches.items()}
    shared, plain = _time_in_turn([runs["on"], runs["off"]], args.rounds, device)
    return TreeResult(
        tree=tree,
        samples=num_rows,
        work_items=steps["on"].plan.num_items,
        max_error=max(errors),
        shared_microseconds=statistics.median(shared) * 1e6,
        plain_microseconds=statistics.median(plain) * 1e6,
        speedup=statistics.median(p / s for s, p in zip(shared, plain, strict=True)),
    )


def decode_step(tree: str, sharing: Any) -> Step:
    """The step in which a sample under every leaf of the tree decodes, as it is scheduled."""
    prompts = _leaf_prompts(*parse_tree(tree))
    num_tokens = sum(len(prompt) for prompt in prompts) + 64 * len(prompts)
    config = SchedulerConfig(
        num_pages=num_tokens // 16 + 1,
        token_budget=1 << 30,
        max_running=len(prompts),
        kept_logits=len(prompts),
        sharing=sharing,
    )
    scheduler = Scheduler(config)
    for index, prompt in enumerate(prompts):
        scheduler.add(ScheduledRequest(str(index), prompt, num_samples=1, max_tokens=4))
    step = scheduler.schedule()
    while step is not None and step.num_prompt_rows:
        scheduler.complete(step, [0] * len(step.draws))
        step = scheduler.schedule()
    assert step is not None
    return step


def parse_tree(tree: str) -> tuple[list[int], list[int]]:
    """(nodes per level, tokens per level).

    Raises:
        ConfigError: It is not of that form.
    """
    try:
        nodes, tokens = ([int(x) for x in part.split(",")] for part in tree.split("|"))
    except ValueError as error:
        raise ConfigError(f"--tree: {tree!r} is not 'nodes,… | tokens,…'") from error
    if len(nodes) != len(tokens) or min(nodes + tokens) < 1 or nodes != sorted(nodes):
        raise ConfigError(f"--tree: {tree!r} needs as many levels on both sides, widening downward")
    return nodes, tokens


def _leaf_prompts(nodes: Sequence[int], tokens: Sequence[int]) -> list[np.ndarray[Any, Any]]:
    """Token ids of every leaf's path; a node's first token tells it from its siblings."""
    prompts = []
    for leaf in range(nodes[-1]):
        parts = []
        for count, length in zip(nodes, tokens, strict=True):
            part = np.ones(length, dtype=np.int32)
            part[0] = 2 + leaf * count // nodes[-1]
            parts.append(part)
        prompts.append(np.concatenate(parts))
    return prompts


def _parse_heads(heads: str) -> tuple[int, int]:
    try:
        num_heads, num_kv_heads = (int(part) for part in heads.split("/"))
    except ValueError as error:
        raise ConfigError(f"--heads: {heads!r} is not QUERY/KV, 32/8 say") from error
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        raise ConfigError(f"--heads: {heads!r}: KV heads must divide query heads")
    return num_heads, num_kv_heads


def _last_slot(plan: Plan) -> int:
    """That any item reads."""
    spans = zip(plan.item_slot_starts.tolist(), plan.item_slot_ends.tolist(), strict=True)
    return max(int(plan.item_slots[start:end].max()) for start, end in spans)


def _runner(
    problem: _Problem, backend: "AttentionBackend", batch: "Batch"
) -> Callable[[], "torch.Tensor"]:
    return lambda: problem.attend(backend, batch)


def _time_in_turn(
    functions: Sequence[Callable[[], Any]], rounds: int, device: "torch.device"
) -> list[list[float]]:
    """Seconds of each call, the functions in turn, the last-level cache flushed before each."""
    import torch

    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    seconds: list[list[float]] = [[] for _ in functions]
    for round_number in range(rounds + 2):
        for index, function in enumerate(functions):
            flush.zero_()
            elapsed = _time_once(function, device)
            if round_number >= 2:
                seconds[index].append(elapsed)
    return seconds


def _time_once(function: Callable[[], Any], device: "torch.device") -> float:
    import torch

    if device.type == "cpu":
        started = time.perf_counter()
        function()
        return time.perf_counter() - started
    start, end = (torch.Event(device, enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1e3


def _line(result: TreeResult) -> str:
    return (
        f"{result.tree:58} {result.samples:7d} {result.work_items:6d} {result.max_error:8.1e}"
        f" {result.shared_microseconds:7.0f}us {result.plain_microseconds:7.0f}us"
        f" {result.speedup:6.2f}x"
    )

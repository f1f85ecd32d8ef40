"""The value checks: every dtype, head size, group ratio and option, against float64."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from treeserve.attention.backend import make_backend
from treeserve.batch import make_batch
from treeserve.bench.attention.problem import (
    TOLERANCES,
    Options,
    Problem,
    Shape,
    make_problem,
    relative_error,
)
from treeserve.bench.attention.records import ValueResult, ValuesResult
from treeserve.bench.attention.sides import first_line
from treeserve.bench.attention.trees import decode_step
from treeserve.bench.deadline import Deadline
from treeserve.config import SharingMode

DTYPES = tuple(TOLERANCES)
HEAD_DIMS = (64, 80, 96, 128, 256)
GROUPS = (16, 1, 4, 8, 2, 7, 3, 5)
OPTIONS = ("window, softcap and sinks", "plain", "window", "softcap", "sinks")
_TREE = "1,2,6 | 40,70,5"
_NUM_KV_HEADS = 2
_WINDOW = 33
_SOFTCAP = 4.0
_PLANS: tuple[SharingMode, ...] = ("always", "off")


@dataclass(frozen=True, slots=True)
class ValueCase:
    """One kind of attention, checked over a small tree with both plans."""

    dtype: str
    head_dim: int
    group: int
    option: str

    def __str__(self) -> str:
        return f"{self.dtype}, head dim {self.head_dim}, group {self.group}, {self.option}"


def dtypes_of(backend: str) -> Sequence[str]:
    """Those that a backend serves."""
    return ("bfloat16",) if backend == "cpu" else DTYPES


def value_cases(dtypes: Sequence[str] = DTYPES) -> list[ValueCase]:
    """All of them, in rounds: each round has every dtype and head size once, so that even the first
    few rounds, where time allows no more, meet every group and option."""
    others = list(itertools.product(GROUPS, OPTIONS))
    # With no factor in common, it meets every entry of both lists soon.
    stride = len(OPTIONS) + 2
    cases = []
    for turn in range(len(others)):
        for i, (dtype, head_dim) in enumerate(itertools.product(dtypes, HEAD_DIMS)):
            group, option = others[(turn + i) * stride % len(others)]
            cases.append(ValueCase(dtype, head_dim, group, option))
    return _distinct(cases, len(dtypes) * len(HEAD_DIMS) * len(others))


def check_values(
    backend: str,
    device: torch.device,
    cases: Sequence[ValueCase],
    deadline: Deadline,
    report: Callable[[str], None],
) -> ValuesResult:
    """Check one case after the other, and at least one of each dtype and head size.

    Args:
        backend: That is checked.
        device: Where.
        cases: In order.
        deadline: When it has passed, the rest is left out.
        report: Is told how far it has come.
    """
    fewest = len({(case.dtype, case.head_dim) for case in cases})
    failed: list[ValueResult] = []
    for number, case in enumerate(cases):
        if number >= fewest and deadline.left() <= 0:
            left_out = tuple(str(case) for case in cases[number:])
            return ValuesResult(num_checked=number, failed=tuple(failed), left_out=left_out)
        report(f"values: {number + 1} of {len(cases)}, {case}")
        failed += [result for result in _check(backend, device, case) if not result.passed]
    return ValuesResult(num_checked=len(cases), failed=tuple(failed), left_out=())


@torch.inference_mode()
def _check(backend: str, device: torch.device, case: ValueCase) -> Iterator[ValueResult]:
    shape = Shape(_NUM_KV_HEADS * case.group, _NUM_KV_HEADS, case.head_dim, case.dtype)
    for sharing in _PLANS:
        name = f"{case}, {'shared' if sharing == 'always' else 'plain'} plan"
        try:
            error = _error(backend, device, shape, case.option, sharing)
        except Exception as problem:
            # A kernel that does not compile for one shape says nothing of the others.
            yield ValueResult(case=name, passed=False, error=None, reason=first_line(problem))
            continue
        passed = error <= TOLERANCES[case.dtype]
        known = error if math.isfinite(error) else None
        yield ValueResult(case=name, passed=passed, error=known)


def _error(
    backend: str, device: torch.device, shape: Shape, option: str, sharing: SharingMode
) -> float:
    step = decode_step(_TREE, sharing)
    problem = make_problem(step, shape, device)
    options = _options(option, shape, device)
    own = problem.read_by(backend)
    ours = make_backend(backend, own.cache, shape.group)
    actual = own.attend(ours, make_batch(step, device, ours), options)
    return relative_error(actual, _truth(problem.in_float64(), device, options))


def _truth(problem: Problem, device: torch.device, options: Options) -> torch.Tensor:
    """From the plain plan, so that a shared plan that leaves tokens out is found too."""
    reference = make_backend("reference", problem.cache)
    batch = make_batch(decode_step(_TREE, "off"), device, reference)
    return problem.attend(reference, batch, options)


def _options(option: str, shape: Shape, device: torch.device) -> Options:
    everything = option == OPTIONS[0]
    sinks = torch.linspace(-1, 3, shape.num_heads, device=device).to(shape.torch_dtype)
    return Options(
        window=_WINDOW if everything or option == "window" else None,
        softcap=_SOFTCAP if everything or option == "softcap" else None,
        sinks=sinks if everything or option == "sinks" else None,
    )


def _distinct(cases: Sequence[ValueCase], number: int) -> list[ValueCase]:
    found = list(dict.fromkeys(cases))
    assert len(found) == number
    return found

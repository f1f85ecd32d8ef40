"""Which kinds of attention are checked, and in which order."""

import itertools

import torch

from treeserve.attention.torch_cpu import TorchBackend
from treeserve.bench.attention.values import (
    DTYPES,
    GROUPS,
    HEAD_DIMS,
    OPTIONS,
    ValueCase,
    check_values,
    value_cases,
)
from treeserve.bench.deadline import Deadline

CPU = torch.device("cpu")


def silent(_line: str) -> None: ...


def test_every_kind_is_there_once():
    cases = value_cases()
    product = itertools.product(DTYPES, HEAD_DIMS, GROUPS, OPTIONS)
    assert set(cases) == {ValueCase(*kind) for kind in product}
    assert len(cases) == len(set(cases))


def test_the_first_few_rounds_meet_every_dtype_and_size_with_groups_and_options():
    first = value_cases()[: 3 * len(DTYPES) * len(HEAD_DIMS)]
    assert {case.group for case in first} == set(GROUPS)
    assert {(case.dtype, case.head_dim) for case in first} == set(
        itertools.product(DTYPES, HEAD_DIMS)
    )
    assert {(case.dtype, case.option) for case in first} == set(itertools.product(DTYPES, OPTIONS))


def test_the_torch_backend_passes_and_a_time_limit_leaves_the_rest_out():
    cases = value_cases()
    result = check_values("torch", CPU, cases, Deadline(0), silent)
    assert result.num_checked == len(DTYPES) * len(HEAD_DIMS)
    assert not result.failed
    assert len(result.left_out) == len(cases) - result.num_checked


def test_a_kind_whose_values_are_wrong_is_named(monkeypatch):
    attend = TorchBackend.attend

    def without_sinks(self, *arguments, sinks=None, **options):
        return attend(self, *arguments, **options)

    monkeypatch.setattr(TorchBackend, "attend", without_sinks)
    cases = [ValueCase("float32", 64, 4, option) for option in ("plain", "sinks")]
    result = check_values("torch", CPU, cases, Deadline(None), silent)
    assert [failure.case for failure in result.failed] == [
        "float32, head dim 64, group 4, sinks, shared plan",
        "float32, head dim 64, group 4, sinks, plain plan",
    ]


def test_a_kind_that_breaks_off_is_a_failure_with_its_reason(monkeypatch):
    def broken(*_arguments, **_options):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(TorchBackend, "attend", broken)
    cases = [ValueCase("float32", 64, 4, "plain")]
    [first, _] = check_values("torch", CPU, cases, Deadline(None), silent).failed
    assert first.reason == "RuntimeError: no such kernel"


def test_the_kernels_are_checked_the_same_way_under_the_interpreter():
    cases = [ValueCase("float16", 64, 4, OPTIONS[0]), ValueCase("float32", 80, 1, "sinks")]
    result = check_values("triton", CPU, cases, Deadline(None), silent)
    assert result.num_checked == 2
    assert not result.failed

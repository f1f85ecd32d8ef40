"""The floor and the bound, by hand."""

import pytest
import torch

from treeserve.bench.attention.floor import least_work
from treeserve.bench.attention.paths import tree_paths
from treeserve.bench.attention.problem import Shape
from treeserve.bench.attention.trees import decode_step
from treeserve.bench.rates import Rates, measure_rates
from treeserve.bench.timing import Stopwatch


def work_of(tree: str, shape: Shape):
    return least_work(tree_paths(decode_step(tree, "off")), shape)


def test_every_distinct_token_counts_once_and_queries_and_outputs_too():
    # Each row has the token that it is beside its path: 100 + 3 * (20 + 1) tokens.
    work = work_of("1,3 | 100,20", Shape(8, 2, 64, "bfloat16"))
    assert work.distinct_tokens == 163
    assert work.flat_tokens == 3 * 121
    kv_bytes = 163 * 2 * 2 * 64 * 2
    row_bytes = 3 * 2 * 8 * 64 * 2
    assert work.num_bytes == kv_bytes + row_bytes
    assert work.operations == 4 * 3 * 121 * 8 * 64


def test_the_bound_is_that_of_one_prefix_under_a_batch():
    prefix, batch, own = 100, 3, 21
    work = work_of("1,3 | 100,20", Shape(8, 2, 64, "bfloat16"))
    assert work.bound == pytest.approx((prefix + own) / (prefix / batch + own))


def test_the_floor_is_the_larger_of_bytes_and_operations():
    work = work_of("1,3 | 100,20", Shape(8, 2, 64, "bfloat16"))
    slow_memory = work.floor(Rates(bytes_per_second=work.num_bytes, operations_per_second=1e30))
    assert (slow_memory.seconds, slow_memory.limited_by) == (1.0, "bytes")
    slow_units = work.floor(Rates(bytes_per_second=1e30, operations_per_second=work.operations / 2))
    assert (slow_units.seconds, slow_units.limited_by) == (2.0, "operations")


def test_rates_are_measured_on_the_device():
    cpu = torch.device("cpu")
    rates = measure_rates(Stopwatch(cpu), torch.float32, cpu)
    assert 1e7 < rates.bytes_per_second < 1e13
    assert 1e7 < rates.operations_per_second < 1e14

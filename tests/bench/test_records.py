"""Flags and means, by hand."""

import pytest

from treeserve.bench.attention.records import CaseResult, SideResult
from treeserve.bench.attention.summary import summarize
from treeserve.bench.decode.records import DecodeCase, SideRate
from treeserve.bench.decode.records import summarize as summarize_decode


def timed(seconds: float) -> SideResult:
    return SideResult(status="timed", eager_seconds=9.0, graph_seconds=seconds)


def case(tree: str = "1,256 | 256,32", *, never_a_loss: str = "", **seconds: float) -> CaseResult:
    return CaseResult(
        tree=tree,
        heads="32/8",
        head_dim=128,
        dtype="bfloat16",
        rows=4,
        distinct_tokens=10,
        flat_tokens=40,
        bound=4.0,
        floor_seconds=1.0,
        floor_limited_by="bytes",
        work_items=5,
        shared_items=1,
        plan_seconds=0.1,
        carried_plan_seconds=0.1,
        never_a_loss=never_a_loss,
        sides={name: timed(value) for name, value in seconds.items()},
    )


def test_a_case_within_its_bound_has_no_flags():
    assert case(shared=2.0, plain=7.9, sdpa=8.0).flags == []


def test_a_ratio_above_the_bound_is_flagged():
    [flag] = case(shared=2.0, plain=3.0, sdpa=8.1).flags
    assert flag.startswith("above the bound: sdpa takes 4.05x")


def test_a_loss_of_more_than_three_percent_is_flagged():
    assert case(shared=2.0, plain=1.95).flags == []
    [flag] = case(shared=2.0, plain=1.9).flags
    assert flag.startswith("loss: sharing takes 1.05x")


def test_a_time_below_the_floor_is_flagged():
    [flag] = case(shared=0.5, plain=0.6).flags
    assert flag.startswith("below the floor")


def test_means_are_geometric_and_over_what_was_timed():
    cases = [
        case(shared=2.0, plain=4.0, sdpa=2.0),
        case(shared=8.0, plain=8.0),
        case("1 | 4096", shared=1.0, plain=1.0),
    ]
    summary = summarize(cases)
    assert summary["matrix"]["share_of_floor"]["geometric_mean"] == pytest.approx(0.25)
    assert summary["matrix"]["ratios"]["plain"]["geometric_mean"] == pytest.approx(2**0.5)
    assert summary["matrix"]["ratios"]["sdpa"]["num_cases"] == 1
    assert summary["all"]["share_of_floor"]["num_cases"] == 3
    assert "flex" not in summary["all"]["ratios"]


def test_the_worst_loss_is_of_the_cases_that_must_not_lose():
    cases = [
        case(shared=9.0, plain=1.0),
        case("1 | 4096", never_a_loss="batch 1", shared=1.0, plain=1.0),
        case("256 | 512", never_a_loss="nothing shared", shared=1.02, plain=1.0),
    ]
    loss = summarize(cases)["never_a_loss"]
    assert (loss["tree"], loss["num_cases"]) == ("256 | 512", 2)
    assert loss["worst_times_as_long"] == pytest.approx(1.02)


def decode_case(prefix: int, on: float, off: float, ceiling: float) -> DecodeCase:
    def rate(tokens: float) -> SideRate:
        return SideRate(
            tokens_per_second=tokens, step_seconds=1 / tokens, windows=3, kv_tokens_read=1
        )

    sides = {"on": rate(on), "off": rate(off), "ceiling": rate(ceiling)}
    return DecodeCase(batch=4, prefix=prefix, status="timed", own_tokens=20, sides=sides)


def test_throughput_changes_from_the_shortest_to_the_longest_prefix():
    cases = [decode_case(400, 90, 50, 100), decode_case(100, 100, 80, 100)]
    skipped = DecodeCase(batch=4, prefix=800, status="skipped", reason="does not fit")
    summary = summarize_decode([case.to_json() for case in [*cases, skipped]])
    [change] = summary["throughput_change"]
    assert (change["from_prefix"], change["to_prefix"]) == (100, 400)
    assert change["on"] == pytest.approx(-0.1)
    assert change["off"] == pytest.approx(-0.375)
    assert summary["least_share_of_ceiling"] == pytest.approx(0.9)


def test_decode_above_its_bound_or_its_ceiling_is_flagged():
    case = decode_case(100, 300, 100, 200)
    assert case.bound == pytest.approx(120 / 45)
    assert [flag.split(":")[0] for flag in case.flags] == ["above the bound", "above the ceiling"]

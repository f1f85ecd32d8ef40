"""Rounds, their order, and the time limit, with a clock that the test moves."""

import torch

from treeserve.bench.deadline import Allowance, Deadline
from treeserve.bench.timing import FEWEST_ROUNDS, Run, Stopwatch


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_left_is_shared_out_evenly():
    clock = Clock()
    deadline = Deadline(60, clock)
    assert deadline.share(3) == 20
    clock.now = 30
    assert (deadline.left(), deadline.share(3)) == (30, 10)
    assert deadline.part(0.5).left() == 15
    clock.now = 90
    assert (deadline.left(), deadline.share(3)) == (-30, 0)
    assert deadline.part(0.5).left() == 0


def test_without_a_limit_there_is_always_time():
    assert Deadline(None).share(3) == Deadline(None).part(0.1).left() == float("inf")


def test_sides_run_in_turn_to_and_fro():
    calls: list[str] = []
    runs = {name: Run(lambda name=name: calls.append(name), "eager") for name in "abc"}
    seconds = Stopwatch(torch.device("cpu")).time_in_turn(runs, 2, Deadline(None))
    assert "".join(calls) == "aabbcc" + "abc" + "cba"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_no_round_begins_after_the_deadline_but_the_fewest():
    clock = Clock()
    deadline = Deadline(10, clock)

    def call() -> None:
        clock.now += 1

    stopwatch = Stopwatch(torch.device("cpu"))
    slow = stopwatch.time_in_turn({"a": Run(call, "eager")}, 50, deadline)
    assert len(slow["a"]) == 8  # two warm-ups, then as many as end within ten seconds
    assert len(stopwatch.time_in_turn({"a": Run(call, "eager")}, 50, deadline)["a"]) == (
        FEWEST_ROUNDS
    )


def test_what_has_used_up_its_allowance_gets_no_more_and_the_others_do():
    allowance = Allowance(10)
    allowance.spend("flex", 9)
    assert not allowance.is_used_up("flex")
    allowance.spend("flex", 30)
    assert allowance.is_used_up("flex")
    assert allowance.spent("flex") == 39
    assert not allowance.is_used_up("sdpa")
    assert not Allowance(None).is_used_up("flex")

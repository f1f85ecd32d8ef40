"""The waiting queue admits in the order that its policy promises."""

import pytest
from queue_house import QueueHouse, run_of

from treeserve.scheduler.queue.policy import QueueTuning


def test_fcfs_admits_by_arrival_whatever_is_cached():
    house = QueueHouse("fcfs")
    house.cache(run_of(1, 40))
    late = house.push(run_of(1, 40), at=2.0)
    early = house.push(run_of(2, 400), at=1.0)
    assert house.order(now=3.0) == [early, late]


def test_fcfs_lets_nobody_past_a_request_that_does_not_fit():
    house = QueueHouse("fcfs")
    house.push(run_of(1, 4), at=0.0)
    house.push(run_of(2, 4), at=1.0)
    assert [r.request_id for r in house.queue.candidates(2.0)] == ["r0"]


def test_strict_priority_comes_before_arrival():
    house = QueueHouse("priority")
    low = house.push(run_of(1, 4), at=0.0, priority=-1)
    first = house.push(run_of(2, 4), at=1.0, priority=3)
    second = house.push(run_of(3, 4), at=2.0, priority=3)
    house.check()
    assert house.order(now=1e6) == [first, second, low]


def test_longest_prefix_takes_the_longest_match_first():
    house = QueueHouse("longest-prefix")
    house.cache(run_of(1, 40))
    nothing = house.push(run_of(2, 4), at=0.0)
    short = house.push(run_of(1, 10), at=1.0)
    long = house.push(run_of(1, 30) + run_of(5, 100), at=2.0)
    house.check()
    assert house.order(now=3.0) == [long, short, nothing]


def test_siblings_come_together_as_soon_as_one_of_them_brings_the_trunk():
    """They arrive in turns; the trunk is not even computed when the second one is chosen."""
    house = QueueHouse("tree")
    for turn in range(4):
        for trunk in range(3):
            tokens = run_of(trunk + 1, 900) + run_of(10 + turn, 5)
            house.push(tokens, at=0.001 * turn, request_id=f"{trunk}.{turn}")
    house.check()
    order = house.order(now=1.0)
    house.check()
    trunks = [request_id.split(".")[0] for request_id in order]
    assert trunks == ["0"] * 4 + ["1"] * 4 + ["2"] * 4


def test_a_wait_wins_over_what_is_cached():
    house = QueueHouse("tree", tuning=QueueTuning(output_share_tokens=100, work_exponent=1.0))
    house.cache(run_of(1, 900))
    old = house.push(run_of(2, 900), at=0.0)
    cached = house.push(run_of(1, 900), at=11.0)
    assert next(house.queue.candidates(12.0)).request_id == old
    assert next(house.queue.candidates(11.5)).request_id == old
    assert next(house.queue.candidates(13.0)).request_id == cached, "ten times less to do"


def test_what_many_wait_for_goes_first():
    """Two long trunks; the second one came later and would serve three."""
    house = QueueHouse("tree")
    alone = house.push([*run_of(1, 900), 1], at=0.0)
    many = [house.push([*run_of(2, 900), own], at=0.1) for own in range(3)]
    house.check()
    assert house.order(now=1.0) == [*many, alone]


def test_a_trunk_is_shared_by_those_who_still_wait_for_it():
    house = QueueHouse("tree")
    alone = house.push([*run_of(1, 900), 1], at=0.0)
    left = house.push([*run_of(2, 900), 1], at=0.1)
    for own in range(2, 6):
        house.queue.remove(house.push([*run_of(2, 900), own], at=0.2))
    house.check()
    assert house.order(now=1.0) == [alone, left]


def test_of_requests_that_came_together_the_one_with_fewest_samples_goes_first():
    house = QueueHouse("tree")
    wide = house.push(run_of(1, 40), num_samples=32)
    narrow = house.push(run_of(2, 40), num_samples=2)
    assert house.order(now=1.0) == [narrow, wide]


def test_of_equal_work_what_widens_a_segment_in_use_goes_first():
    house = QueueHouse("tree")
    house.cache(run_of(1, 40))
    house.cache(run_of(2, 40))
    running = house.push([*run_of(2, 40), 7])
    assert house.next() == running
    unused = house.push([*run_of(1, 40), 8], at=0.0)
    used = house.push([*run_of(2, 40), 8], at=0.01)
    assert [r.request_id for r in house.queue.candidates(0.02)] == [used, unused]
    house.end(running)
    assert [r.request_id for r in house.queue.candidates(0.02)] == [unused, used]
    house.check()


def test_those_who_wait_for_a_segment_that_comes_into_use_are_favoured_from_then_on():
    house = QueueHouse("tree")
    house.cache(run_of(1, 40))
    house.cache(run_of(2, 40))
    unused = house.push([*run_of(1, 40), 8], at=0.0)
    house.push([*run_of(2, 40), 7], at=0.005, request_id="bringer", priority=8)
    used = house.push([*run_of(2, 40), 8], at=0.01)
    assert house.order(now=0.03) == ["bringer", used, unused]
    house.check()


@pytest.mark.parametrize("policy", ["tree", "fcfs"])
def test_a_unit_of_priority_is_worth_some_seconds_and_no_more(policy):
    house = QueueHouse(policy, tuning=QueueTuning(priority_seconds=10.0))
    old = house.push(run_of(1, 4), at=0.0)
    urgent = house.push(run_of(2, 4), at=9.0, priority=1)
    late = house.push(run_of(3, 4), at=11.0, priority=1)
    assert house.order(now=20.0) == [urgent, old, late]


def test_priority_counts_up_to_a_limit():
    """Otherwise one request with priority 2**31 would be a flood of its own."""
    house = QueueHouse("fcfs", tuning=QueueTuning(priority_seconds=10.0, max_priority=2))
    old = house.push(run_of(1, 4), at=0.0)
    late = house.push(run_of(3, 4), at=30.0, priority=2**31)
    assert house.order(now=40.0) == [old, late]


@pytest.mark.parametrize("policy", ["tree", "fcfs", "priority", "longest-prefix"])
def test_of_equals_the_sooner_deadline_goes_first(policy):
    house = QueueHouse(policy)
    none = house.push(run_of(1, 4))
    later = house.push(run_of(2, 4), deadline=9.0)
    sooner = house.push(run_of(3, 4), deadline=5.0)
    house.check()
    assert house.order(now=1.0) == [sooner, later, none]


@pytest.mark.parametrize("policy", ["tree", "fcfs", "priority", "longest-prefix"])
def test_a_request_moves_ahead_when_its_deadline_leaves_just_enough_time(policy):
    house = QueueHouse(policy, tuning=QueueTuning(deadline_margin_seconds=1.0))
    house.queue.pace = 0.1
    waits = house.push(run_of(1, 10), at=0.0)
    due = house.push(run_of(2, 20), at=1.0, deadline=20.0, num_output_tokens=30)

    def first(now):
        return next(house.queue.candidates(now)).request_id

    assert first(13.9) == waits, "50 tokens take 5 s: it is time from 14 s on"
    assert first(14.0) == due
    assert first(15.0) == due
    assert first(15.1) == waits, "it is too late, and nobody is held up for it"


def test_a_deadline_does_not_beat_strict_priority():
    house = QueueHouse("priority")
    house.queue.pace = 0.1
    above = house.push(run_of(1, 10), priority=1)
    due = house.push(run_of(2, 20), deadline=6.0, num_output_tokens=30)
    assert house.order(now=0.5) == [above, due]


def test_others_are_tried_after_one_that_does_not_fit():
    house = QueueHouse("tree", num_pages=16, tuning=QueueTuning(backfill=3))
    house.push(run_of(1, 100), at=0.0)
    small = [house.push(run_of(i, 4), at=50.0) for i in range(2, 8)]
    assert house.order(now=51.0) == small
    house.check()
    assert "r0" in house.queue


def test_a_pass_tries_a_few_and_not_the_whole_queue():
    house = QueueHouse("tree", tuning=QueueTuning(backfill=3))
    for i in range(20):
        house.push(run_of(i, 4))
    assert len(list(house.queue.candidates(1.0))) == 1 + 3
    assert len(list(house.queue.candidates(1.0))) == 1 + 3, "all are offered again"
    house.check()


def test_a_pass_that_is_left_early_leaves_everybody_in_place():
    house = QueueHouse("tree")
    for i in range(4):
        house.push(run_of(i, 4))
    candidates = house.queue.candidates(1.0)
    next(candidates)
    next(candidates)
    house.queue.remove("r0")
    candidates.close()
    house.check()
    assert house.order(now=1.0) == ["r1", "r2", "r3"]


def test_a_request_that_starts_in_part_stays_and_others_go_past_it():
    """A hundred samples, and room for some: the trunk is there, and siblings may share it now."""
    house = QueueHouse("tree")
    large = house.push(run_of(2, 900))
    wide = house.push(run_of(1, 100))
    sibling = house.push([*run_of(1, 90), 7])
    candidates = house.queue.candidates(0.0)
    request = next(candidates)
    assert request.request_id == wide
    leaf = house.tree.insert_pending(house.tree.match(request.prefix), request.prefix)
    house.tree.pin(leaf)
    assert [request.request_id for request in candidates] == [sibling, large]
    house.check()
    assert house.queue.num_overtaken(large) == 100, "what its prompt took counts as work"
    assert house.queue.num_overtaken(sibling) == 0


def test_what_leaves_the_tree_makes_requests_dear_again():
    house = QueueHouse("tree", tuning=QueueTuning(output_share_tokens=16))
    house.cache(run_of(1, 400))
    cached = house.push(run_of(1, 400), at=0.01)
    other = house.push(run_of(2, 100), at=0.0)
    assert next(house.queue.candidates(1.0)).request_id == cached
    house.tree.clear()
    house.check()
    assert house.order(now=1.0) == [other, cached]


def test_a_trunk_given_up_half_computed_moves_those_who_waited_for_it():
    house = QueueHouse("tree")
    giver = house.push(run_of(1, 40))
    assert house.next() == giver
    house.push([*run_of(1, 40), 7])
    house.push([*run_of(1, 10), 7])
    house.check()
    segment = house.leaves[giver]
    house.tree.mark_computed(segment, 21)
    house.end(giver, computed=False)
    house.check()


def test_private_text_beneath_a_public_trunk_wakes_its_own_tenant_only():
    house = QueueHouse("tree")
    house.cache(run_of(1, 40), namespace="a", num_public=40)
    for namespace in ("a", "b"):
        for i in range(2):
            house.push(run_of(1, 40) + run_of(2, 60) + [i], namespace=namespace, num_public=40)
    house.check()
    assert house.next() is not None
    house.check()
    assert house.order() == ["r2", "r3", "r4"], "its sibling needs one token, the others 61"


def test_the_books_of_an_empty_queue():
    house = QueueHouse("tree")
    assert len(house.queue) == 0
    assert house.queue.get("nobody") is None
    assert "nobody" not in house.queue
    assert house.order() == []
    with pytest.raises(KeyError):
        house.queue.remove("nobody")


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="policy must be one of tree, fcfs, priority"):
        QueueHouse("sharing")
    with pytest.raises(ValueError, match="weight of tenant 'a' must be positive"):
        QueueHouse(weights={"a": 0.0})
    house = QueueHouse()
    house.push([1], request_id="twice")
    with pytest.raises(ValueError, match="waits already"):
        house.push([1], request_id="twice")

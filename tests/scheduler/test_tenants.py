"""Tenants share by weight what they use, and nobody saves up credit."""

import pytest
from queue_house import QueueHouse, run_of

from treeserve.scheduler.queue.tenants import FairShares


def least(shares: FairShares) -> str:
    return next(iter(shares))


@pytest.mark.parametrize("policy", ["tree", "fcfs"])
def test_two_tenants_get_tokens_in_proportion_to_their_weights(policy):
    """One asks for long prompts, the other for short ones; both always have something waiting."""
    house = QueueHouse(policy, weights={"long": 3.0, "short": 1.0}, num_pages=512)
    lengths = {"long": 90, "short": 7}
    served = dict.fromkeys(lengths, 0)
    num_pushed = 0
    for step in range(3000):
        for tenant, length in lengths.items():
            while sum(r.tenant == tenant for r in waiting(house)) < 4:
                num_pushed += 1
                tokens = run_of(num_pushed, length)
                house.push(tokens, at=float(step), tenant=tenant)
        request = next(house.queue.candidates(float(step)))
        assert house.admit(request)
        house.end(request.request_id)
        house.queue.charge(request.tenant, lengths[request.tenant] + 2)
        served[request.tenant] += lengths[request.tenant] + 2
    house.check()
    assert served["long"] / served["short"] == pytest.approx(3.0, rel=0.02)


def waiting(house: QueueHouse):
    ids = [f"r{i}" for i in range(max(0, house.num_pushed - 400), house.num_pushed)]
    return [house.queue.get(i) for i in ids if i in house.queue]


def test_one_pass_does_not_give_all_room_to_one_tenant():
    """Nothing is computed, and so nothing is charged, while a pass goes on."""
    house = QueueHouse("fcfs")
    for tenant in ("a", "b"):
        for i in range(10):
            house.push(run_of(10 * ord(tenant) + i, 30), tenant=tenant, request_id=f"{tenant}{i}")
    order = house.order()
    assert [request_id[0] for request_id in order] == ["a", "b"] * 10
    house.check()


def test_who_comes_late_gets_no_credit_for_what_it_did_not_use():
    shares = FairShares({})
    shares.join("early")
    shares.charge("early", 1_000_000)
    shares.join("late")
    shares.charge("late", 10)
    assert least(shares) == "early"
    shares.check()


def test_who_leaves_and_returns_keeps_its_debt():
    shares = FairShares({})
    shares.join("steady")
    shares.join("greedy")
    shares.charge("greedy", 1000)
    shares.leave("greedy")
    shares.charge("greedy", 1000)
    shares.join("greedy")
    shares.charge("steady", 1999)
    assert least(shares) == "steady"
    shares.charge("steady", 2)
    assert least(shares) == "greedy"
    shares.check()


def test_after_an_empty_queue_all_start_even():
    shares = FairShares({})
    shares.join("busy")
    shares.charge("busy", 5000)
    shares.leave("busy")
    shares.join("new")
    shares.join("busy")
    shares.charge("new", 1)
    assert least(shares) == "busy"
    shares.check()


def test_what_is_booked_ahead_is_taken_off_by_what_is_charged():
    shares = FairShares({"a": 2.0})
    for tenant in ("a", "b"):
        shares.join(tenant)
    shares.book("a", 100)
    assert least(shares) == "b"
    shares.charge("a", 60)
    shares.charge("b", 49)
    assert least(shares) == "b", "100 tokens of weight 2 are 50"
    shares.charge("b", 2)
    assert least(shares) == "a"
    shares.charge("a", 60)
    assert least(shares) == "b", "120 were computed after all"
    assert [share.served for share in shares.snapshot()] == [60.0, 51.0]
    shares.check()


def test_tenants_that_come_and_go_leave_no_trace():
    shares = FairShares({}, max_idle_tenants=10)
    for i in range(1000):
        shares.join(f"t{i}")
        shares.charge(f"t{i}", i)
        shares.leave(f"t{i}")
        shares.check()
    assert len(shares.snapshot()) == 10

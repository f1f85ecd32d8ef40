"""Where requests go: to what they share with, unless that has too much to do."""

import itertools

import numpy as np
import pytest

from treeserve.cluster.config import RouterConfig
from treeserve.cluster.router import (
    NoReplica,
    ReplicaStats,
    RoutedRequest,
    Router,
    expected_tokens,
)
from treeserve.errors import ConfigError

_NUMBERS = itertools.count()


def request(tokens, namespace="", num_expected=0, name="", continues=None) -> RoutedRequest:
    values = np.array(list(tokens), dtype=np.int32)
    return RoutedRequest(f"r{next(_NUMBERS)}", namespace, values, num_expected, name, continues)


def router(num_replicas: int = 3, **options) -> Router:
    made = Router(RouterConfig(**options), clock=lambda: 0.0)
    made.update_replicas([f"replica-{i}" for i in range(num_replicas)])
    return made


def send(made: Router, wanted: RoutedRequest):
    route = made.choose(wanted)
    made.routed(wanted, route.replica_id)
    return route


def stats(epoch="first", cached=10**6, others=0.0) -> ReplicaStats:
    return ReplicaStats(epoch, cached, 10**6, others)


TRUNK = range(1000)


def earn(made: Router, num_tokens: int) -> None:
    """Credit for a prompt of so many tokens that has nothing in common with the others."""
    earning = request(range(10**6, 10**6 + num_tokens))
    made.routed(earning, "replica-0")
    made.completed(earning.request_id)


def test_what_shares_a_trunk_goes_where_the_trunk_is():
    made = router(8)
    first = send(made, request([*TRUNK, 2000]))
    assert (first.num_matched, first.reason) == (0, "balance")
    for last in range(2001, 2004):
        route = send(made, request([*TRUNK, last]))
        assert (route.replica_id, route.num_matched) == (first.replica_id, 1000)
        assert route.reason == "prefix"


def test_a_prefix_that_is_too_short_draws_nobody():
    made = router(2, min_matched_tokens=32)
    first = request(range(31))
    made.routed(first, "replica-0")
    assert made.choose(request(range(31))).reason == "balance"
    made.routed(request(range(40)), "replica-0")
    assert made.choose(request(range(40))).reason == "prefix"


def test_an_overloaded_holder_makes_a_second_one_hold_the_trunk():
    made = router(2, calm_tokens=100, load_weight=0.2)
    made.routed(request(TRUNK, num_expected=5000), "replica-0")
    route = send(made, request(TRUNK, num_expected=6000))
    assert (route.replica_id, route.num_matched, route.reason) == ("replica-1", 0, "spread")
    sent = [send(made, request(TRUNK, num_expected=5000)) for _ in range(6)]
    assert {route.replica_id for route in sent} == {"replica-0", "replica-1"}
    assert {route.num_matched for route in sent} == {1000}


def test_among_equal_holders_the_one_with_less_to_do_is_chosen():
    made = router(3)
    for index in (0, 1, 2):
        made.routed(request(TRUNK, num_expected=100 * (3 - index)), f"replica-{index}")
    assert made.choose(request(TRUNK)).replica_id == "replica-2"


def test_work_that_has_ended_weighs_nothing():
    made = router(2)
    wanted = request(TRUNK, num_expected=50)
    made.routed(wanted, "replica-1")
    assert made.load_of("replica-1") == 1000 + 2 * 50
    made.completed(wanted.request_id)
    made.completed(wanted.request_id)
    made.completed("unknown")
    assert made.load_of("replica-1") == 0


def test_forks_stay_with_what_they_fork():
    made = router(4)
    trunk = request([1, 2, 3], "a", name="trunk")
    made.routed(trunk, "replica-2")
    made.completed(trunk.request_id)
    made.routed(request(TRUNK, "a"), "replica-1")
    fork = request([*TRUNK], "a", continues="trunk")
    assert made.choose(fork).replica_id == "replica-2"
    assert made.choose(fork).reason == "owner"
    assert made.choose(request(TRUNK, "b", continues="trunk")).reason == "balance"


def test_what_a_request_drew_draws_its_continuation():
    made = router(4)
    made.routed(request(TRUNK, "a", name="first"), "replica-3")
    made.drew("a", "first", request([*TRUNK, *range(5000, 5100)]).tokens)
    made.drew("b", "first", request(TRUNK).tokens)
    made.drew("a", "unknown", request(range(7000, 7100)).tokens)
    turn = made.choose(request([*TRUNK, *range(5000, 5100), 1, 2], "a"))
    assert (turn.replica_id, turn.num_matched) == ("replica-3", 1100)
    assert made.choose(request(TRUNK, "b")).num_matched == 0
    assert made.choose(request(range(7000, 7100), "a")).num_matched == 0


def test_of_a_request_that_is_open_the_router_hears_however_many_there_were_since(monkeypatch):
    """What it drew is where it ran: its continuation must not be computed elsewhere."""
    monkeypatch.setattr("treeserve.cluster.router._MAX_ENDED", 3)
    made = router(4)
    first, lost = request(TRUNK, name="first"), request([1], name="lost")
    made.routed(first, "replica-3")
    made.routed(lost, "replica-1")
    assert made.died("replica-1") == [lost.request_id]
    for number in range(10):
        short = request([number], name=f"short {number}")
        made.routed(short, "replica-0")
        made.completed(short.request_id)
    answered = [*TRUNK, *range(5000, 5100)]
    made.completed(first.request_id)
    made.drew("", "first", request(answered).tokens)
    assert made.choose(request([*answered, 1])).num_matched == 1100
    assert made.choose(request([1, 2], continues="first")).reason == "owner"
    assert made.choose(request([1, 2], continues="short 9")).reason == "owner"
    assert made.choose(request([1, 2], continues="short 0")).reason == "balance"
    assert len(made._owners) == 3


def test_work_is_done_again_for_balance_only_as_far_as_there_is_credit():
    options = {"calm_tokens": 0, "load_weight": 0, "eager_weight": 10, "credit_fraction": 0.1}
    made = router(3, **options, credit_tokens=500)
    earn(made, 15_000)
    made.routed(request(TRUNK, num_expected=100), "replica-0")
    assert send(made, request(TRUNK)).reason == "spread"
    assert send(made, request([*TRUNK, *range(3000, 3400)])).reason == "prefix"
    assert send(made, request(TRUNK)).reason == "prefix"
    poor = router(3, **options, credit_tokens=100)
    earn(poor, 15_000)
    poor.routed(request(TRUNK, num_expected=100), "replica-0")
    assert send(poor, request(TRUNK)).reason == "prefix"


def test_at_the_start_nothing_is_computed_twice_on_a_guess():
    made = router(2, eager_weight=10, load_weight=0, credit_fraction=0.1)
    made.routed(request(TRUNK, num_expected=100), "replica-0")
    assert made.choose(request(TRUNK)).reason == "prefix"
    earn(made, 15_000)
    assert made.choose(request(TRUNK)).reason == "spread"


WANTED = {"fair_share": 1.2, "copy_work": 3.9, "credit_fraction": 0}


def trees(made: Router, numbers, replica_id="replica-0") -> None:
    """Of 1,000 tokens to draw each, under the trunk."""
    for number in numbers:
        made.routed(request([*TRUNK, 2000 + number], num_expected=500), replica_id)


def test_a_trunk_that_is_too_much_for_its_holder_for_long_is_copied_without_credit():
    made = router(2, **WANTED)
    # The first four make it a trunk; what they bring does not count yet. Then each brings 800: its
    # holder has twice the mean to do, which is so much of it beyond 1.2 times the mean.
    trees(made, range(4 + 4))
    assert made.choose(request([*TRUNK, 2999])).reason == "prefix"
    trees(made, [8])
    turn = request([*TRUNK, 2000, *range(4000, 4600)])
    made.routed(turn, "replica-0")
    # A conversation would be computed again too, so it stays.
    assert made.choose(turn).reason == "prefix"
    route = send(made, request([*TRUNK, 2999], num_expected=500))
    assert (route.replica_id, route.num_matched, route.reason) == ("replica-1", 0, "spread")
    trees(made, range(20, 24), "replica-1")
    # From now on both have it, and share.
    assert made.choose(request([*TRUNK, 2998])).num_matched == 1000


def test_a_trunk_is_not_copied_while_its_holder_does_no_more_than_its_share():
    made = router(2, **WANTED)
    made.routed(request(range(7000, 8000), num_expected=20_000), "replica-1")
    trees(made, range(30))
    assert made.choose(request([*TRUNK, 2999])).reason == "prefix"


def test_what_was_wanted_is_forgotten_as_fast_while_it_is_not():
    made = router(2, **WANTED)
    trees(made, range(4 + 4))
    other = request(range(7000, 8000), num_expected=20_000)
    made.routed(other, "replica-1")
    trees(made, range(8, 12))
    made.completed(other.request_id)
    trees(made, [12])
    assert made.choose(request([*TRUNK, 2999])).reason == "prefix"
    trees(made, range(13, 17))
    assert made.choose(request([*TRUNK, 2999])).reason == "spread"


def test_where_all_that_may_be_chosen_are_busier_than_most_a_trunk_is_not_copied():
    made = router(3, **WANTED)
    trees(made, range(12))
    made.routed(request(range(7000, 8000), num_expected=5000), "replica-1")
    busy = ["replica-0", "replica-1"]
    assert made.choose(request([*TRUNK, 2999]), busy).replica_id == "replica-0"
    assert made.choose(request([*TRUNK, 2999])).replica_id == "replica-2"


def conversation(last: int):
    return request([*TRUNK, last, *range(4000, 4600)])


def test_a_trunk_is_copied_for_a_smaller_difference_than_a_conversation_is_moved():
    """Its copy serves those that come later too."""
    options = {"eager_weight": 0.1, "load_weight": 0, "credit_fraction": 1}
    made = router(2, **options, trunk_weight=0.25)
    full = router(2, **options, trunk_weight=1)
    for each in (made, full):
        branch(each, TRUNK)
        earn(each, 3000)
        for last in range(2000, 2005):
            each.routed(conversation(last), "replica-0")
            assert each.choose(conversation(2000)).reason == "prefix"
    # 3,000 tokens open: at 0.1 worth more than a quarter of the trunk, and less than 600 tokens.
    assert made.load_of("replica-0") == 5 * 601
    assert made.choose(request([*TRUNK, 2999])).reason == "spread"
    assert made.choose(conversation(2000)).reason == "prefix"
    assert full.choose(request([*TRUNK, 2999])).reason == "prefix"


def branch(made: Router, trunk) -> None:
    """Makes it one, with nothing open under it."""
    for last in range(1990, 1994):
        made.routed(short := request([*trunk, last]), "replica-0")
        made.completed(short.request_id)


def test_credit_is_not_spent_on_a_trunk_from_which_little_goes_on():
    """A copy of it would take over as little, while the busy one beside it gets none."""
    hot, cold = TRUNK, range(3000, 4000)
    made = router(2, eager_weight=0.1, load_weight=0, credit_fraction=1, trunk_weight=0.25)
    branch(made, hot)
    branch(made, cold)
    earn(made, 3000)
    sent = [request([*hot, last], num_expected=300) for last in range(2000, 2008)]
    for each in sent:
        made.routed(each, "replica-0")
    made.routed(request([*cold, 2000], num_expected=300), "replica-0")
    assert made.choose(request([*hot, 2999])).reason == "spread"
    assert made.choose(request([*cold, 2999])).reason == "prefix"
    # It is what is open now that counts, not what once was.
    for each in sent:
        made.completed(each.request_id)
    made.routed(request(range(7000, 7010), num_expected=2400), "replica-0")
    assert made.choose(request([*hot, 2999])).reason == "prefix"
    # One of the two requests is under this one: a replica's part.
    assert made.choose(request([*cold, 2999])).reason == "spread"


def test_requests_that_a_replica_took_with_it_are_no_longer_open_under_their_trunk():
    made = router(3, eager_weight=0.1, load_weight=0, credit_fraction=1, trunk_weight=0.25)
    branch(made, TRUNK)
    earn(made, 3000)
    made.routed(request(TRUNK), "replica-1")
    for last in range(2000, 2008):
        made.routed(request([*TRUNK, last], num_expected=300), "replica-1")
    made.died("replica-1")
    made.routed(request(range(7000, 7010), num_expected=3000), "replica-0")
    assert made.choose(request([*TRUNK, 2999])).reason == "prefix"


def test_the_less_credit_is_left_the_further_behind_a_replica_has_to_be():
    options = {"eager_weight": 0.5, "load_weight": 0, "credit_fraction": 0.5, "trunk_weight": 1}
    rich, poor = (router(2, **options, credit_tokens=2000) for _ in range(2))
    earn(rich, 10_000)
    earn(poor, 2200)
    for made in (rich, poor):
        made.routed(request(TRUNK, num_expected=1000), "replica-0")
    # 3,000 tokens are open: worth 1,500 with all the credit, and 600 with 1,600 tokens of it.
    assert rich.choose(request(TRUNK)).reason == "spread"
    assert poor.choose(request(TRUNK)).reason == "prefix"


def test_samples_are_not_expected_to_be_as_long_as_they_may_be():
    assert expected_tokens(4, 16) == 64
    assert expected_tokens(4, 1 << 20) == 4 * 256


def test_tenants_do_not_meet():
    made = router(4)
    made.routed(request(TRUNK, "a"), "replica-0")
    assert made.choose(request(TRUNK, "b")).num_matched == 0
    assert made.choose(request(TRUNK, "a")).replica_id == "replica-0"


def test_a_replica_that_dies_is_forgotten_with_its_requests():
    made = router(3)
    lost = request(TRUNK, name="lost")
    made.routed(lost, "replica-1")
    assert made.died("replica-1") == [lost.request_id]
    assert made.died("replica-1") == []
    assert set(made.replica_ids) == {"replica-0", "replica-2"}
    assert made.choose(request(TRUNK, continues="lost")).reason == "balance"
    made.completed(lost.request_id)
    made.routed(lost, "replica-1")
    made.report("replica-1", stats())
    made.update_replicas(["replica-0", "replica-3"])
    assert made.load_of("replica-3") == 0
    assert made.choose(request(TRUNK)).num_matched == 0


def test_only_candidates_are_chosen_and_none_is_an_error():
    made = router(4)
    made.routed(request(TRUNK), "replica-0")
    route = made.choose(request(TRUNK), ["replica-2", "gone"])
    assert (route.replica_id, route.reason) == ("replica-2", "balance")
    with pytest.raises(NoReplica):
        made.choose(request(TRUNK), [])
    with pytest.raises(NoReplica):
        router(0).choose(request(TRUNK))


def test_a_replica_that_started_again_holds_nothing():
    made = router(2)
    made.routed(request(TRUNK), "replica-0")
    made.report("replica-0", stats("first"))
    assert made.choose(request(TRUNK)).num_matched == 1000
    made.report("replica-0", stats("second"))
    assert made.choose(request(TRUNK)).num_matched == 0


def test_a_replica_that_evicted_is_believed_over_the_guess():
    made = router(2)
    done = [request(range(1000 * i, 1000 * i + 500)) for i in range(4)]
    for each in done:
        made.routed(each, "replica-0")
        made.completed(each.request_id)
    made.report("replica-0", stats(cached=1000))
    matched = [made.choose(each).num_matched for each in done]
    assert sum(matched) <= 1000
    assert made.choose(done[0]).num_matched in (0, 500)


def test_what_was_just_sent_is_not_forgotten_for_an_older_report():
    made = router(2)
    made.routed(request(TRUNK), "replica-0")
    made.report("replica-0", stats(cached=0))
    assert made.choose(request(TRUNK)).num_matched == 1000


def test_work_that_other_routers_sent_counts_too():
    made = router(2, calm_tokens=100, load_weight=0.2)
    made.routed(request(TRUNK), "replica-0")
    made.report("replica-0", stats(others=50_000))
    assert made.load_of("replica-0") == 51_000
    assert made.choose(request(TRUNK)).reason == "spread"
    made.report("replica-0", stats())
    assert made.load_of("replica-0") == 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load_weight": -0.1}, "load_weight: must be at least 0, got -0.1"),
        ({"calm_tokens": -1}, "calm_tokens: must be at least 0, got -1"),
        ({"max_age_seconds": float("nan")}, "max_age_seconds: must be at least 0, got nan"),
        ({"fair_share": -1}, "fair_share: must be at least 0, got -1"),
        ({"copy_work": -7}, "copy_work: must be at least 0, got -7"),
        ({"assumed_capacity_tokens": 0}, "assumed_capacity_tokens: must be at least 1, got 0"),
    ],
)
def test_options_that_make_no_sense_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        RouterConfig(**options)

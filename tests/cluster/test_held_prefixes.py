"""Who holds what: equal to a naive model while all fits, bounded where it does not."""

import numpy as np
import pytest

from treeserve.cluster.held_prefixes import HeldPrefixes


def ids(values) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def filled(*capacities: int) -> HeldPrefixes:
    held = HeldPrefixes()
    for replica, capacity in enumerate(capacities):
        held.add_replica(replica, capacity)
    return held


@pytest.mark.parametrize("seed", range(8))
def test_while_all_fits_it_is_what_was_sent(seed):
    chance = np.random.default_rng(seed)
    held = filled(*[10**6] * 11)
    sent: dict[int, set] = {replica: set() for replica in range(11)}
    for now in range(150):
        namespace, replica = str(chance.integers(2)), int(chance.integers(11))
        tokens = chance.integers(0, 2, chance.integers(0, 14))
        known = [len(longest(sent[r], namespace, tokens)) for r in range(11)]
        assert held.match(namespace, ids(tokens))[:11].tolist() == known
        num_new = held.insert(namespace, ids(tokens), replica, float(now))
        new = {(namespace, *tokens[: i + 1].tolist()) for i in range(len(tokens))}
        assert num_new == len(new - sent[replica])
        sent[replica] |= new
        assert held.num_held(replica) == len(sent[replica])
        held.check()
    assert held.num_tokens == len(set().union(*sent.values()))


def longest(sent: set, namespace: str, tokens) -> list[int]:
    values = tokens.tolist()
    fits = [i for i in range(len(values)) if (namespace, *values[: i + 1]) in sent]
    return values[: len(fits)]


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_nobody_holds_more_than_fits_and_the_counts_are_right(seed):
    chance = np.random.default_rng(100 + seed)
    held = filled(12, 30, 0, 7)
    capacity = {0: 12, 1: 30, 2: 0, 3: 7}
    for now in range(300):
        replica = int(chance.integers(4))
        match chance.integers(12):
            case 0:
                capacity[replica] = int(chance.integers(40))
                held.set_capacity(replica, capacity[replica])
            case 1:
                held.expire(replica, now - float(chance.integers(60)))
            case 2:
                held.remove_replica(replica)
                held.add_replica(replica, capacity[replica])
                assert held.num_held(replica) == 0
            case _:
                tokens = chance.integers(0, 2, chance.integers(1, 14))
                held.insert("", ids(tokens), replica, float(now))
        held.check()
        assert all(held.num_held(r) <= capacity[r] for r in capacity)
    for replica in capacity:
        held.remove_replica(replica)
    assert (held.num_nodes, held.num_tokens, held._roots) == (0, 0, {})


def test_what_was_used_least_recently_goes_first_and_from_its_end():
    held = filled(8)
    held.insert("", ids([1, 2, 3, 4]), 0, 1.0)
    held.insert("", ids([1, 2, 7, 8]), 0, 2.0)
    held.insert("", ids([5, 6, 7]), 0, 3.0)
    assert held.match("", ids([1, 2, 3, 4]))[0] == 2
    assert held.match("", ids([1, 2, 7, 8]))[0] == 4
    held.insert("", ids([9, 9]), 0, 4.0)
    assert held.match("", ids([1, 2, 7, 8]))[0] == 2
    assert held.match("", ids([5, 6, 7]))[0] == 3


def num_trunk(held: HeldPrefixes, tokens) -> int:
    trunk = held.find("", ids(tokens)).trunk
    return 0 if trunk is None else trunk.num_tokens


def test_a_trunk_is_what_many_different_prompts_go_on_from():
    held = filled(100)
    for last in (4, 5, 6):
        held.insert("", ids([1, 2, 3, last, 9]), 0, 1.0)
        assert num_trunk(held, [1, 2, 3, 4, 9]) == 0
    held.insert("", ids([1, 2, 3, 7, 9]), 0, 1.0)
    for tokens in ([1, 2, 3, 4, 9], [1, 2, 3, 8], [1, 2, 3]):
        assert num_trunk(held, tokens) == 3
    assert num_trunk(held, [1, 2]) == 0


def test_a_trunk_that_branches_again_near_its_end_is_known_by_one_node():
    """Numbers that many prompts go on with are no trunks of their own."""
    held = filled(1000)
    trunk = list(range(100, 120))
    for tens in range(4):
        for ones in range(4):
            held.insert("", ids([*trunk, tens, ones, 50 + ones]), 0, 1.0)
    found = [held.find("", ids([*trunk, tens, 0, 50])).trunk for tens in range(4)]
    assert [trunk.num_tokens for trunk in found] == [21] * 4
    assert len({id(trunk.node) for trunk in found}) == 1


def test_what_one_forgets_others_still_hold():
    held = filled(4, 100)
    for replica in (0, 1):
        held.insert("", ids([1, 2, 3]), replica, 1.0)
    held.insert("", ids([4, 5, 6]), 0, 2.0)
    assert held.match("", ids([1, 2, 3]))[:2].tolist() == [0, 3]
    held.check()


def test_what_was_not_asked_for_in_a_long_time_is_forgotten():
    held = filled(100)
    held.insert("", ids([1, 2, 3]), 0, 1.0)
    held.insert("", ids([1, 2, 9]), 0, 5.0)
    held.expire(0, 3.0)
    assert held.match("", ids([1, 2, 3]))[0] == 2
    assert held.match("", ids([1, 2, 9]))[0] == 3


def test_the_order_does_not_grow_with_every_request():
    held = filled(1000)
    for now in range(5000):
        held.insert("", ids([1, 2, now % 3]), 0, float(now))
    assert len(held._shelves[0].order) < 200
    held.check()

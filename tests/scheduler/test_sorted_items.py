"""Items stay in order whatever is added and taken out."""

from operator import itemgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treeserve.scheduler.sorted_items import SortedItems


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3))))
def test_the_order_is_that_of_a_stable_sort(operations):
    items = SortedItems(key=itemgetter(0))
    added = []
    for adds, *item in operations:
        if adds:
            items.add(item)
            added.append(item)
        else:
            items.discard(item)
            if item in added:
                added.remove(item)
        items.check()
        assert list(items) == sorted(added, key=itemgetter(0))
        assert (item in items) == (item in added)


def test_what_is_not_there_cannot_be_removed():
    items = SortedItems()
    items.add(3)
    with pytest.raises(ValueError, match="4 is not among the items"):
        items.remove(4)
    items.remove(3)
    assert len(items) == 0


def test_a_changed_key_is_found_out():
    items = SortedItems(key=itemgetter(0))
    item = [1]
    items.add(item)
    item[0] = 2
    with pytest.raises(AssertionError, match="a key has changed"):
        items.check()


def test_the_least_come_first():
    items = SortedItems()
    for number in (3, 1, 2):
        items.add(number)
    assert items[0] == 1
    assert items[:2] == [1, 2]
    assert items.pop(0) == 1
    assert list(items) == [2, 3]

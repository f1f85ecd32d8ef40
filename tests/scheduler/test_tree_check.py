"""The tree's check finds what is wrong with the pages of a segment, and says whose they are."""

import re

import numpy as np
import pytest
from tree_house import House


def twice(pages: np.ndarray) -> np.ndarray:
    return pages[[0, 0, *range(2, len(pages))]]


def slots_of(pages: np.ndarray) -> np.ndarray:
    return (pages[:, None] * 4 + np.arange(4)).reshape(-1)[:10].astype(np.int32)


@pytest.mark.parametrize(
    ("corrupt", "what"),
    [
        (lambda s: {"slots": s.slots[:-1]}, "has tokens without slots"),
        (lambda s: {"pages": s.pages[:-1]}, "holds idle pages"),
        (lambda s: {"pages": s.pages[[0, 1, 2, 2]]}, "holds idle pages"),
        (lambda s: {"pages": s.pages[::-1]}, "holds other pages than its slots"),
        (lambda s: {"slots": s.slots[::-1]}, "holds other pages than its slots"),
        (
            lambda s: {"pages": twice(s.pages), "slots": slots_of(twice(s.pages))},
            "uses a slot twice",
        ),
    ],
)
def test_pages_that_do_not_fit_their_slots_are_found_and_the_segment_is_named(corrupt, what):
    house = House()
    house.attach([1, 2, 3, 4, 5], computed=True)
    broken = house.attach([7, *range(9)], computed=True)
    house.attach([9, 8, 7], computed=True)
    house.check()
    assert len(broken.pages) == 3
    for name, value in corrupt(broken).items():
        setattr(broken, name, value)
    with pytest.raises(AssertionError, match=re.escape(f"{broken} {what}")):
        house.tree.check()


def test_a_page_that_another_segment_holds_too_is_miscounted():
    house = House()
    first, second = house.attach([1, 2], computed=True), house.attach([3, 4], computed=True)
    second.slots, second.pages = first.slots, first.pages
    with pytest.raises(AssertionError, match="held pages and segments disagree"):
        house.tree.check()


def test_a_pin_that_the_books_do_not_know_is_found():
    house = House()
    leaf = house.attach([1, 2], computed=True)
    house.tree.unpin(leaf)
    leaf.pins = 1
    with pytest.raises(AssertionError, match="pinned pages and segments disagree"):
        house.tree.check()

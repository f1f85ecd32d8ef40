"""Tenants share what is public and never meet beneath it."""

import numpy as np
import pytest
from tree_house import House, prefix, tokens

from treeserve.scheduler.tree.path import Path
from treeserve.scheduler.tree.prefix import PUBLIC_NAMESPACE, Prefix

TRUNK = [1, 2, 3, 4, 5, 6]


def test_namespaces_share_nothing_and_leave_nothing():
    house = House()
    house.cache([1, 2, 3], namespace="a")
    assert house.num_cached([1, 2, 3], "b") == 0
    house.cache([1, 2, 3], namespace="b")
    assert len(house.tree.segments()) == 2
    house.tree.clear()
    house.check()
    assert house.tree.segments() == []


def test_a_public_trunk_is_stored_once_and_what_follows_is_the_tenants_own():
    house = House()
    a = house.attach([*TRUNK, 7, 8], namespace="a", public=6)
    assert house.num_cached([*TRUNK, 7, 8], "b", 6) == 6, "the trunk, and not the answer"
    b = house.attach([*TRUNK, 7, 8], namespace="b", public=6)
    assert Path(a).segments()[0] is Path(b).segments()[0]
    assert a is not b
    assert [s.namespace for s in Path(b).segments()] == [PUBLIC_NAMESPACE, "b"]
    assert set(a.slots.tolist()).isdisjoint(b.slots.tolist())


def test_nobody_finds_a_private_prompt_through_the_public_tree():
    house = House()
    house.cache(TRUNK, namespace="a")
    assert house.num_cached(TRUNK, "b", 6) == house.num_cached(TRUNK, "b") == 0
    house.cache(TRUNK, namespace="b", public=6)
    assert house.num_cached(TRUNK, "c") == 0, "a prompt that is all private stays apart"


def test_a_shorter_public_zone_ends_inside_a_longer_one():
    house = House()
    house.cache(TRUNK, namespace="a", public=6)
    assert house.num_cached([*TRUNK, 9], "b", 4) == 4
    leaf = house.attach([*TRUNK, 9], namespace="b", public=4)
    upper, private = Path(leaf).segments()
    assert (upper.end_position, private.namespace, len(private)) == (4, "b", 3)
    assert house.num_cached(TRUNK, "c", 6) == 6


def test_a_match_of_one_tenant_splits_no_segment_of_another():
    house = House()
    a = house.attach([*TRUNK, 7, 8, 9], namespace="a", public=6)
    house.attach([*TRUNK, 7, 8, 5], namespace="b", public=6)
    assert len(a) == 3
    house.attach([*TRUNK, 7, 8, 5], namespace="a", public=6)
    assert len(a) == 1


def test_public_and_private_missing_tokens_share_a_page_and_count_it_once():
    house = House()
    wanted = prefix([*TRUNK, 7, 8], "a", 6)
    matched = house.tree.match(wanted)
    assert house.tree.num_missing_pages(matched, wanted) == 2
    leaf = house.tree.insert_pending(matched, wanted)
    house.tree.pin(leaf)
    house.check()
    assert house.pool.num_free == 62
    public = leaf.parent
    assert public.pages[-1] == leaf.pages[0]
    house.tree.mark_computed(public, 6)
    house.tree.unpin(leaf)
    house.check()
    assert house.tree.segments() == [public], "what was not computed left"
    house.tree.unpin(house.attach([*TRUNK, 7, 8, 9], namespace="a", public=6))
    house.tree.clear()
    assert house.pool.num_free == 64


def test_drawn_tokens_stay_private_even_after_a_prompt_that_is_all_public():
    house = House()
    leaf = house.attach(TRUNK, namespace="a", public=6)
    pages = house.pool.allocate(1)
    assert house.tree.commit(leaf, tokens(7, 8), house.pool.slots(pages)[:2], pages, "a") == 2
    house.pool.release(pages)
    house.check()
    assert house.num_cached([*TRUNK, 7, 8], "a", 6) == 8
    assert house.num_cached([*TRUNK, 7, 8], "b", 6) == 6
    assert house.num_cached([*TRUNK, 7, 8], "b", 8) == 6


def test_nothing_of_one_tenant_hangs_beneath_another():
    house = House()
    leaf = house.attach([1, 2], namespace="a")
    pages = house.pool.allocate(1)
    with pytest.raises(ValueError, match="another namespace"):
        house.tree.commit(leaf, tokens(3), house.pool.slots(pages)[:1], pages, "b")


def test_no_tenant_has_the_public_namespace():
    with pytest.raises(ValueError, match="nobody's own"):
        Prefix(np.zeros(3, dtype=np.int32), PUBLIC_NAMESPACE)
    with pytest.raises(ValueError, match="cannot be public"):
        Prefix(np.zeros(3, dtype=np.int32), "a", 4)

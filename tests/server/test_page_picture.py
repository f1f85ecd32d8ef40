"""What of a large tree is drawn, and that nothing of it is lost."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treeserve.forest import NO_PARENT, Forest, ForestNode
from treeserve.inspection import PlanView
from treeserve.server.activity import Activity
from treeserve.server.page.history import MAX_POINTS, History, columns_of
from treeserve.server.page.picture import FIELDS, MAX_SHOWN, Weights, Wish, draw
from treeserve.server.step_totals import StepTotals
from treeserve.types import Delta, Finished, FinishReason, SampleTimings, StepNumbers, Usage

NO_PLAN = PlanView((), 0, None, None, None)
EXAMPLES = settings(max_examples=40)


def forest_of(parents: list[int], pins: list[int], tokens: list[int] | None = None) -> Forest:
    """Nodes with ids from 1 on, whose parents come before them; pins of leaves count upwards."""
    totals = list(pins)
    for index in range(len(parents) - 1, -1, -1):
        if parents[index] != NO_PARENT:
            totals[parents[index]] += totals[index]
    lengths = tokens or [1] * len(parents)
    nodes = tuple(
        ForestNode(index + 1, parent, "", 0, lengths[index], lengths[index], totals[index], 0,
                   0.0, False, 0.0, None)
        for index, parent in enumerate(parents)
    )  # fmt: skip
    return Forest(nodes, is_cut=False, now=10.0, plan=NO_PLAN, num_rows={})


def test_a_prompt_module_is_told_from_what_is_exact():
    forest = forest_of([NO_PARENT, NO_PARENT], [1, 1])
    marked = (forest.nodes[0], forest.nodes[1]._replace(is_module=True))
    picture = picture_of(replace(forest, nodes=marked))
    assert [node["module"] for node in picture["nodes"]] == [0, 1]


def picture_of(forest: Forest, wish: Wish = Wish()) -> dict:  # noqa: B008  # frozen
    weights = Weights(forest, live_only=wish.live_only)
    picture = json.loads(draw(forest, wish, weights))
    picture["nodes"] = [dict(zip(FIELDS, row, strict=True)) for row in picture["nodes"]]
    return picture


@st.composite
def forests(draw_value) -> Forest:
    count = draw_value(st.integers(0, 60))
    parents = [draw_value(st.integers(NO_PARENT, index - 1)) for index in range(count)]
    pins = [draw_value(st.integers(0, 3)) for _ in parents]
    tokens = [draw_value(st.integers(1, 500)) for _ in parents]
    return forest_of(parents, pins, tokens)


@EXAMPLES
@given(forests())
def test_every_node_is_drawn_or_counted_once(forest):
    picture = picture_of(forest)
    nodes = picture["nodes"]
    rests = [picture["rest"][:2], *([n["rest_nodes"], n["rest_tokens"]] for n in nodes)]
    assert len(nodes) + sum(rest[0] for rest in rests) == len(forest.nodes)
    drawn_tokens = sum(node["tokens"] for node in nodes)
    assert drawn_tokens + sum(rest[1] for rest in rests) == sum(n.num_tokens for n in forest.nodes)
    for place, node in enumerate(nodes):
        assert node["parent"] < place, "parents come first"


@EXAMPLES
@given(forests())
def test_nothing_is_wider_than_what_it_lies_in(forest):
    nodes = picture_of(forest)["nodes"]
    for place, node in enumerate(nodes):
        children = sum(child["weight"] for child in nodes if child["parent"] == place)
        assert children + node["rest_weight"] <= node["weight"] + 1e-4 * (len(nodes) + 2)
        assert node["weight"] >= node["pins"]
        assert node["weight"] > 0


@EXAMPLES
@given(forests())
def test_what_only_the_cache_holds_can_be_left_out(forest):
    picture = picture_of(forest, Wish(live_only=True))
    used = {node.node_id for node in forest.nodes if node.num_pins}
    assert {node["id"] for node in picture["nodes"]} <= used
    assert picture["total"][0] == len(used)


@pytest.fixture(scope="module")
def large() -> Forest:
    """10,000 leaves beneath one trunk, a request at every tenth."""
    parents = [NO_PARENT, *([0] * 99), *(1 + index % 99 for index in range(10_000))]
    pins = [0] * 100 + [int(index % 10 == 0) for index in range(10_000)]
    return forest_of(parents, pins)


def test_of_ten_thousand_nodes_as_many_are_drawn_as_a_screen_can_show(large):
    data = draw(large, Wish(), Weights(large, live_only=False))
    picture = picture_of(large)
    assert 100 < len(picture["nodes"]) <= MAX_SHOWN
    assert picture["total"][0] == 10_100
    assert len(data) < 200_000
    assert sum(node["pins"] for node in picture["nodes"] if node["parent"] == NO_PARENT) == 1_000


def test_opening_a_node_shows_what_was_too_small_before(large):
    before = {node["id"] for node in picture_of(large)["nodes"]}
    beneath = {n.node_id for n in large.nodes if n.parent == 5}
    assert not beneath <= before
    picture = picture_of(large, Wish(focus=6))
    assert {node["id"] for node in picture["nodes"]} == beneath | {6}
    assert [crumb[0] for crumb in picture["path"]] == [1, 6]


def test_who_has_requests_is_drawn_before_what_is_only_cached(large):
    shown = {node["id"] for node in picture_of(large)["nodes"]}
    assert {node.node_id for node in large.nodes if node.num_pins} <= shown


def step(**numbers) -> StepNumbers:
    base = dict.fromkeys(
        ("running_samples", "waiting_requests", "used_pages", "cached_pages", "total_pages",
         "evicted_tokens"), 0,
    )  # fmt: skip
    return StepNumbers(**base | numbers)


def test_a_point_tells_of_the_time_since_the_one_before():
    now, totals, activity = [100.0], StepTotals(), Activity()
    history = History(totals, activity, lambda: now[0])
    for _ in range(4):
        totals.add(
            step(num_rows=8, num_drawn=6, num_prompt_rows=2, kv_tokens_read=25,
                 kv_tokens_read_flat=100, model_seconds=0.25, running_samples=6, total_pages=9)
        )  # fmt: skip
    activity.see(Finished((), Usage(10, 6, 1, 3, 4)))
    for seconds in (1.0, 3.0):
        timings = SampleTimings(0.0, seconds, 9.0, seconds / 10)
        activity.see(Delta((), 0, "", (), finish_reason=FinishReason.STOP, timings=timings))
    now[0] += 2
    point = history.take()
    assert (point.drawn_per_second, point.prompt_rows_per_second) == (12, 4)
    assert (point.kv_saved, point.hit_rate, point.step_seconds) == (0.75, 0.7, 0.25)
    assert (point.first_token_p50_seconds, point.first_token_p95_seconds) == (1, 3)
    assert (point.token_p50_seconds, point.token_p95_seconds) == (0.1, 0.3)
    assert (point.running_samples, point.total_pages) == (6, 9)


def test_a_second_in_which_nothing_happened_has_no_rates_and_no_latency():
    now = [100.0]
    history = History(StepTotals(), Activity(), lambda: now[0])
    now[0] += 1
    point = history.take()
    assert point.drawn_per_second == 0
    assert (point.kv_saved, point.hit_rate, point.first_token_p50_seconds) == (None, None, None)


def test_a_clock_that_is_set_back_makes_no_negative_rate():
    now, totals = [100.0], StepTotals()
    history = History(totals, Activity(), lambda: now[0])
    totals.add(step(num_rows=1, num_drawn=1))
    now[0] -= 50
    assert history.take().drawn_per_second > 0


def test_the_history_keeps_five_minutes():
    now = [0.0]
    history = History(StepTotals(), Activity(), lambda: now[0])
    for _ in range(MAX_POINTS + 5):
        now[0] += 1
        history.take()
    columns = columns_of(history.points)
    assert columns["at"] == [float(second) for second in range(6, MAX_POINTS + 6)]

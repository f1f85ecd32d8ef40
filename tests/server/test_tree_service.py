"""The live tree and the last plan, as a caller sees them over a real socket."""

import asyncio
import threading
from contextlib import aclosing
from dataclasses import replace

import grpc
import pytest
from server.side_house import HOME, PAGE, House, error_of, prefix, running_house

from treeserve import inspection
from treeserve.config import EngineOptions
from treeserve.inspection import Scope
from treeserve.pb import generation_pb2, prefix_pb2
from treeserve.pb import tree_pb2 as pb
from treeserve.server import tree_service
from treeserve.server.call_log import open_record
from treeserve.server.doors import Call
from treeserve.server.identity import Identity
from treeserve.types import SamplingParams

CODE = grpc.StatusCode
TRUNK = "A trunk that many prompts begin with. "


@pytest.fixture
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(
        model=str(checkpoint_of("llama")), num_pages=128, page_size=PAGE, sharing="always"
    )


@pytest.fixture
async def house(options):
    async with running_house(options) as running:
        yield running
        await running.check()


async def warm(house: House, text: str, tenant: str = HOME) -> None:
    request = prefix_pb2.WarmRequest(prefix=prefix(text))
    await house.prefix.Warm(request, metadata=house.key_of(tenant))


async def tree_of(house: House, tenant: str = HOME, **request) -> pb.Tree:
    metadata = house.key_of(tenant)
    return (await house.tree.GetTree(pb.GetTreeRequest(**request), metadata=metadata)).tree


async def test_an_empty_tree_is_empty(house):
    tree = await tree_of(house)
    assert (list(tree.nodes), tree.left_out_nodes, tree.tokens) == ([], 0, 0)


async def test_nodes_are_what_was_computed_where_prompts_part(house):
    for end in ("one", "two"):
        await warm(house, TRUNK + end)
    tree = await tree_of(house)
    [trunk] = [node for node in tree.nodes if not node.HasField("parent_id")]
    ends = [node for node in tree.nodes if node.HasField("parent_id")]
    assert (trunk.start_position, trunk.tokens, trunk.children) == (0, len(TRUNK), 2)
    assert [(n.parent_id, n.start_position, n.tokens, n.children) for n in ends] == [
        (trunk.id, len(TRUNK), 3, 0)
    ] * 2
    assert all(node.computed_tokens == node.tokens for node in tree.nodes)
    assert trunk.use.hits == 2
    assert (trunk.use.pins, trunk.use.retained_weight) == (0, 0)
    assert trunk.use.age_seconds >= 0
    assert tree.tokens == len(TRUNK) + 6
    assert tree.nodes[0] == trunk, "parents come before children"


async def test_retention_shows(house):
    await warm(house, TRUNK)
    await house.prefix.Retain(prefix_pb2.RetainRequest(prefix=prefix(TRUNK), weight=7))
    [node] = (await tree_of(house)).nodes
    assert node.use.retained_weight == 7


async def test_what_is_left_out_is_counted(house):
    for letter in "abcdefgh":
        await warm(house, letter * 20)
        await warm(house, letter * 10 + "x")
    whole = await tree_of(house)
    assert (len(whole.nodes), whole.left_out_nodes) == (24, 0)
    cut = await tree_of(house, max_nodes=10)
    assert (len(cut.nodes), cut.left_out_nodes) == (10, 14)
    assert cut.left_out_tokens == cut.tokens - sum(node.tokens for node in cut.nodes)
    assert cut.tokens == whole.tokens
    assert sum(1 for n in cut.nodes if not n.HasField("parent_id")) == 8, "nearest the root first"
    assert not cut.is_partly_counted


async def test_what_is_counted_is_bounded_and_says_so(house, monkeypatch):
    """A look must not cost the streams more the more is cached."""
    for letter in "abcdefgh":
        await warm(house, letter * 20)
    monkeypatch.setattr(inspection, "MAX_NODES", 2)
    monkeypatch.setattr(inspection, "MAX_COUNTED", 3)
    tree = await tree_of(house, max_nodes=1)
    assert (len(tree.nodes), tree.left_out_nodes, tree.is_partly_counted) == (1, 4, True)
    assert (tree.left_out_tokens, tree.tokens) == (80, 100)


async def test_a_tenant_sees_its_own_nodes_only(house):
    await warm(house, TRUNK, "a")
    await warm(house, "other " + TRUNK, "b")
    for tenant in "ab":
        [node] = (await tree_of(house, tenant)).nodes
        assert node.namespace == tenant
    assert not (await tree_of(house, "c")).nodes
    request = pb.GetTreeRequest(all_namespaces=True)
    everybody = (
        await house.tree.GetTree(request, metadata=house.new_key(permissions="inspect,admin"))
    ).tree
    assert {node.namespace for node in everybody.nodes} == {"a", "b"}


async def public_request(house: House, namespace: str):
    """A prompt whose trunk its owner made public, as the service will offer."""
    params = SamplingParams(max_tokens=1, seed=1)
    request = house.built.prompter.encode(TRUNK + namespace, params).request
    request = replace(request, namespace=namespace, num_public_tokens=len(TRUNK))
    async for _ in await house.loop.submit([request]):
        pass


async def test_a_public_node_does_not_tell_how_others_use_it(house):
    for tenant in ("a", "b"):
        await public_request(house, tenant)
    tree = await tree_of(house, "a")
    assert [(n.namespace, n.HasField("use")) for n in tree.nodes] == [("*", False), ("a", True)]
    assert tree.nodes[0].children == 1, "b's branch is b's business"
    request = pb.GetTreeRequest(all_namespaces=True)
    everybody = (
        await house.tree.GetTree(request, metadata=house.new_key(permissions="inspect,admin"))
    ).tree
    public = everybody.nodes[0]
    assert (public.namespace, public.use.hits, public.children) == ("*", 2, 2)


async def test_all_namespaces_need_the_permission(house):
    metadata = house.new_key(permissions="inspect")
    await house.tree.GetTree(pb.GetTreeRequest(), metadata=metadata)
    for call in (
        house.tree.GetTree(pb.GetTreeRequest(all_namespaces=True), metadata=metadata),
        house.tree.GetPlan(pb.GetPlanRequest(all_namespaces=True), metadata=metadata),
        house.tree.WatchTree(pb.WatchTreeRequest(all_namespaces=True), metadata=metadata),
    ):
        assert (
            await error_of(call)
        ).details() == "the permission 'admin' is needed, and the key lacks it"
    blind = house.new_key(permissions="generate,admin")
    error = await error_of(house.tree.GetTree(pb.GetTreeRequest(), metadata=blind))
    assert error.details() == "the permission 'inspect' is needed, and the key lacks it"


async def test_token_ids_are_shown_only_where_the_server_was_told_to(house, options):
    await warm(house, TRUNK)
    assert not (await tree_of(house)).nodes[0].token_ids
    async with running_house(options, show_text=True) as open_house:
        await warm(open_house, TRUNK)
        await warm(open_house, "y" * 500)
        tree = await tree_of(open_house)
    shown = {node.tokens: list(node.token_ids) for node in tree.nodes}
    expected = house.built.prompter.tokenizer.encode(TRUNK)
    assert shown[len(TRUNK)] == expected
    assert len(shown[500]) == 128


BAD = [
    ("max_nodes", 0, "between 1 and 2048, got 0"),
    ("max_nodes", 2049, "between 1 and 2048, got 2049"),
]
BAD_INTERVALS = [
    ("interval_seconds", value, "between 0.1 and 60")
    for value in (0.0, 0.05, -1.0, 61.0, float("nan"), float("inf"))
]


@pytest.mark.parametrize(("field", "value", "text"), BAD + BAD_INTERVALS)
async def test_bad_input_names_field_and_limit(house, field, value, text):
    calls = [house.tree.WatchTree(pb.WatchTreeRequest(**{field: value}))]
    if field == "max_nodes":
        calls.append(house.tree.GetTree(pb.GetTreeRequest(**{field: value})))
    for call in calls:
        error = await error_of(call)
        assert error.code() is CODE.INVALID_ARGUMENT
        assert error.details().startswith(f"{field}: ")
        assert text in error.details()


@pytest.mark.parametrize("method", ["GetTree", "GetPlan"])
async def test_bytes_that_are_no_request_are_refused(house, method):
    call = house.channel.unary_unary(f"/treeserve.v1.TreeService/{method}")
    error = await error_of(call(b"\xff\xff\xff", metadata=house.own_key))
    assert error.code() is CODE.INVALID_ARGUMENT


async def share(house: House, text: str = TRUNK, n: int = 4) -> None:
    """Several samples after one prompt, so that a plan can share it."""
    stopping = generation_pb2.Stopping(max_tokens=8, ignore_eos=True)
    params = generation_pb2.Parameters(stopping=stopping)
    request = generation_pb2.GenerateRequest(text=text, n=n, params=params)
    async for _ in house.generation.Generate(request):
        pass


async def test_the_plan_says_what_was_shared_and_why(house):
    await share(house)
    plan = await house.tree.GetPlan(pb.GetPlanRequest(all_namespaces=True))
    [node] = plan.nodes
    assert (node.start_position, node.end_position, node.rows) == (0, len(TRUNK), 4)
    assert node.is_shared
    assert node.pieces == 1
    assert "4 rows" in node.reason
    assert plan.totals.shared_items == 1
    assert plan.totals.tokens_read < plan.totals.tokens_read_flat
    [in_tree] = [n for n in (await tree_of(house)).nodes if n.id == node.node_id]
    assert in_tree.use.rows == 4


async def test_a_tenant_learns_nothing_of_the_step_as_a_whole(options):
    async with running_house(replace(options, sharing="on")) as house:
        await share(house, TRUNK * 8, n=32)
        mine = await house.tree.GetPlan(pb.GetPlanRequest())
        everybody = await house.tree.GetPlan(pb.GetPlanRequest(all_namespaces=True))
        other = await house.tree.GetPlan(pb.GetPlanRequest(), metadata=house.key_of("x"))
        assert not mine.HasField("totals")
        assert everybody.HasField("totals")
        assert "as a whole:" in everybody.nodes[0].reason
        assert "as a whole:" not in mine.nodes[0].reason
        assert not other.nodes
        await house.check()


def watch(house: House, **request):
    return aiter(house.tree.WatchTree(pb.WatchTreeRequest(interval_seconds=0.1, **request)))


async def test_a_watcher_gets_the_tree_at_once_and_again_when_it_changes(house):
    await warm(house, "first")
    stream = watch(house)
    assert (await anext(stream)).tree.tokens == 5
    await warm(house, "second!")
    assert (await anext(stream)).tree.tokens == 12
    await house.loop.call(lambda engine: engine.scheduler.clear_cache())
    assert (await anext(stream)).tree.tokens == 0


async def test_nothing_is_sent_and_nothing_looked_at_while_nothing_changes(house):
    await warm(house, "first")
    stream = watch(house)
    await anext(stream)
    num_looks = house.backstage.inspection.num_looks
    following = asyncio.ensure_future(anext(stream))
    fast = watch(house)
    await anext(fast)
    for _ in range(3):
        await house.generation.Generate(generation_pb2.GenerateRequest()).code()
    assert not following.done()
    assert house.backstage.inspection.num_looks <= num_looks + 1
    await house.loop.call(lambda engine: None)
    await warm(house, "again")
    assert (await following).tree.tokens == 10


async def test_many_watchers_share_one_look(house):
    await warm(house, "first")
    streams = [watch(house) for _ in range(16)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    assert house.server.side.num_watchers == 16
    before = house.backstage.inspection.num_looks
    following = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await warm(house, "second!")
    trees = [message.tree for message in await asyncio.gather(*following)]
    assert {tree.tokens for tree in trees} <= {5, 12}
    assert house.backstage.inspection.num_looks - before <= 6


async def test_a_slow_watcher_skips_to_the_newest_tree(house):
    """While a message is under way nothing is queued: the stream asks for one at a time."""
    request = pb.WatchTreeRequest(interval_seconds=0.1).SerializeToString()
    record = open_record("WatchTree", ())
    record.identity = Identity(HOME)
    call = Call(record, house.server.side._tree._methods._doors)
    async with aclosing(house.server.side._tree._watch_tree(request, call)) as messages:
        await anext(messages)
        for number in range(10):
            await warm(house, f"{number}" * 3)
        assert (await anext(messages)).tree.tokens == 30


async def test_watchers_that_go_leave_nothing(house, monkeypatch):
    ended = asyncio.Semaphore(0)
    observe = house.metrics.observe_call

    def observe_and_tell(*call: str) -> None:
        observe(*call)
        ended.release()

    monkeypatch.setattr(house.metrics, "observe_call", observe_and_tell)
    streams = [house.tree.WatchTree(pb.WatchTreeRequest(interval_seconds=0.1)) for _ in range(10)]
    for stream in streams:
        await stream.read()
    for stream in streams:
        stream.cancel()
    for _ in streams:
        await asyncio.wait_for(ended.acquire(), 60)
    assert house.server.side.num_watchers == 0


async def test_too_many_watchers_are_refused_with_a_time_to_try_again(house, monkeypatch):
    monkeypatch.setattr(tree_service, "MAX_WATCHERS", 2)
    streams = [watch(house) for _ in range(2)]
    for stream in streams:
        await anext(stream)
    error = await error_of(house.tree.WatchTree(pb.WatchTreeRequest()))
    assert error.code() is CODE.RESOURCE_EXHAUSTED


async def test_one_tenant_cannot_take_all_places_of_watchers(house, monkeypatch):
    monkeypatch.setattr(tree_service, "MAX_WATCHERS_OF_TENANT", 1)
    request = pb.WatchTreeRequest()
    metadata = house.key_of("a")
    mine = house.tree.WatchTree(request, metadata=metadata)
    await mine.read()
    error = await error_of(house.tree.WatchTree(request, metadata=house.key_of("a")))
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    other = house.tree.WatchTree(request, metadata=house.key_of("b"))
    assert (await other.read()).HasField("tree")


async def test_a_drain_does_not_wait_for_watchers_and_ends_them(house):
    await warm(house, "first")
    stream = house.tree.WatchTree(pb.WatchTreeRequest(interval_seconds=60))
    await stream.read()
    assert await house.server.drain()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert caught.value.code() is CODE.UNAVAILABLE
    error = await error_of(house.tree.GetTree(pb.GetTreeRequest()))
    assert error.code() is CODE.UNAVAILABLE


async def test_a_look_that_somebody_gives_up_is_still_the_others(house):
    """Both wait for the same look; one goes away."""
    await warm(house, "first")
    blocked, go_on = threading.Event(), threading.Event()

    def block(engine) -> None:
        blocked.set()
        go_on.wait(120)

    blocking = asyncio.ensure_future(house.loop.call(block))
    await asyncio.to_thread(blocked.wait, 60)
    looking = house.backstage.inspection
    calls = [asyncio.ensure_future(looking.tree(Scope(HOME))) for _ in range(2)]
    await asyncio.sleep(0)
    calls[0].cancel()
    go_on.set()
    await blocking
    assert (await calls[1]).view.num_tokens == 5


async def test_a_call_never_sees_less_than_what_its_caller_saw_happen(house):
    for number in range(20):
        await warm(house, f"{number:05}" * 2)
        seen, other = await asyncio.gather(tree_of(house), tree_of(house))
        leaves = [node for node in seen.nodes if node.children == 0]
        assert len(leaves) == len([n for n in other.nodes if n.children == 0]) == number + 1


async def test_a_long_look_is_followed_by_a_long_time_for_the_streams(house, monkeypatch):
    """Whoever asks, and for whatever: nobody can keep the engine busy with looks."""
    now, pauses = [100.0], []

    def slow_view(*arguments, **options):
        now[0] += 3.0
        return view_tree(*arguments, **options)

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    view_tree = inspection.view_tree
    monkeypatch.setattr(inspection, "view_tree", slow_view)
    monkeypatch.setattr(inspection, "_pause", note)
    looking = inspection.Inspection(house.loop, clock=lambda: now[0], cost_clock=lambda: now[0])
    await looking.tree(Scope(HOME))
    await looking.tree(Scope("another"))
    await looking.plan(Scope(None))
    assert pauses == [0.0, pytest.approx(597.0), pytest.approx(597.0)]

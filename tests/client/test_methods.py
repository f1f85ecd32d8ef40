"""Every method of both clients, against a real server with a tiny model."""

from contextlib import aclosing, closing

import pytest

from treeserve import (
    Chat,
    Delta,
    Finished,
    FinishReason,
    InvalidRequest,
    Message,
    OutputOptions,
    PromptTree,
    RequestOptions,
    SampleName,
    SamplingParams,
)
from treeserve.client import RejectedRequest, RemoteError
from treeserve.types import Progress, Started, TreeFinished

PARAMS = SamplingParams(n=2, max_tokens=8, seed=3, ignore_eos=True, logprobs=1)
LONG = SamplingParams(max_tokens=400, seed=3, ignore_eos=True)
TREE = PromptTree(
    "a trunk that is shared ",
    params=SamplingParams(max_tokens=4, seed=5, ignore_eos=True),
    branches=(PromptTree("one", n=2), PromptTree("two")),
)


def texts(completions) -> list[list[str]]:
    return [[sample.text for sample in completion.samples] for completion in completions]


async def test_collected_samples_are_what_the_stream_tells(both):
    def stream(client):
        with client.generate("abc", PARAMS) as items:
            return list(items)

    async def stream_async(client):
        async with client.generate("abc", PARAMS) as items:
            return [item async for item in items]

    for items in await both.do(stream, stream_async):
        assert isinstance(items[-1], Finished)
    results = await both.same(lambda client: client.generate("abc", PARAMS).collect())
    for [completion] in results:
        assert completion.usage.completion_tokens == 16
        assert completion.started.seed == 3
        for sample in completion.samples:
            own = [i for i in items if isinstance(i, Delta) and i.sample_index == sample.index]
            assert sample.text == "".join(delta.text for delta in own)
            assert sample.token_ids == tuple(t for delta in own for t in delta.token_ids)
            assert len(sample.logprobs) == sample.num_tokens == 8
            assert sample.finish_reason is FinishReason.LENGTH
            assert sample.timings.total_seconds >= sample.timings.first_token_seconds > 0
    assert texts(results[0]) == texts(results[1])


async def test_a_tree_comes_back_node_by_node(both):
    results = await both.same(lambda client: client.generate_tree(TREE).collect())
    for completions in results:
        assert [(c.path, len(c.samples)) for c in completions] == [((0,), 2), ((1,), 1)]
        assert len({c.started.request_id for c in completions}) == 1
    assert texts(results[0]) == texts(results[1])


async def test_the_whole_stream_tells_of_starts_progress_and_the_trees_usage(client, both):
    output = OutputOptions(progress=True, echo=True)
    events = [event async for event in client.generate("abc", PARAMS, output=output).events()]
    assert isinstance(events[0], Started)
    assert events[0].echo.text == "abc"
    assert any(isinstance(event, Progress) for event in events)
    stream = client.generate_tree(TREE)
    events = [event async for event in stream.events()]
    assert isinstance(events[-1], TreeFinished)
    assert stream.tree_usage == events[-1].usage
    assert set(stream.started) == {(0,), (1,)}
    assert stream.request_id == stream.started[(0,)].request_id

    def blocking(client):
        stream = client.generate_tree(TREE)
        with pytest.raises(LookupError, match="has not told of any prompt yet"):
            _ = stream.request_id
        assert isinstance(list(stream.events())[-1], TreeFinished)
        return stream.tree_usage

    async def asynchronous(client):
        return stream.tree_usage

    first, second = await both.do(blocking, asynchronous)
    assert first.completion_tokens == second.completion_tokens == 12


async def test_samples_can_be_forked_after_their_end_and_while_they_run(both):
    def blocking(client):
        [completion] = client.generate("abc", PARAMS).collect()
        sample = completion.samples[1]
        [branched] = sample.fork(at=3, n=2, params=PARAMS).collect()
        [plain] = client.fork(sample.name, at=3, n=2, params=PARAMS).collect()
        with client.generate("abc", LONG) as running:
            next(running)
            [live] = running.sample().fork(at=1, n=1, params=PARAMS).collect()
        return [branched, plain, live]

    async def asynchronous(client):
        [completion] = await client.generate("abc", PARAMS).collect()
        sample = completion.samples[1]
        [branched] = await sample.fork(at=3, n=2, params=PARAMS).collect()
        [plain] = await client.fork(sample.name, at=3, n=2, params=PARAMS).collect()
        async with client.generate("abc", LONG) as running:
            await anext(running)
            [live] = await running.sample().fork(at=1, n=1, params=PARAMS).collect()
        return [branched, plain, live]

    first, second = await both.do(blocking, asynchronous)
    assert texts(first) == texts(second)
    assert texts(first[:1]) == texts(first[1:2])
    assert [len(completion.samples) for completion in first] == [2, 2, 1]
    assert first[0].started.num_prompt_tokens == 3 + 3
    await both.house.check()


async def test_what_has_not_started_has_no_handle(client):
    stream = client.generate("abc", PARAMS)
    with pytest.raises(LookupError, match="has not told of a prompt"):
        stream.sample()
    await stream.aclose()


async def test_an_abort_ends_a_stream_in_good_order(both):
    options = RequestOptions(request_id="mine", priority=3, group="g")

    def blocking(client):
        both.house.held.hold()
        with client.generate("abc", LONG, options=options) as stream:
            next(stream)
            assert client.abort("mine", sample_index=0) == 1
            return list(stream)

    async def asynchronous(client):
        both.house.held.hold()
        async with client.generate("abd", LONG, options=RequestOptions()) as stream:
            await anext(stream)
            assert await client.abort(stream.request_id) == 1
            return [item async for item in stream]

    for items in await both.do(blocking, asynchronous):
        assert items[-2].finish_reason is FinishReason.ABORT
        assert isinstance(items[-1], Finished)


async def test_text_and_tokens(both):
    for token_ids in await both.same(lambda client: client.tokenize("héllo")):
        assert len(token_ids) == len("héllo".encode())
    for text in await both.same(lambda client: client.detokenize(token_ids)):
        assert text == "héllo"
    for plain in await both.same(lambda client: client.tokenize("hé", special_tokens=False)):
        assert plain == token_ids[:3]
    for counts in await both.same(lambda client: client.count_tokens(TREE)):
        trunk = len(TREE.text)
        assert counts.num_tokens == trunk + 6
        assert counts.num_prompt_tokens == {(0,): trunk + 3, (1,): trunk + 3}
        assert counts.num_unshared_tokens == 3 * (trunk + 3)
    for counts in await both.same(lambda client: client.count_tokens((1, 2, 3))):
        assert counts.num_tokens == 3


async def test_health_is_told_without_a_key(both):
    assert await both.same(lambda client: client.is_serving()) == [True, True]
    await both.house.server.drain()
    both.api_key = "of-nobody"
    assert await both.same(lambda client: client.is_serving()) == [False, False]


async def test_prefixes_are_warmed_and_retained(both):
    text = "a prefix that is worth keeping, for a while at least"
    first, second = await both.same(lambda client: client.prefixes.warm(text))
    assert first.num_computed_tokens == first.num_tokens == len(text)
    assert second.num_cached_tokens == len(text)
    kept = await both.same(lambda client: client.prefixes.retain(text, weight=2, ttl_seconds=3600))
    for retained in await both.same(lambda client: client.prefixes.retained()):
        assert [p.retained_id for p in retained.prefixes] == [
            entry.prefixes[0].retained_id for entry in kept
        ]
        assert {p.weight for p in retained.prefixes} == {2}
        assert all(0 < p.seconds_left <= 3600 for p in retained.prefixes)
    ids = [entry.prefixes[0].retained_id for entry in kept]
    await both.same(lambda client: client.prefixes.release(ids.pop()))
    for retained in await both.same(lambda client: client.prefixes.retained()):
        assert retained.prefixes == ()
    with pytest.raises(RemoteError) as caught:
        await both.same(lambda client: client.prefixes.release(77))
    assert caught.value.code == "NOT_FOUND"


async def test_prefixes_are_saved_and_restored(both):
    names = iter(["first", "second"])
    text = "a prefix for the disk"
    for saved in await both.same(lambda client: client.prefixes.save(next(names), text)):
        assert saved.num_bytes > 0
    for saved in await both.same(
        lambda client: client.prefixes.save("first", list(range(1, 9)), overwrite=True)
    ):
        assert saved.name == "first"
    for listed in await both.same(lambda client: client.prefixes.saved()):
        assert [entry.name for entry in listed.prefixes] == ["first", "second"]
        assert listed.num_bytes_left > 0
    for restored in await both.same(lambda client: client.prefixes.restore("second")):
        assert (restored.num_tokens, restored.num_restored_tokens) == (len(text), 0)
    left = ["first", "second"]
    await both.same(lambda client: client.prefixes.delete_saved(left.pop()))
    for listed in await both.same(lambda client: client.prefixes.saved()):
        assert listed.prefixes == ()


async def test_the_tree_and_the_plan_are_seen(both):
    await both.same(lambda client: client.generate("what the tree holds", PARAMS).collect())
    for view in await both.same(lambda client: client.trees.get(all_namespaces=True)):
        assert view.num_tokens >= len("what the tree holds")
        assert view.nodes[0].parent_id is None
        assert view.nodes[0].use.num_hits >= 1
    for view in await both.same(lambda client: client.trees.get(max_nodes=1)):
        assert len(view.nodes) == 1
    for step in await both.same(lambda client: client.trees.plan(all_namespaces=True)):
        assert step.totals.tokens_read_flat >= step.totals.tokens_read > 0
    for step in await both.same(lambda client: client.trees.plan()):
        assert step.totals is None


async def test_what_goes_on_is_told(both):
    await both.same(lambda client: client.generate("counted", PARAMS).collect())
    for seen in await both.same(lambda client: client.trees.activity(all_namespaces=True)):
        assert (seen.calls, seen.num_left_out_calls) == ((), 0)
        assert seen.totals.drawn_tokens == 32
        assert seen.totals.total_pages == 256


async def test_the_tree_is_watched(both):
    def blocking(client):
        with closing(client.trees.watch(interval_seconds=0.1)) as views:
            before = next(views)
            client.prefixes.warm("seen by the first")
            return before, next(views)

    async def asynchronous(client):
        async with aclosing(client.trees.watch(interval_seconds=0.1, max_nodes=9)) as views:
            before = await anext(views)
            await client.prefixes.warm("noticed by the second")
            return before, await anext(views)

    for before, after in await both.do(blocking, asynchronous):
        assert after.num_tokens > before.num_tokens


async def test_a_chat_without_a_template_says_what_is_missing(both):
    chat = Chat((Message("user", "hi"),))
    with pytest.raises(RemoteError) as caught:
        await both.same(lambda client: client.generate(chat).collect())
    assert caught.value.code == "FAILED_PRECONDITION"


async def test_what_the_server_rejects_names_the_field(client):
    with pytest.raises(InvalidRequest) as caught:
        await client.generate("abc", SamplingParams(top_p=2)).collect()
    assert isinstance(caught.value, RejectedRequest)
    assert (caught.value.field, caught.value.code) == ("top_p", "INVALID_ARGUMENT")
    [completion] = await client.generate("abc", PARAMS).collect()
    with pytest.raises(RemoteError) as beyond:
        await completion.samples[0].fork(at=9).collect()
    assert (beyond.value.code, beyond.value.field) == ("OUT_OF_RANGE", "at")
    with pytest.raises(RemoteError) as unknown:
        await client.fork(SampleName("nobody")).collect()
    assert unknown.value.code == "NOT_FOUND"


async def test_values_that_fit_no_message_are_refused_without_a_call(client):
    with pytest.raises(InvalidRequest, match=r"^path\[0\]: is out of range, got -1"):
        await client.abort("r", path=(-1,))
    with pytest.raises(InvalidRequest, match=r"^at: is out of range"):
        client.fork(SampleName("r"), at=-1)
    with pytest.raises(InvalidRequest, match=r"^output: needs params"):
        client.fork(SampleName("r"), output=OutputOptions())
    with pytest.raises(InvalidRequest, match=r"^tree\.output: needs params"):
        client.generate_tree(PromptTree("a", output=OutputOptions()))
    with pytest.raises(InvalidRequest, match=r"^weight: "):
        await client.prefixes.retain("a", weight="heavy")


async def test_closing_a_stream_ends_its_samples(both, monkeypatch):
    engine = both.house.built.engine
    abort = engine.abort
    aborted = []

    def told(*arguments):
        aborted.append(arguments)
        return abort(*arguments)

    monkeypatch.setattr(engine, "abort", told)

    def blocking(client):
        both.house.held.hold()
        stream = client.generate("abc", LONG)
        next(stream)
        stream.close()

    async def asynchronous(client):
        both.house.held.hold()
        stream = client.generate("abc", LONG)
        await anext(stream)
        await stream.aclose()
        await both.house.check()

    await both.do(blocking, asynchronous)
    assert len(aborted) == 2


async def test_a_stream_is_read_once(client):
    stream = client.generate("abc", PARAMS)
    await stream.collect()
    with pytest.raises(RuntimeError, match="has been read already"):
        await stream.collect()
    with pytest.raises(RuntimeError, match="has been read already"):
        await anext(stream)

"""Messages carry what has come; nothing is lost, delayed or reordered."""

import asyncio

import pytest

from treeserve.server.batching import MAX_DELTAS, batched
from treeserve.types import Delta, Finished, Usage

USAGE = Usage(1, 0, 0, 1, 1)


def delta(path: tuple[int, ...], index: int, token_id: int) -> Delta:
    return Delta(path, index, "x", (token_id,))


async def test_what_comes_together_goes_together_by_prompt():
    async def stream():
        yield delta((0,), 0, 1)
        yield delta((1,), 0, 2)
        yield delta((0,), 1, 3)
        yield Finished((0,), USAGE)
        yield Finished((1,), USAGE)

    [batch] = [batch async for batch in batched(stream())]
    first, second = batch
    assert [entry.token_ids for entry in first.deltas] == [(1,), (3,)]
    assert (first.path, first.usage) == ((0,), USAGE)
    assert [entry.token_ids for entry in second.deltas] == [(2,)]


async def test_nothing_waits_for_what_has_not_come():
    release = asyncio.Event()

    async def stream():
        yield delta((), 0, 1)
        await release.wait()
        yield delta((), 0, 2)

    batches = batched(stream())
    [first] = await anext(batches)
    assert len(first.deltas) == 1
    release.set()
    [second] = await anext(batches)
    assert [entry.token_ids for entry in second.deltas] == [(2,)]
    with pytest.raises(StopAsyncIteration):
        await anext(batches)


async def test_a_batch_has_a_largest_size():
    async def stream():
        for token_id in range(MAX_DELTAS + 5):
            yield delta((), 0, token_id)

    sizes = [len(batch[0].deltas) async for batch in batched(stream())]
    assert sizes == [MAX_DELTAS, 5]


async def test_an_error_comes_after_what_came_before_it():
    async def stream():
        yield delta((), 0, 1)
        raise RuntimeError("broken")

    batches = batched(stream())
    assert len(await anext(batches)) == 1
    with pytest.raises(RuntimeError, match="broken"):
        await anext(batches)


async def test_closing_ends_the_stream():
    closed = asyncio.Event()

    async def stream():
        try:
            yield delta((), 0, 1)
            await asyncio.Event().wait()
        finally:
            closed.set()

    batches = batched(stream())
    await anext(batches)
    await batches.aclose()
    assert closed.is_set()

"""Messages carry what has come; nothing is lost, delayed or reordered."""

import asyncio

import pytest

from treeserve.server.batching import MAX_DELTAS, MAX_MESSAGE_BYTES, batched
from treeserve.server.refusals import ReaderTooSlow
from treeserve.server.respond import GenerateWriter
from treeserve.types import (
    Delta,
    Echo,
    Finished,
    OutputOptions,
    PromptLogprobs,
    Started,
    TokenLogprob,
    Usage,
)

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

    async with batched(stream()) as batches:
        [batch] = [batch async for batch in batches]
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

    async with batched(stream()) as batches:
        [first] = await anext(batches)
        assert len(first.deltas) == 1
        release.set()
        [second] = await anext(batches)
        assert [entry.token_ids for entry in second.deltas] == [(2,)]
        with pytest.raises(StopAsyncIteration):
            await anext(batches)


async def test_what_is_held_back_goes_with_the_end_and_the_first_is_not():
    """Though the next message would be due in an hour."""
    release = asyncio.Event()

    async def stream():
        yield delta((), 0, 1)
        await release.wait()
        yield delta((), 0, 2)
        await asyncio.sleep(0)
        yield delta((), 0, 3)
        yield Finished((), USAGE)

    async with batched(stream(), hold_seconds=lambda: 3600) as batches:
        [first] = await anext(batches)
        assert [entry.token_ids for entry in first.deltas] == [(1,)]
        release.set()
        [second] = await anext(batches)
        assert [entry.token_ids for entry in second.deltas] == [(2,), (3,)]
        assert second.usage == USAGE


async def test_a_reader_that_is_held_back_is_cut_off_all_the_same():
    async def stream():
        while True:
            yield delta((), 0, 1)
            await asyncio.sleep(0)

    async def read() -> None:
        async with batched(stream(), 1000, hold_seconds=lambda: 3600) as batches:
            async for _ in batches:
                pass

    with pytest.raises(ReaderTooSlow):
        await read()


async def test_a_batch_has_a_largest_size():
    async def stream():
        for token_id in range(MAX_DELTAS + 5):
            yield delta((), 0, token_id)

    async with batched(stream()) as batches:
        sizes = [len(batch[0].deltas) async for batch in batches]
    assert sizes == [MAX_DELTAS, 5]


async def test_scores_of_a_long_prompt_come_in_messages_that_every_client_takes():
    """All together they are more than the 4 MiB that gRPC clients take by default."""
    top = tuple((100_000 + index, -1.5) for index in range(20))
    told = tuple(TokenLogprob(100_000 + index, -2.5, top, 9) for index in range(1024))

    async def stream():
        for _ in range(16):
            yield PromptLogprobs((), told)

    writer, sizes, token_ids = GenerateWriter(), [], []
    async with batched(stream(), 1 << 30) as batches:
        async for [events] in batches:
            message = writer.write(events)
            sizes.append(message.ByteSize())
            token_ids += [entry.token_id for entry in message.prompt_logprobs]
    assert sum(sizes) > 4 << 20
    assert max(sizes) < 2 * MAX_MESSAGE_BYTES
    assert token_ids == [entry.token_id for entry in told] * 16


async def test_an_error_comes_after_what_came_before_it():
    async def stream():
        yield delta((), 0, 1)
        raise RuntimeError("broken")

    async with batched(stream()) as batches:
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

    async with batched(stream()) as batches:
        await anext(batches)
    assert closed.is_set()


async def test_a_reader_that_takes_nothing_is_interrupted_and_the_stream_closed():
    closed = asyncio.Event()

    async def stream():
        try:
            while True:
                yield delta((), 0, 1)
                await asyncio.sleep(0)
        finally:
            closed.set()

    async def read_one():
        async with batched(stream(), max_bytes=1000) as batches:
            await anext(batches)
            await asyncio.Event().wait()

    with pytest.raises(ReaderTooSlow, match="more than 1000 bytes wait"):
        await read_one()
    assert closed.is_set()
    assert asyncio.current_task().cancelling() == 0


async def test_a_reader_that_takes_all_may_take_more_than_the_bound_in_all():
    async def stream():
        for _ in range(1000):
            yield delta((), 0, 1)
            await asyncio.sleep(0)

    async with batched(stream(), max_bytes=1000) as batches:
        counts = [len(events.deltas) async for batch in batches for events in batch]
    assert sum(counts) == 1000


async def test_a_cancelled_reader_is_cancelled_and_not_slow():
    async def stream():
        yield delta((), 0, 1)
        await asyncio.Event().wait()

    async def read():
        async with batched(stream(), max_bytes=1000) as batches:
            async for _ in batches:
                reading.cancel()

    reading = asyncio.create_task(read())
    with pytest.raises(asyncio.CancelledError):
        await reading


def started(path: tuple[int, ...], num_characters: int) -> Started:
    echo = Echo("x" * num_characters, ())
    return Started(path, "r", 1, num_characters, OutputOptions(echo=True), echo)


async def test_an_echo_larger_than_the_bound_reaches_its_reader():
    async def stream():
        yield delta((), 0, 1)

    first = started((), 5000)
    async with batched(stream(), max_bytes=1000, first=first) as batches:
        told = [events.started async for batch in batches for events in batch]
    assert told[0] is first


async def test_echoes_that_nobody_takes_are_bounded_too():
    async def stream():
        for index in range(10):
            yield started((index,), 400)
        await asyncio.Event().wait()

    async def read():
        async with batched(stream(), max_bytes=1000) as batches:
            await anext(batches)

    with pytest.raises(ReaderTooSlow):
        await read()

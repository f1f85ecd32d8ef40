"""Functions that run in the engine's thread between two steps, and how they end."""

import asyncio
import threading

import pytest

from treeserve.building import BuiltEngine, build_engine
from treeserve.config import EngineOptions
from treeserve.engine import TokenEvent
from treeserve.errors import EngineStopped
from treeserve.loop import EngineLoop
from treeserve.types import SamplingParams


@pytest.fixture
def built(checkpoint_of) -> BuiltEngine:
    return build_engine(EngineOptions(model=str(checkpoint_of("llama")), num_pages=32))


@pytest.fixture
def loop(built):
    loop = EngineLoop(built.engine)
    loop.start()
    yield loop
    loop.stop()


async def test_the_result_comes_from_the_engines_thread(loop, built):
    def where(engine):
        return engine, threading.current_thread().name

    assert await loop.call(where) == (built.engine, "treeserve-engine")


async def test_an_exception_ends_its_caller_and_nobody_else(loop):
    def fail(engine):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await loop.call(fail)
    assert loop.healthy
    assert await loop.call(lambda engine: 5) == 5


async def test_calls_come_between_steps_and_never_in_one(loop, built, monkeypatch):
    inside = threading.Event()
    step = built.engine.step

    def watched():
        inside.set()
        try:
            return step()
        finally:
            inside.clear()

    monkeypatch.setattr(built.engine, "step", watched)
    params = SamplingParams(n=2, max_tokens=60, ignore_eos=True, seed=1)
    stream = await loop.submit([built.prompter.encode("some prompt", params).request])
    found = []
    async for _ in stream:
        found.append(await loop.call(lambda engine: inside.is_set()))
    assert len(found) > 10
    assert not any(found)


async def test_one_whose_caller_went_away_is_not_started(loop):
    blocked, go_on = threading.Event(), threading.Event()
    ran = []

    def block(engine):
        blocked.set()
        go_on.wait(60)

    blocking = asyncio.ensure_future(loop.call(block))
    await asyncio.to_thread(blocked.wait, 60)
    abandoned = asyncio.ensure_future(loop.call(lambda engine: ran.append("abandoned")))
    kept = asyncio.ensure_future(loop.call(lambda engine: ran.append("kept")))
    await asyncio.sleep(0)
    abandoned.cancel()
    await asyncio.wait([abandoned])
    go_on.set()
    await asyncio.gather(blocking, kept)
    assert ran == ["kept"]


async def test_calls_that_a_stop_overtakes_end_with_engine_stopped(loop):
    blocked, go_on = threading.Event(), threading.Event()

    def block(engine):
        blocked.set()
        go_on.wait(60)
        return "done"

    first = asyncio.ensure_future(loop.call(block))
    await asyncio.to_thread(blocked.wait, 60)
    stopping = asyncio.ensure_future(asyncio.to_thread(loop.stop))
    while loop._inbox.empty():
        await asyncio.sleep(0)
    late = [asyncio.ensure_future(loop.call(lambda engine: 1)) for _ in range(3)]
    await asyncio.sleep(0)
    go_on.set()
    await stopping
    assert await first == "done"
    for call in late:
        with pytest.raises(EngineStopped):
            await call
    with pytest.raises(EngineStopped):
        await loop.call(lambda engine: 1)


async def test_an_engine_that_fails_ends_calls_too(loop, built, monkeypatch):
    def broken():
        raise RuntimeError("beyond repair")

    monkeypatch.setattr(built.engine, "step", broken)
    params = SamplingParams(max_tokens=2, seed=1)
    stream = await loop.submit([built.prompter.encode("p", params).request])
    async for _ in stream:
        pass
    with pytest.raises(EngineStopped):
        await loop.look(lambda engine: 1)


async def test_a_loop_that_never_started_takes_no_calls(built):
    with pytest.raises(EngineStopped):
        await EngineLoop(built.engine).call(lambda engine: 1)


async def test_calls_are_answered_while_the_engine_drains(loop):
    assert await loop.drain(60)
    assert await loop.call(lambda engine: engine.has_work()) is False


async def test_looks_are_no_changes_and_everything_else_is(loop, built):
    before = loop.num_changes
    await loop.look(lambda engine: None)
    assert loop.num_changes == before
    await loop.call(lambda engine: None)
    assert loop.num_changes == before + 1
    params = SamplingParams(max_tokens=2, seed=1)
    async for _ in await loop.submit([built.prompter.encode("p", params).request]):
        pass
    assert loop.num_changes > before + 2


@pytest.fixture
def overlapping(checkpoint_of) -> BuiltEngine:
    model = str(checkpoint_of("llama"))
    return build_engine(EngineOptions(model=model, num_pages=32, overlap="on"))


def request_of(built: BuiltEngine, max_tokens: int):
    params = SamplingParams(n=2, max_tokens=max_tokens, ignore_eos=True, seed=1)
    return built.prompter.encode("some prompt", params).request


def test_the_tree_is_out_of_reach_while_a_step_is_unread(overlapping):
    engine = overlapping.engine
    engine.add(request_of(overlapping, 5))
    events, numbers = engine.step()
    assert (events, numbers) == ([], None), "the first step is on its way"
    with pytest.raises(RuntimeError, match="step 0 has not been read: settle the engine first"):
        engine.scheduler.insides()
    events, numbers = engine.settle()
    assert [event.sample_index for event in events] == [0, 1]
    assert numbers.num_drawn == 2
    assert engine.scheduler.insides()[0].segments()
    assert engine.settle() == ([], None), "what was told is told once"
    engine.abort_all()
    engine.scheduler.check()


async def test_a_call_finds_every_token_read_and_told_and_loses_none(overlapping):
    numbers, found = [], []
    loop = EngineLoop(overlapping.engine, numbers.append)
    loop.start()
    try:
        events = []
        async for batch in await loop.submit([request_of(overlapping, 60)]):
            events += batch
            found.append(await loop.call(lambda engine: engine.scheduler.insides()[0].clock()))
        tokens = [event for event in events if isinstance(event, TokenEvent)]
        assert len(found) > 10
        assert len(tokens) == sum(step.num_drawn for step in numbers) == 120
        drawn = [[t.token_id for t in tokens if t.sample_index == index] for index in range(2)]
    finally:
        loop.stop()
    overlapping.engine.scheduler.check()
    assert drawn == alone(overlapping)


def alone(built: BuiltEngine) -> list[list[int]]:
    """What the same request draws while nobody calls."""
    built.engine.add(request_of(built, 60))
    drawn: list[list[int]] = [[], []]
    while built.engine.has_work():
        for event in built.engine.step()[0]:
            if isinstance(event, TokenEvent):
                drawn[event.sample_index].append(event.token_id)
    return drawn


async def test_an_engine_that_cannot_read_its_last_step_leaves_no_caller_waiting(
    overlapping, monkeypatch
):
    def broken():
        raise RuntimeError("beyond repair")

    monkeypatch.setattr(overlapping.engine, "settle", broken)
    loop = EngineLoop(overlapping.engine)
    loop.start()
    try:
        with pytest.raises(EngineStopped):
            await loop.call(lambda engine: "never reached")
    finally:
        loop.stop()
    assert loop._failed.is_set()

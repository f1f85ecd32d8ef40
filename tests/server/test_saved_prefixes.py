"""Prefixes saved and restored draw what computed ones do, over a real socket."""

import asyncio
import math
import threading
from dataclasses import replace

import grpc
import pytest
import torch
from server.side_house import PAGE, clear, error_of, kv_of, prefix, running_house

from treeserve.config import EngineOptions
from treeserve.pb import prefix_pb2 as pb

TEXT = "What many prompts begin with is computed once and kept for all of them. " * 3
CODE = grpc.StatusCode


@pytest.fixture
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(model=str(checkpoint_of("llama")), num_pages=64, page_size=PAGE)


@pytest.fixture
async def house(options, tmp_path):
    async with running_house(options, tmp_path / "saved") as running:
        yield running


async def test_a_restored_prefix_is_the_computed_one_bit_for_bit_and_continues_alike(house):
    expected, _ = await house.generate(TEXT + "so")
    await clear(house)
    saved = await house.prefix.Save(pb.SaveRequest(name="trunk", prefix=prefix(TEXT)))
    assert saved.computed_tokens == len(TEXT)
    before = await kv_of(house, TEXT)
    await clear(house)
    assert [len(layer.k) for layer in await kv_of(house, TEXT)] == [0, 0]
    restored = await house.prefix.Restore(pb.RestoreRequest(name="trunk"))
    assert (restored.tokens, restored.restored_tokens) == (len(TEXT), len(TEXT))
    after = await kv_of(house, TEXT)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old.k, new.k)
        assert torch.equal(old.v, new.v)
    await house.check()
    tokens, usage = await house.generate(TEXT + "so")
    assert tokens == expected
    assert (usage.cached_tokens, usage.computed_tokens) == (len(TEXT), 2)
    await house.check()


async def test_the_restored_prefix_itself_can_be_continued(house):
    """The logits after its last token were not saved: one row finds them again."""
    expected, _ = await house.generate(TEXT)
    await house.prefix.Save(pb.SaveRequest(name="trunk", prefix=prefix(TEXT)))
    await clear(house)
    await house.prefix.Restore(pb.RestoreRequest(name="trunk"))
    tokens, _ = await house.generate(TEXT)
    assert tokens == expected
    await house.check()


async def test_a_prefix_survives_the_server(options, tmp_path):
    async with running_house(options, tmp_path) as first:
        expected, _ = await first.generate(TEXT + "so")
        await first.prefix.Save(pb.SaveRequest(name="trunk", prefix=prefix(TEXT)))
    async with running_house(options, tmp_path) as second:
        [entry] = (await second.prefix.ListSaved(pb.ListSavedRequest())).saved
        assert entry.name == "trunk"
        await second.prefix.Restore(pb.RestoreRequest(name="trunk"))
        tokens, usage = await second.generate(TEXT + "so")
        assert (tokens, usage.cached_tokens) == (expected, len(TEXT))
        await second.check()


async def test_the_embedded_models_prefix_comes_back_and_draws_the_same(tmp_path):
    options = EngineOptions(num_pages=64, page_size=PAGE)
    text = "Read a line of numbers and print the largest. " * 4
    async with running_house(options, tmp_path) as house:
        expected, _ = await house.generate(text + "Then", max_tokens=40)
        await house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(text)))
        before = await kv_of(house, text)
        await clear(house)
        restored = await house.prefix.Restore(pb.RestoreRequest(name="n"))
        after = await kv_of(house, text)
        assert len(after[0].k) == restored.restored_tokens > 0
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old.k, new.k)
            assert torch.equal(old.v, new.v)
        tokens, usage = await house.generate(text + "Then", max_tokens=40)
        assert tokens == expected
        assert usage.cached_tokens > 0.9 * usage.prompt_tokens
        await house.check()


@pytest.mark.parametrize("held", [1, PAGE, PAGE + 5, len(TEXT) - 1, len(TEXT)])
async def test_only_what_the_tree_does_not_hold_is_restored(house, held):
    expected, _ = await house.generate(TEXT + "so")
    await house.prefix.Save(pb.SaveRequest(name="trunk", prefix=prefix(TEXT)))
    await clear(house)
    await house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT[:held])))
    restored = await house.prefix.Restore(pb.RestoreRequest(name="trunk"))
    assert restored.restored_tokens == len(TEXT) - held
    await house.check()
    assert (await house.generate(TEXT + "so"))[0] == expected


async def test_a_restore_into_a_branching_tree_splits_and_copies_nothing_twice(house):
    await house.prefix.Save(pb.SaveRequest(name="trunk", prefix=prefix(TEXT)))
    await clear(house)
    expected, _ = await house.generate(TEXT[:50] + "other")
    assert (await house.prefix.Restore(pb.RestoreRequest(name="trunk"))).restored_tokens == (
        len(TEXT) - 50
    )
    await house.check()
    tokens, usage = await house.generate(TEXT[:50] + "other")
    assert (tokens, usage.computed_tokens) == (expected, 0)


async def test_prefixes_are_restored_while_others_are_computed_and_drawn(house):
    """What is in flight is computed in between, by steps; no page has two owners."""
    texts = [TEXT[:80] + letter * 40 for letter in "abc"]
    expected = [(await house.generate(text))[0] for text in texts]
    for number, text in enumerate(texts):
        await house.prefix.Save(pb.SaveRequest(name=f"t{number}", prefix=prefix(text)))
    for _ in range(4):
        await clear(house)
        restores = [house.prefix.Restore(pb.RestoreRequest(name=f"t{n}")) for n in range(3)]
        draws = [house.generate(text) for text in texts]
        found = await asyncio.gather(*draws, *restores)
        assert [tokens for tokens, _ in found[:3]] == expected
        await house.check()


async def test_a_prefix_that_is_being_computed_is_waited_for(options, tmp_path, monkeypatch):
    """Nothing computed may hang beneath what is pending; and what others compute is not lost."""
    slow = replace(options, token_budget=PAGE)
    async with running_house(slow, tmp_path) as house:
        expected, _ = await house.generate(TEXT + "so")
        await house.prefix.Save(pb.SaveRequest(name="trunk", prefix=prefix(TEXT)))
        await clear(house)
        computing, asked = asyncio.Event(), threading.Event()
        step, call = house.built.engine.step, house.loop.call
        loop = asyncio.get_running_loop()

        def step_and_wait():
            events = step()
            loop.call_soon_threadsafe(computing.set)
            asked.wait(120)
            return events

        async def call_and_tell(function):
            calling = asyncio.ensure_future(call(function))
            await asyncio.sleep(0)
            asked.set()
            return await calling

        with monkeypatch.context() as patch:
            patch.setattr(house.built.engine, "step", step_and_wait)
            patch.setattr(house.loop, "call", call_and_tell)
            drawing = asyncio.ensure_future(house.generate(TEXT + "so"))
            await computing.wait()
            restored = await house.prefix.Restore(pb.RestoreRequest(name="trunk"))
            tokens, usage = await drawing
        assert (restored.tokens, restored.restored_tokens) == (len(TEXT), 0)
        assert tokens == expected
        assert usage.computed_tokens + usage.shared_in_flight_tokens == len(TEXT) + 2
        await house.check()


async def test_a_restore_that_does_not_fit_takes_no_page(options, tmp_path):
    async with running_house(options, tmp_path) as house:
        await house.prefix.Save(pb.SaveRequest(name="trunk", prefix=prefix(TEXT)))
    small = EngineOptions(model=options.model, num_pages=8, page_size=PAGE)
    async with running_house(small, tmp_path) as house:
        await house.generate("kept")
        error = await error_of(house.prefix.Restore(pb.RestoreRequest(name="trunk")))
        assert error.code() is CODE.RESOURCE_EXHAUSTED
        assert f"needs {math.ceil(len(TEXT) / PAGE)} pages" in error.details()
        assert "of 8 can be had" in error.details()
        await house.check()
        _, usage = await house.generate("kept")
        assert usage.cached_tokens == 4, "nothing was evicted for a restore that could not be"


async def test_a_write_that_fails_leaves_no_token_behind(house, monkeypatch):
    await house.prefix.Save(pb.SaveRequest(name="trunk", prefix=prefix(TEXT)))
    await clear(house)

    def fail(slots, layers):
        raise RuntimeError("the device is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(house.built.kv_cache, "write_slots", fail)
        error = await error_of(house.prefix.Restore(pb.RestoreRequest(name="trunk")))
    assert error.code() is CODE.INTERNAL
    await house.check()
    assert house.scheduler.counts().used_pages == 0
    await house.prefix.Restore(pb.RestoreRequest(name="trunk"))


async def test_a_prefix_evicted_while_it_is_read_is_computed_again(house, monkeypatch):
    tokens = "x" * 700
    read = house.built.kv_cache.read_slots
    reads = []

    def read_and_lose(slots):
        reads.append(len(slots))
        found = read(slots)
        if len(reads) == 1:
            house.scheduler.clear_cache()
        return found

    monkeypatch.setattr(house.built.kv_cache, "read_slots", read_and_lose)
    saved = await house.prefix.Save(pb.SaveRequest(name="long", prefix=prefix(tokens)))
    assert saved.computed_tokens == 1400
    assert reads == [512, 512, 188]
    await house.check()


async def test_a_prefix_that_cannot_be_kept_long_enough_to_be_read_is_given_up(house, monkeypatch):
    read = house.built.kv_cache.read_slots

    def read_and_lose(slots):
        found = read(slots)
        house.scheduler.clear_cache()
        return found

    monkeypatch.setattr(house.built.kv_cache, "read_slots", read_and_lose)
    error = await error_of(house.prefix.Save(pb.SaveRequest(name="l", prefix=prefix("x" * 700))))
    assert error.code() is CODE.FAILED_PRECONDITION
    assert "evicted again and again" in error.details()
    assert not (await house.prefix.ListSaved(pb.ListSavedRequest())).saved
    await house.check()


@pytest.mark.parametrize("other_backend", ["reference", "triton"])
async def test_a_prefix_saved_by_one_backend_is_read_by_another(house, options, other_backend):
    await house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT[:60])))
    expected, _ = await house.generate(TEXT[:62], max_tokens=3)
    other = EngineOptions(model=options.model, num_pages=16, page_size=PAGE, backend=other_backend)
    async with running_house(other, house.folder) as second:
        restored = await second.prefix.Restore(pb.RestoreRequest(name="n"))
        assert restored.restored_tokens == 60
        tokens, usage = await second.generate(TEXT[:62], max_tokens=3)
        assert (tokens, usage.cached_tokens) == (expected, 60)
        await second.check()

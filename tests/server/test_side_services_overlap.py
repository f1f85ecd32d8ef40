"""The services beside generation on an engine whose steps overlap, while streams are drawn."""

import asyncio
from dataclasses import replace

import pytest
from server.side_house import PAGE, clear, kv_of, prefix, running_house

from treeserve.config import EngineOptions
from treeserve.pb import admin_pb2, tree_pb2
from treeserve.pb import prefix_pb2 as pb

TEXT = "What many prompts begin with is computed once and kept for all of them. "


@pytest.fixture
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(
        model=str(checkpoint_of("llama")), num_pages=96, page_size=PAGE, dtype="float32"
    )


@pytest.fixture
async def house(options, tmp_path):
    async with running_house(replace(options, overlap="on"), tmp_path) as running:
        yield running


async def drawn(options: EngineOptions, texts: list[str]) -> list[list[int]]:
    """What an engine without overlap draws, alone and with an empty cache."""
    async with running_house(replace(options, overlap="off")) as plain:
        return [(await plain.generate(text, max_tokens=60))[0] for text in texts]


async def use_everything(house) -> None:
    for number in range(6):
        await house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT + str(number))))
        save = pb.SaveRequest(name="trunk", prefix=prefix(TEXT), overwrite=True)
        saved = await house.prefix.Save(save)
        assert saved.saved.name == "trunk"
        await house.admin.ClearCache(admin_pb2.ClearCacheRequest())
        restored = await house.prefix.Restore(pb.RestoreRequest(name="trunk"))
        assert restored.tokens == len(TEXT)
        tree = (await house.tree.GetTree(tree_pb2.GetTreeRequest())).tree
        assert tree.tokens >= len(TEXT)
        await house.tree.GetPlan(tree_pb2.GetPlanRequest())
        status = await house.admin.GetStatus(admin_pb2.GetStatusRequest())
        assert status.counts["total_pages"] == 96


async def test_streams_draw_the_same_tokens_whatever_the_services_do_between_steps(house, options):
    texts = [TEXT + letter for letter in "abc"]
    expected = await drawn(options, texts)
    draws = [house.generate(text, max_tokens=60) for text in texts]
    *found, _ = await asyncio.gather(*draws, use_everything(house))
    assert [tokens for tokens, _ in found] == expected
    await house.check()


async def test_a_prefix_saved_beside_a_stream_is_the_one_that_is_computed_alone(house, options):
    await house.prefix.Save(pb.SaveRequest(name="alone", prefix=prefix(TEXT)))
    alone = await kv_of(house, TEXT)
    await clear(house)
    drawing = asyncio.ensure_future(house.generate(TEXT + "x", max_tokens=200))
    await house.prefix.Save(pb.SaveRequest(name="beside", prefix=prefix(TEXT)))
    await drawing
    await clear(house)
    for name in ("alone", "beside"):
        await house.prefix.Restore(pb.RestoreRequest(name=name))
        for computed, restored in zip(alone, await kv_of(house, TEXT), strict=True):
            assert computed.k.allclose(restored.k, atol=1e-5)
            assert computed.v.allclose(restored.v, atol=1e-5)
        await clear(house)
    await house.check()

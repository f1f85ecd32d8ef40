"""Prefixes warmed and retained, over a real socket and a tiny random model."""

import asyncio
import math

import grpc
import pytest
from server.side_house import PAGE, error_of, prefix, running_house

from treeserve.config import EngineOptions
from treeserve.errors import EngineStopped
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


async def test_a_warmed_prefix_is_cached_for_those_who_begin_with_it(house):
    warmed = await house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT)))
    assert (warmed.tokens, warmed.cached_tokens, warmed.computed_tokens) == (
        len(TEXT),
        0,
        len(TEXT),
    )
    again = await house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT)))
    assert (again.cached_tokens, again.computed_tokens) == (len(TEXT), 0)
    _, usage = await house.generate(TEXT + "and more")
    assert usage.cached_tokens == len(TEXT)
    assert usage.computed_tokens == len("and more")
    await house.check()


async def test_nobody_finds_what_another_tenant_has_warmed(house):
    metadata = house.new_key("a")
    await house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT)), metadata=metadata)
    warmed = await house.prefix.Warm(
        pb.WarmRequest(prefix=prefix(TEXT)), metadata=house.new_key("b")
    )
    assert warmed.computed_tokens == len(TEXT)
    await house.check()


async def test_a_retained_prefix_outlives_what_is_used_as_much(house):
    retain = pb.RetainRequest(prefix=prefix(TEXT), weight=20, ttl_seconds=10_000)
    await house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT)))
    await house.prefix.Retain(retain)
    for letter in "abcdefgh":
        await house.generate(letter * 300)
    _, usage = await house.generate(TEXT)
    assert usage.cached_tokens == len(TEXT)
    await house.check()


async def test_what_is_retained_is_listed_and_released_by_its_owner_alone(house):
    await house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT)))
    made = await house.prefix.Retain(pb.RetainRequest(prefix=prefix(TEXT), weight=3))
    assert (made.retained.tokens, made.retained.held_tokens) == (len(TEXT), len(TEXT))
    assert made.budget_left_tokens == 64 * PAGE // 2 - len(TEXT)
    other = house.new_key("other")
    assert not (await house.prefix.ListRetained(pb.ListRetainedRequest(), metadata=other)).retained
    release = pb.ReleaseRequest(id=made.retained.id)
    error = await error_of(house.prefix.Release(release, metadata=other))
    assert error.code() is CODE.NOT_FOUND
    [listed] = (await house.prefix.ListRetained(pb.ListRetainedRequest())).retained
    assert (listed.id, listed.weight) == (made.retained.id, 3)
    assert 0 < listed.seconds_left <= 600
    await house.prefix.Release(release)
    assert (await error_of(house.prefix.Release(release))).code() is CODE.NOT_FOUND
    left = await house.prefix.ListRetained(pb.ListRetainedRequest())
    assert (list(left.retained), left.budget_left_tokens) == ([], 64 * PAGE // 2)
    await house.check()


async def test_a_retention_whose_time_is_over_is_not_listed_though_no_step_came(house):
    request = pb.RetainRequest(prefix=prefix(TEXT), ttl_seconds=1e-9)
    await house.prefix.Retain(request)
    assert not (await house.prefix.ListRetained(pb.ListRetainedRequest())).retained
    await house.check()


async def test_retaining_more_than_the_budget_says_what_is_left(house):
    texts = [letter * 300 for letter in "ab"]
    for text in texts:
        await house.prefix.Warm(pb.WarmRequest(prefix=prefix(text)))
    await house.prefix.Retain(pb.RetainRequest(prefix=prefix(texts[0])))
    error = await error_of(house.prefix.Retain(pb.RetainRequest(prefix=prefix(texts[1]))))
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    assert f"{64 * PAGE // 2 - 300} tokens could still be retained" in error.details()
    await house.check()


BAD_PREFIXES = [
    (pb.Prefix(), "prefix: must be given"),
    (prefix(""), "prefix: must not be empty"),
    (prefix([]), "prefix: must not be empty"),
    (prefix([5, 320]), r"prefix[1]: "),
    (prefix("x" * 1024), "prefix: has 1024 tokens; the model takes at most 1023"),
]


@pytest.mark.parametrize(("bad", "text"), BAD_PREFIXES)
async def test_a_bad_prefix_is_named(house, bad, text):
    for call in (
        house.prefix.Warm(pb.WarmRequest(prefix=bad)),
        house.prefix.Retain(pb.RetainRequest(prefix=bad)),
        house.prefix.Save(pb.SaveRequest(name="n", prefix=bad)),
    ):
        error = await error_of(call)
        assert error.code() is CODE.INVALID_ARGUMENT
        assert error.details().startswith(text)
    await house.check()


async def test_a_prefix_longer_than_the_pool_is_named(options, tmp_path):
    small = EngineOptions(model=options.model, num_pages=8, page_size=PAGE)
    async with running_house(small, tmp_path) as house:
        for call in (
            house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT))),
            house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT))),
        ):
            error = await error_of(call)
            assert error.code() is CODE.INVALID_ARGUMENT
            assert error.details().startswith("prefix: ")
        await house.check()


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [("weight", v, "at most 1000") for v in (0.0, -1.0, 1001.0, math.inf, math.nan)]
    + [("ttl_seconds", v, "at most 604800") for v in (0.0, -1.0, 604801.0, math.inf, math.nan)],
)
async def test_a_bad_retention_is_named(house, field, value, limit):
    call = house.prefix.Retain(pb.RetainRequest(prefix=prefix(TEXT), **{field: value}))
    error = await error_of(call)
    assert error.code() is CODE.INVALID_ARGUMENT
    assert error.details().startswith(f"{field}: ")
    assert limit in error.details()


async def test_text_that_is_not_utf8_is_named(house):
    warm = house.channel.unary_unary("/treeserve.v1.PrefixService/Warm")
    error = await error_of(warm(b"\x0a\x03\x0a\x01\xff", metadata=house.own_key))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert error.details().startswith("prefix.text: must be valid UTF-8")


async def test_without_a_folder_nothing_can_be_saved(options):
    async with running_house(options) as house:
        for call in (
            house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT))),
            house.prefix.Restore(pb.RestoreRequest(name="n")),
            house.prefix.ListSaved(pb.ListSavedRequest()),
            house.prefix.DeleteSaved(pb.DeleteSavedRequest(name="n")),
        ):
            error = await error_of(call)
            assert error.code() is CODE.FAILED_PRECONDITION
            assert "--prefix-folder" in error.details()


async def test_a_caller_without_the_permission_gets_nothing(house):
    metadata = house.new_key(permissions="generate,inspect")
    for call in (
        house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT)), metadata=metadata),
        house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT)), metadata=metadata),
        house.prefix.ListSaved(pb.ListSavedRequest(), metadata=metadata),
    ):
        assert (
            await error_of(call)
        ).details() == "the permission 'retain' is needed, and the key lacks it"
    assert house.scheduler.counts().used_pages == 0


async def test_a_step_that_fails_ends_the_call_and_nothing_is_saved(house, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("the device is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(house.built.engine._runner, "launch", fail)
        for call in (
            house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT))),
            house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT))),
        ):
            assert (await error_of(call)).code() is CODE.INTERNAL
    assert not [file for file in house.folder.rglob("*") if file.is_file()]
    await house.check()
    await house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT)))


async def test_a_cancelled_call_leaves_nothing_behind(house):
    for _ in range(5):
        call = house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT)))
        await asyncio.sleep(0)
        call.cancel()
        save = house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT), overwrite=True))
        await asyncio.sleep(0)
        save.cancel()
    await house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT), overwrite=True))
    assert [file.name for file in house.folder.rglob("*") if file.is_file()] == ["n.safetensors"]
    await house.check()


async def test_a_stopped_engine_ends_calls_with_a_status_to_try_again(house):
    house.loop.stop()
    with pytest.raises(EngineStopped):
        await house.loop.call(lambda engine: None)
    for call in (
        house.prefix.Warm(pb.WarmRequest(prefix=prefix(TEXT))),
        house.prefix.ListRetained(pb.ListRetainedRequest()),
    ):
        assert (await error_of(call)).code() is CODE.UNAVAILABLE

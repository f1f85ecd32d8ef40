"""Which calls run and what the engine has done, as GetActivity tells it over a real socket."""

import grpc
import pytest
from server.side_house import HOME, error_of, running_house

from treeserve.config import EngineOptions
from treeserve.pb import generation_pb2
from treeserve.pb import tree_pb2 as pb

CODE = grpc.StatusCode
LONG = generation_pb2.Parameters(stopping=generation_pb2.Stopping(max_tokens=400, ignore_eos=True))


@pytest.fixture
async def house(checkpoint_of):
    options = EngineOptions(model=str(checkpoint_of("llama")), num_pages=256, page_size=16)
    async with running_house(options) as running:
        yield running


async def activity(house, tenant: str = HOME, **request):
    call = house.tree.GetActivity(pb.GetActivityRequest(**request), metadata=house.key_of(tenant))
    return await call


async def test_a_call_is_listed_while_it_runs_and_no_longer(house):
    metadata = (*house.key_of(HOME), ("x-request-id", "mine"))
    request = generation_pb2.GenerateRequest(text="a long one", params=LONG)
    async with house.held.standing():
        call = house.generation.Generate(request, metadata=metadata)
        while not (await call.read()).samples:
            pass
        [running] = (await activity(house)).calls
    assert (running.call_id, running.namespace, running.method) == ("mine", HOME, "Generate")
    assert running.drawn_tokens >= 1
    assert 0 < running.first_token_seconds <= running.age_seconds
    call.cancel()
    await house.calls_have_ended(60)
    assert not (await activity(house)).calls


async def test_other_tenants_calls_are_theirs(house):
    request = generation_pb2.GenerateRequest(text="a secret", params=LONG)
    async with house.held.standing():
        call = house.generation.Generate(request, metadata=house.key_of("other"))
        await call.read()
        assert not (await activity(house)).calls
        seen = await activity(house, all_namespaces=True)
        assert [each.namespace for each in seen.calls] == ["other"]
        cut = await activity(house, all_namespaces=True, max_calls=0)
        assert (len(cut.calls), cut.left_out_calls) == (0, 1)
    call.cancel()
    await house.calls_have_ended(60)


async def test_totals_grow_with_what_is_computed_and_drawn(house):
    before = (await activity(house)).totals
    tokens, usage = await house.generate("what is counted", max_tokens=12)
    after = (await activity(house)).totals
    assert after.drawn_tokens - before.drawn_tokens == len(tokens)
    assert after.computed_tokens - before.computed_tokens == usage.computed_tokens
    assert after.prompt_rows - before.prompt_rows == usage.computed_tokens
    assert after.steps > before.steps
    assert after.at_seconds > before.at_seconds
    assert after.step_seconds > before.step_seconds
    assert after.kv_tokens_read_flat >= after.kv_tokens_read > 0
    assert after.total_pages == 256


async def test_everybodys_calls_need_the_permission_admin(house):
    key = house.new_key(HOME, "inspect")
    request = pb.GetActivityRequest(all_namespaces=True)
    error = await error_of(house.tree.GetActivity(request, metadata=key))
    assert error.code() is CODE.PERMISSION_DENIED


async def test_too_long_a_list_is_refused_by_name(house):
    error = await error_of(house.tree.GetActivity(pb.GetActivityRequest(max_calls=1001)))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert error.details() == "max_calls: must be between 0 and 1000, got 1001"

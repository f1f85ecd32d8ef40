"""A client that knows nothing but reflection lists and calls the service."""

import asyncio

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVICE = "treeserve.v1.GenerationService"


class Stranger:
    """Knows an address, and learns the rest."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = DescriptorPool(self.database)

    def methods(self, service: str) -> list[str]:
        return [method.name for method in self._pool.FindServiceByName(service).methods]

    def call(self, name: str, metadata, **fields):
        method = self._pool.FindServiceByName(SERVICE).FindMethodByName(name)
        make = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        request = GetMessageClass(method.input_type)(**fields)
        return make(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )(request, metadata=metadata, timeout=60)


@pytest.fixture
def stranger(both):
    with grpc.insecure_channel(both.address) as channel:
        yield Stranger(channel)


async def in_thread(call, *arguments, **named):

    return await asyncio.to_thread(call, *arguments, **named)


async def test_it_lists_every_service_and_method_without_a_key(stranger):
    services = await in_thread(lambda: sorted(stranger.database.get_services()))
    own = [name for name in services if name.startswith("treeserve.v1.")]
    assert own == [
        "treeserve.v1.GenerationService",
        "treeserve.v1.ModuleService",
        "treeserve.v1.PrefixService",
        "treeserve.v1.TreeService",
    ]
    listed = {name: await in_thread(stranger.methods, name) for name in own}
    assert [len(methods) for methods in listed.values()] == [7, 9, 8, 4]


async def test_it_generates_and_aborts(stranger, house):
    params = {"stopping": {"max_tokens": 5, "ignore_eos": True}, "sampling": {"seed": 1}}

    def draw():
        return list(stranger.call("Generate", house.own_key, text="abc", n=3, params=params))

    messages = await in_thread(draw)
    assert messages[0].started.prompt_tokens == 3
    assert messages[-1].usage.completion_tokens == 15
    drawn = {index: 0 for index in range(3)}
    for message in messages:
        for sample in message.samples:
            drawn[sample.index] += len(sample.token_ids)
    assert drawn == {0: 5, 1: 5, 2: 5}
    request_id = messages[0].started.request_id
    answer = await in_thread(stranger.call, "Abort", house.own_key, request_id=request_id)
    assert answer.ended_samples == 0
    answer = await in_thread(stranger.call, "Tokenize", house.own_key, text="abc")
    assert len(answer.token_ids) == 3


async def test_it_is_told_which_field_is_wrong(stranger, house):
    def draw():
        with pytest.raises(grpc.RpcError) as caught:
            list(stranger.call("Generate", house.own_key, text="abc", n=0))
        return caught.value

    error = await in_thread(draw)
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    bad_request = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(details).details[0].Unpack(bad_request)
    assert bad_request.field_violations[0].field == "n"

"""Bytes of any kind, to every method: each call ends with a status of its own, nothing is kept."""

import asyncio
import random

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from server.side_house import PAGE, running_house

from treeserve.config import EngineOptions
from treeserve.pb import module_pb2, prefix_pb2, tree_pb2

CODE = grpc.StatusCode
METHODS = [
    method
    for module in (prefix_pb2, tree_pb2, module_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
EXPECTED = {
    CODE.OK,
    CODE.INVALID_ARGUMENT,
    CODE.NOT_FOUND,
    CODE.ALREADY_EXISTS,
    CODE.FAILED_PRECONDITION,
    CODE.RESOURCE_EXHAUSTED,
    CODE.DEADLINE_EXCEEDED,
}
_STRINGS = ["", "a", "a" * 2000, "../..", "\0", "name", "ä€𝄞"]
_NUMBERS = [0, 1, 2, 255, 319, 320, 2049, 2**31 - 1]
_REALS = [0.0, 0.1, 1.0, 60.0, -1.0, 1e300, float("nan"), float("inf")]


def any_message(message_class: type[Message], chance: random.Random) -> Message:
    message = message_class()
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.3:
            continue
        if field.message_type is not None:
            inner = any_message(GetMessageClass(field.message_type), chance)
            getattr(message, field.name).CopyFrom(inner)
        elif field.is_repeated:
            is_text = field.type == FieldDescriptor.TYPE_STRING
            values = _STRINGS if is_text else _NUMBERS
            some = chance.choices(values, k=chance.choice([0, 1, 5, 2000]))
            getattr(message, field.name).extend(some)
        else:
            setattr(message, field.name, any_value(field, chance))
    return message


def any_value(field: FieldDescriptor, chance: random.Random):
    if field.type == FieldDescriptor.TYPE_STRING:
        return chance.choice(_STRINGS)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return chance.choice(_REALS)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return chance.random() < 0.5
    return chance.choice(_NUMBERS)


def any_bytes(method: MethodDescriptor, chance: random.Random) -> bytes:
    """A message of odd values, some with bytes changed, cut or added."""
    data = any_message(GetMessageClass(method.input_type), chance).SerializeToString()
    if chance.random() < 0.5:
        return data
    changed = bytearray(data or b"x")
    changed[chance.randrange(len(changed))] ^= chance.randrange(1, 256)
    return bytes(changed[: chance.randrange(len(changed) + 1)] + chance.randbytes(3))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_whatever_comes_ends_with_a_status_of_its_own(method, checkpoint_of, tmp_path):
    chance = random.Random(method.full_name)
    options = EngineOptions(model=str(checkpoint_of("llama")), num_pages=16, page_size=PAGE)
    name = f"/{method.containing_service.full_name}/{method.name}"
    async with running_house(options, tmp_path / "saved") as house:

        async def call() -> CODE:
            data = any_bytes(method, chance)
            if method.server_streaming:
                stream = house.channel.unary_stream(name)(data, timeout=10, metadata=house.own_key)
                try:
                    await stream.read()
                except grpc.aio.AioRpcError:
                    return await stream.code()
                stream.cancel()
                return CODE.OK
            return await house.channel.unary_unary(name)(
                data, timeout=60, metadata=house.own_key
            ).code()

        for _ in range(10):
            codes = await asyncio.gather(*(call() for _ in range(10)))
            assert set(codes) <= EXPECTED
        await house.check()
        names = {file.parent.parent for file in tmp_path.rglob("*") if file.is_file()}
        assert names <= {tmp_path / "saved"}

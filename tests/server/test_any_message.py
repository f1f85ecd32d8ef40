"""Whatever message comes, there is one clear answer, and nothing is held after it."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running_service import RunningService, bad_field_of, running_service

from treeserve.config import EngineOptions
from treeserve.pb import generation_pb2 as pb

CALLS = {
    "Generate": pb.GenerateRequest,
    "GenerateTree": pb.GenerateTreeRequest,
    "Fork": pb.ForkRequest,
    "Abort": pb.AbortRequest,
    "Tokenize": pb.TokenizeRequest,
    "Detokenize": pb.DetokenizeRequest,
    "CountTokens": pb.CountTokensRequest,
}
EXPECTED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
}
KNOWN = "known"
MAX_DEPTH = 4

small_texts = st.text(max_size=6) | st.sampled_from(["", "ab", KNOWN, "{}", "[a-c]{2}", "<end>"])
small_ints = st.integers(0, 12) | st.sampled_from([63, 319, 320, 1025, 2**31, 2**32 - 1])
doubles = st.sampled_from([0.0, 0.5, 1.0, 1.5, -1.0, 1e9, float("nan"), float("inf")])
VALUES = {
    FieldDescriptor.TYPE_STRING: small_texts,
    FieldDescriptor.TYPE_UINT32: small_ints,
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_SINT32: st.integers(-101, 101),
    FieldDescriptor.TYPE_DOUBLE: doubles,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
}
NEEDED = {"text", "tree", "parent", "request_id", "token_ids", "ids", "guide"}
RIGHT = {
    "text": st.sampled_from(["ab", "xyz", "é"]),
    "request_id": st.just(KNOWN),
    "path": st.just([]),
    "sample_index": st.integers(0, 1),
    "num_tokens": st.integers(0, 1),
    "token_ids": st.lists(st.integers(1, 319), min_size=1, max_size=3),
    "ids": st.lists(st.integers(1, 319), min_size=1, max_size=3),
    "n": st.integers(1, 3),
    "priority": st.integers(-100, 100),
    "temperature": st.floats(0, 2),
    "top_k": st.integers(0, 320),
    "top_p": st.floats(0.1, 1),
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0.5, 2),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "logit_bias": st.dictionaries(st.integers(0, 319), st.floats(-100, 100), max_size=2),
    "max_tokens": st.integers(5, 9),
    "stop": st.lists(st.sampled_from(["a", "xy"]), max_size=2),
    "stop_token_ids": st.lists(st.integers(0, 319), max_size=2),
    "min_tokens": st.integers(0, 4),
    "time_limit_seconds": st.sampled_from([1e-6, 30.0]),
    "logprobs": st.integers(0, 20),
    "json_schema": st.sampled_from(["{}", '{"enum": ["a", 1]}']),
    "regex": st.sampled_from(["[a-c]{2}", "é|ab"]),
    "grammar": st.just('start: "a" | "b"'),
    "choices": st.just(["left", "right"]),
}


@st.composite
def messages(draw, message_class, depth=0):
    """Each field set or not, mostly to what is right, else to anything of its type."""
    message = message_class()
    for field in message.DESCRIPTOR.fields:
        chance = draw(st.integers(0, 9))
        if chance >= (9 if field.name in NEEDED else 3) or depth > MAX_DEPTH:
            continue
        is_plain = field.message_type is None and field.type != FieldDescriptor.TYPE_BOOL
        if is_plain and field.name in RIGHT and draw(st.integers(0, 14)):
            put(message, field, draw(RIGHT[field.name]))
        elif field.message_type is None:
            values = VALUES[field.type]
            put(message, field, draw(st.lists(values, max_size=3) if field.is_repeated else values))
        elif field.message_type.GetOptions().map_entry:
            right = RIGHT[field.name] if draw(st.booleans()) else st.just({320: 1e9})
            getattr(message, field.name).update(draw(right))
        else:
            nested = messages(field.message_type._concrete_class, depth + 1)
            put(message, field, draw(st.lists(nested, max_size=2) if field.is_repeated else nested))
    return message


def put(message, field, value) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


@st.composite
def any_request(draw):
    method = draw(st.sampled_from(sorted(CALLS)))
    return method, draw(messages(CALLS[method]))


class _House:
    """One service for all examples, in an event loop that lives between them."""

    def __init__(self, options: EngineOptions) -> None:
        self.loop = asyncio.new_event_loop()
        self._context = running_service(options)
        self.service: RunningService = self.loop.run_until_complete(self._context.__aenter__())
        self.codes: Counter[tuple[str, grpc.StatusCode]] = Counter()

    def close(self) -> None:
        self.loop.run_until_complete(self._context.__aexit__(None, None, None))
        self.loop.close()

    async def answer(self, method: str, request) -> None:
        call = getattr(self.service.stub, method)(request, timeout=60)
        code, error = grpc.StatusCode.OK, None
        try:
            if isinstance(call, grpc.aio.UnaryUnaryCall):
                await call
            else:
                [*_, _] = [message async for message in call]
        except grpc.aio.AioRpcError as raised:
            code, error = raised.code(), raised
        self.codes[method, code] += 1
        assert error is None or (code in EXPECTED and error.details()), error
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            assert bad_field_of(error)
        await self.service.assert_nothing_is_held()


@pytest.fixture(scope="module")
def house(checkpoint_of) -> Iterator[_House]:
    options = EngineOptions(model=str(checkpoint_of("llama")), num_pages=48, page_size=16)
    house = _House(options)
    known = pb.GenerateRequest(
        text="ab",
        n=2,
        params=pb.Parameters(stopping=pb.Stopping(max_tokens=5)),
        options=pb.RequestOptions(request_id=KNOWN),
    )
    house.loop.run_until_complete(house.answer("Generate", known))
    yield house
    house.close()


def test_any_message_has_one_clear_answer_and_holds_nothing_after_it(house):
    @settings(
        max_examples=400,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(any_request())
    def try_one(example):
        house.loop.run_until_complete(house.answer(*example))

    try_one()
    right = {method for method, code in house.codes if code is grpc.StatusCode.OK}
    wrong = {method for method, code in house.codes if code is grpc.StatusCode.INVALID_ARGUMENT}
    assert right == CALLS.keys()
    assert wrong >= {"Generate", "GenerateTree", "CountTokens"}

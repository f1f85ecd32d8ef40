"""Whatever message comes, there is one clear answer, and nothing is held after it."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running_service import RunningService, bad_field_of, running_service
from server.any_messages import KNOWN, messages

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

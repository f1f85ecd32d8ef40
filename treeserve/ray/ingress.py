"""The ingress: treeserve.v1 through Ray's gRPC proxy, with the checks and doors of the server."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, NamedTuple, cast

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from ray.serve.grpc_util import RayServegRPCContext
from ray.serve.handle import DeploymentHandle

from treeserve.config import EngineOptions
from treeserve.errors import ModelError
from treeserve.metrics import Metrics
from treeserve.model import resolve_model
from treeserve.prompt import Prompter
from treeserve.ray.call_context import CallContext, CallEnded
from treeserve.ray.calls import Served
from treeserve.ray.config import IngressConfig, engine_options, ingress_config
from treeserve.ray.remote_service import RemoteTextService
from treeserve.server.activity import Activity
from treeserve.server.calls import Calls, Phase
from treeserve.server.config import AccessConfig, Address, LoadConfig, ServerConfig
from treeserve.server.doorkeeper import Doorkeeper
from treeserve.server.doors import Doors
from treeserve.server.endings import Endings
from treeserve.server.engine_watch import EngineWatch
from treeserve.server.generating import Generating
from treeserve.server.quotas import Quotas
from treeserve.server.service import SERVICE_NAME, GenerationService
from treeserve.server.waiting import WaitingRoom
from treeserve.tokenizer import Tokenizer


class _Parts(NamedTuple):
    """What an ingress is made of once the engines have said what they serve."""

    handlers: "grpc.GenericRpcHandler[bytes, Message]"
    doorkeeper: Doorkeeper

    def handler_of(self, method: str) -> Any:
        """A grpc.RpcMethodHandler whose functions are coroutines, which the stubs do not know."""
        details = cast(grpc.HandlerCallDetails, _Details(f"/{SERVICE_NAME}/{method}"))
        return self.handlers.service(details)


class _Details(NamedTuple):
    """Of a call, as a generic handler asks for them."""

    method: str
    invocation_metadata: tuple[()] = ()


class Ingress:
    """What Ray Serve runs as the deployment that its gRPC proxy calls: a method for each RPC.

    Its checks, keys, quotas and statuses are those of `treeserve serve`.

    Args:
        engines: The engines' deployment.
        engine: Options of theirs, by name.
        ingress: Of IngressConfig, by name.
    """

    def __init__(
        self, engines: DeploymentHandle, engine: Mapping[str, Any], ingress: Mapping[str, Any]
    ) -> None:
        self._config = _server_config(ingress_config(ingress))
        self._engines = engines
        self._options = engine_options(engine)
        self._parts: _Parts | None = None
        self._opening = asyncio.Lock()

    async def check_health(self) -> None:
        """Ray Serve asks from time to time; then keys are read again if they have changed."""
        (await self._open()).doorkeeper.reload(only_if_changed=True)

    async def Generate(
        self, request: Message, grpc_context: RayServegRPCContext
    ) -> AsyncGenerator[Message, None]:
        async for message in self._stream("Generate", request, grpc_context):
            yield message

    async def GenerateTree(
        self, request: Message, grpc_context: RayServegRPCContext
    ) -> AsyncGenerator[Message, None]:
        async for message in self._stream("GenerateTree", request, grpc_context):
            yield message

    async def Fork(
        self, request: Message, grpc_context: RayServegRPCContext
    ) -> AsyncGenerator[Message, None]:
        async for message in self._stream("Fork", request, grpc_context):
            yield message

    async def Abort(self, request: Message, grpc_context: RayServegRPCContext) -> Message:
        return await self._answer("Abort", request, grpc_context)

    async def Tokenize(self, request: Message, grpc_context: RayServegRPCContext) -> Message:
        return await self._answer("Tokenize", request, grpc_context)

    async def Detokenize(self, request: Message, grpc_context: RayServegRPCContext) -> Message:
        return await self._answer("Detokenize", request, grpc_context)

    async def CountTokens(self, request: Message, grpc_context: RayServegRPCContext) -> Message:
        return await self._answer("CountTokens", request, grpc_context)

    async def _stream(
        self, method: str, request: Message, grpc_context: RayServegRPCContext
    ) -> AsyncGenerator[Message, None]:
        handler = (await self._open()).handler_of(method).unary_stream
        context = CallContext(grpc_context)
        call = asyncio.ensure_future(handler(request.SerializeToString(), context))
        call.add_done_callback(lambda _: context.close())
        try:
            async for message in context:
                yield message
            await call
        finally:
            context.leave()
            call.cancel()

    async def _answer(
        self, method: str, request: Message, grpc_context: RayServegRPCContext
    ) -> Message:
        handler = (await self._open()).handler_of(method).unary_unary
        context = CallContext(grpc_context)
        try:
            answer: Message = await handler(request.SerializeToString(), context)
        except CallEnded:
            # With a message the proxy passes on the details of the status, and else only its text.
            return Empty()
        return answer

    async def _open(self) -> "_Parts":
        """Once: the engines may still be loading when an ingress starts."""
        async with self._opening:
            if self._parts is None:
                served: Served = await self._engines.describe.remote()
                # Reading a tokenizer takes seconds.
                prompter = await asyncio.to_thread(_make_prompter, served, self._options)
                text = RemoteTextService(self._engines, prompter, served)
                self._parts = _make_parts(self._config, text)
            return self._parts


def _make_prompter(served: Served, options: EngineOptions) -> Prompter:
    tokenizer = Tokenizer.load(resolve_model(options.model))
    if tokenizer.fingerprint() != served.tokenizer:
        raise ModelError(
            f"model: the tokenizer of {options.model} on the ingress's node is another than the "
            "engines'; all nodes need one checkpoint"
        )
    return Prompter(
        tokenizer,
        vocabulary_size=served.vocabulary_size,
        max_positions=served.max_positions,
        end_token_ids=served.end_token_ids,
        limits=options.limits,
    )


def _make_parts(config: ServerConfig, text: RemoteTextService) -> _Parts:
    load, watch = config.load, EngineWatch()
    waiting = WaitingRoom(load.max_waiting_requests, load.max_waiting_tokens, watch)
    calls = Calls(load.max_calls, waiting.retry_seconds)
    doorkeeper = Doorkeeper(config.access.api_keys)
    metrics = Metrics()
    doors = Doors(doorkeeper, calls, Quotas(), waiting, watch, Activity())
    endings = Endings(calls, metrics, None, request_log=config.request_log)
    generating = Generating(doors, metrics, config)
    service = GenerationService(doors, endings, generating, config)
    generating.set_ready(text)
    calls.phase = Phase.READY
    return _Parts(service.handler(), doorkeeper)


def _server_config(ingress: IngressConfig) -> ServerConfig:
    """Ray's proxy listens; of the addresses here nothing is bound."""
    unused = Address("127.0.0.1", 0)
    return ServerConfig(
        grpc_address=unused,
        http_address=unused,
        access=AccessConfig(api_keys=ingress.key_file),
        load=LoadConfig(
            max_calls=ingress.max_calls,
            max_waiting_requests=ingress.max_waiting_requests,
            max_waiting_tokens=ingress.max_waiting_tokens,
        ),
        request_log=ingress.request_log,
    )

"""The ingress: treeserve.v1 through Ray's gRPC proxy, with the checks and doors of the server."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from prometheus_client import CONTENT_TYPE_LATEST, Metric
from ray import serve
from ray.serve.grpc_util import RayServegRPCContext
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from treeserve.ray.call_context import CallContext, CallEnded
from treeserve.ray.cluster_page import of_engine, of_ingress, render_page
from treeserve.ray.config import engine_options, ingress_config, replica_config
from treeserve.ray.ingress_parts import (
    ADMIN,
    GENERATION,
    MODULE,
    PREFIX,
    TREE,
    IngressParts,
    open_parts,
)
from treeserve.ray.peers import Peers
from treeserve.server.admin_service import set_own_log_level
from treeserve.server.calls import Phase

_Method = Callable[..., Any]


def _streams(service: str, name: str) -> _Method:
    """A method of Ingress that Ray's proxy calls by the name of the RPC, for a stream."""

    async def stream(
        self: "Ingress", request: Message, grpc_context: RayServegRPCContext
    ) -> AsyncGenerator[Message, None]:
        async for message in self.stream(service, name, request, grpc_context):
            yield message

    stream.__name__ = name
    return stream


def _answers(service: str, name: str) -> _Method:
    """The same for one answer."""

    async def answer(
        self: "Ingress", request: Message, grpc_context: RayServegRPCContext
    ) -> Message:
        return await self.answer(service, name, request, grpc_context)

    answer.__name__ = name
    return answer


class Ingress:
    """What Ray Serve runs as the deployment that its proxies call: a method for each RPC.

    Its checks, keys, quotas and statuses are those of `treeserve serve`.

    Args:
        engines: The engines' deployment.
        engine: Options of theirs, by name.
        ingress: Of IngressConfig, by name.
        replica: Of ReplicaConfig, by name.
    """

    Generate = _streams(GENERATION, "Generate")
    GenerateTree = _streams(GENERATION, "GenerateTree")
    Fork = _streams(GENERATION, "Fork")
    Abort = _answers(GENERATION, "Abort")
    Tokenize = _answers(GENERATION, "Tokenize")
    Detokenize = _answers(GENERATION, "Detokenize")
    CountTokens = _answers(GENERATION, "CountTokens")
    GetTree = _answers(TREE, "GetTree")
    GetPlan = _answers(TREE, "GetPlan")
    GetActivity = _answers(TREE, "GetActivity")
    WatchTree = _streams(TREE, "WatchTree")
    Warm = _answers(PREFIX, "Warm")
    Retain = _answers(PREFIX, "Retain")
    ListRetained = _answers(PREFIX, "ListRetained")
    Release = _answers(PREFIX, "Release")
    Save = _answers(PREFIX, "Save")
    Restore = _answers(PREFIX, "Restore")
    ListSaved = _answers(PREFIX, "ListSaved")
    DeleteSaved = _answers(PREFIX, "DeleteSaved")
    PutSchema = _answers(MODULE, "PutSchema")
    ListSchemas = _answers(MODULE, "ListSchemas")
    ShowSchema = _answers(MODULE, "ShowSchema")
    DeleteSchema = _answers(MODULE, "DeleteSchema")
    WarmSchema = _answers(MODULE, "WarmSchema")
    SaveSchema = _answers(MODULE, "SaveSchema")
    RestoreSchema = _answers(MODULE, "RestoreSchema")
    ListSavedSchemas = _answers(MODULE, "ListSavedSchemas")
    DeleteSavedSchema = _answers(MODULE, "DeleteSavedSchema")
    Drain = _answers(ADMIN, "Drain")
    ClearCache = _answers(ADMIN, "ClearCache")
    SetLogLevel = _answers(ADMIN, "SetLogLevel")
    Calibrate = _answers(ADMIN, "Calibrate")
    GetStatus = _answers(ADMIN, "GetStatus")

    def __init__(
        self,
        engines: DeploymentHandle,
        engine: Mapping[str, Any],
        ingress: Mapping[str, Any],
        replica: Mapping[str, Any],
    ) -> None:
        self._config = ingress_config(ingress)
        self._replica = replica_config(replica)
        self._engines = engines
        self._options = engine_options(engine)
        self._peers = Peers()
        self._parts: IngressParts | None = None
        self._opening = asyncio.Lock()

    async def check_health(self) -> None:
        """Ray Serve asks from time to time; then keys are read again if they have changed."""
        (await self._open()).reload()

    async def stream(
        self, service: str, name: str, request: Message, grpc_context: RayServegRPCContext
    ) -> AsyncGenerator[Message, None]:
        """What a method of a service streams."""
        handler = (await self._joined()).handler_of(service, name)
        assert handler is not None, "every service with streams is offered"
        context = CallContext(grpc_context)
        call = asyncio.ensure_future(handler.unary_stream(request.SerializeToString(), context))
        call.add_done_callback(lambda _: context.close())
        try:
            async for message in context:
                yield message
            await call
        except CallEnded:
            if not context.is_ours:
                raise
            # With it the details of the status are passed on, and the proxy takes it out again.
            yield Empty()
        finally:
            context.leave()
            call.cancel()

    async def answer(
        self, service: str, name: str, request: Message, grpc_context: RayServegRPCContext
    ) -> Message:
        """What a method of a service answers."""
        handler = (await self._joined()).handler_of(service, name)
        context = CallContext(grpc_context)
        try:
            if handler is None:
                await context.abort(
                    grpc.StatusCode.UNIMPLEMENTED, "AdminService is off: say ingress.admin: true"
                )
            answer: Message = await handler.unary_unary(request.SerializeToString(), context)
        except CallEnded:
            # With a message the proxy passes on the details of the status, and else only its text.
            return Empty()
        return answer

    async def __call__(self, request: Request) -> Response:
        """Over HTTP: the metrics of the whole application."""
        if request.url.path != "/metrics":
            return PlainTextResponse("only /metrics is here\n", status_code=404)
        parts = await self._joined()
        refusal = parts.metrics_door.refuse(request.headers.getlist("authorization"))
        if refusal is not None:
            return refusal
        told = await parts.engines.ask("families")
        pages = [(entry.replica_id, of_engine(entry.value)) for entry in told]
        pages += await self._peers.ask("families")
        return Response(render_page(pages), media_type=CONTENT_TYPE_LATEST)

    async def families(self) -> tuple[str, list[Metric]]:
        """For the others: its own id and metrics."""
        replica_id = serve.get_replica_context().replica_id.unique_id
        return replica_id, of_ingress((await self._open()).metrics.collect())

    async def activity(self, tenant: str | None, max_calls: int) -> bytes:
        """For the others: a GetActivityResponse of its own calls."""
        told = await (await self._open()).tree.activity(tenant, max_calls)
        return told.SerializeToString()

    async def running_calls(self) -> int:
        """For the others."""
        return (await self._open()).doors.calls.num_running

    async def drain(self) -> int:
        """For the others: refuse new calls, let running ones end; how many still run at last."""
        calls = (await self._open()).doors.calls
        calls.phase = Phase.DRAINING
        await calls.wait_until_empty(self._config.drain_grace_seconds)
        return calls.num_running

    async def set_log_level(self, level: int) -> int:
        """For the others: of its own process; what it was."""
        return set_own_log_level(level)

    async def schema_texts(self) -> dict[tuple[str, str], str]:
        """For the others: PML by (tenant, name)."""
        return (await self._open()).schemas.texts()

    async def take_schema(self, tenant: str, name: str, pml: str | None) -> None:
        """For the others: a schema was put at one of them, or deleted."""
        await (await self._open()).schemas.take(tenant, name, pml)

    async def _joined(self) -> IngressParts:
        parts = await self._open()
        await parts.schemas.join()
        return parts

    async def _open(self) -> IngressParts:
        """Once: the engines may still be loading when an ingress starts."""
        async with self._opening:
            if self._parts is None:
                self._parts = await open_parts(
                    self._engines, self._peers, self._options, self._config, self._replica
                )
            return self._parts

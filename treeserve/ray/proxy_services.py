"""The services as Ray's gRPC proxy is told of them: with deadlines, and details of refusals."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import grpc

from treeserve.pb import (
    admin_pb2_grpc,
    generation_pb2_grpc,
    module_pb2_grpc,
    prefix_pb2_grpc,
    tree_pb2_grpc,
)

SECONDS_LEFT = "treeserve-seconds-left"
"""Metadata that the proxy adds to a call: until its deadline; empty where it has none."""

_AddServicer = Callable[[Any, Any], None]


def add_generation_service(servicer: Any, server: Any) -> None:
    """For `grpc_options.grpc_servicer_functions`, as all of these."""
    _add(generation_pb2_grpc.add_GenerationServiceServicer_to_server, servicer, server)


def add_tree_service(servicer: Any, server: Any) -> None:
    _add(tree_pb2_grpc.add_TreeServiceServicer_to_server, servicer, server)


def add_prefix_service(servicer: Any, server: Any) -> None:
    _add(prefix_pb2_grpc.add_PrefixServiceServicer_to_server, servicer, server)


def add_module_service(servicer: Any, server: Any) -> None:
    _add(module_pb2_grpc.add_ModuleServiceServicer_to_server, servicer, server)


def add_admin_service(servicer: Any, server: Any) -> None:
    """Where it is listed, the ingress still refuses it unless it is told to offer it."""
    _add(admin_pb2_grpc.add_AdminServiceServicer_to_server, servicer, server)


def _add(add_servicer: _AddServicer, servicer: Any, server: Any) -> None:
    add_servicer(servicer, _Registrar(server))


class _Registrar:
    """What the generated code takes for a server: hands its methods on, each of them once.

    Args:
        server: Ray's.
    """

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """The same methods come by name too."""

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, Any]) -> None:
        by_path = {f"/{service}/{name}": handler for name, handler in methods.items()}
        self._server.add_generic_rpc_handlers((ProxyHandlers(by_path),))


class ProxyHandlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not so at run time
    """A service's methods, which Ray's server replaces by its own; around those, what Ray lacks.

    Args:
        methods: By path.
    """

    def __init__(self, methods: Mapping[str, Any]) -> None:
        # The name by which Ray's server finds and replaces them.
        self._method_handlers = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call; None: the service has no such method."""
        handler = self._method_handlers.get(handler_call_details.method)
        if handler is None:
            return None
        return handler._replace(
            unary_unary=_unary(handler.unary_unary),
            unary_stream=_streaming(handler.unary_stream),
        )


class _Context:
    """gRPC's context of a call, which also tells how much time the call has.

    Args:
        context: gRPC's.
    """

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        sent = ((key, value) for key, value in self._context.invocation_metadata() or ())
        kept = tuple((key, value) for key, value in sent if key != SECONDS_LEFT)
        left = self._context.time_remaining()
        return (*kept, (SECONDS_LEFT, "" if left is None else f"{left:.4f}"))


def _unary(answer: Any) -> Any:
    async def handle(request: Any, context: Any) -> Any:
        return await answer(request, _Context(context))

    return None if answer is None else handle


def _streaming(stream: Any) -> Any:
    async def handle(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        async with aclosing(stream(request, _Context(context))) as messages:
            async for message in messages:
                # Only with a message does Ray pass on what a status has beside its text; the
                # message that came with a refusal is none of the stream.
                if not context.code():
                    yield message

    return None if stream is None else handle

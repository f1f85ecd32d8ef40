"""How calls end: for the caller, the metrics, the traces and the log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from treeserve.errors import EngineStopped
from treeserve.metrics import Metrics
from treeserve.server.call_log import REQUEST_ID, CallRecord, open_record, write_record
from treeserve.server.calls import Calls, Phase
from treeserve.server.status import code_of, status_of
from treeserve.server.tracing import Tracing

Context: TypeAlias = grpc.aio.ServicerContext[Any, Message]


class Endings:
    """A call's failure ends that call alone, with a status of its own.

    Args:
        calls: Say whether the server is being stopped.
        metrics: Told of every call.
        tracing: Told of every call; None: there is none.
        request_log: Whether every call is a line in the log.
    """

    def __init__(
        self, calls: Calls, metrics: Metrics, tracing: Tracing | None, *, request_log: bool
    ) -> None:
        self._calls = calls
        self._metrics = metrics
        self._tracing = tracing
        self._request_log = request_log

    @asynccontextmanager
    async def of(self, service: str, method: str, context: Context) -> AsyncIterator[CallRecord]:
        """While a call runs; what it raises ends it, and is not raised any further.

        Args:
            service: Its full name.
            method: Its name in the service.
            context: The call's.
        """
        code = grpc.StatusCode.OK
        record = open_record(method, context.invocation_metadata(), service)
        context.set_trailing_metadata(((REQUEST_ID, record.request_id),))
        try:
            yield record
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            if self._calls.phase is not Phase.STOPPED or context.done():
                raise
            code = grpc.StatusCode.UNAVAILABLE
            error = EngineStopped("the server shut down before the call had ended")
            await _abort(context, error, record)
        except Exception as error:
            code = grpc.StatusCode.CANCELLED if context.done() else code_of(error)
            if not context.done():
                await _abort(context, error, record)
        finally:
            self._tell(record, code.name)

    def _tell(self, record: CallRecord, code: str) -> None:
        self._metrics.observe_call(record.method, code)
        if self._tracing is not None:
            record.trace_id = self._tracing.trace(record, code)
        if self._request_log:
            write_record(record, code)


async def _abort(context: Context, error: Exception, record: CallRecord) -> None:
    status = status_of(error)
    ids = ((REQUEST_ID, record.request_id),)
    await context.abort(status.code, status.details, (*status.trailing_metadata, *ids))

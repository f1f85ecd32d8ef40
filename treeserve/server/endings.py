"""How calls end: for the caller, the metrics, the traces and the log."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from treeserve.errors import EngineStopped
from treeserve.metrics import Metrics
from treeserve.server.call_log import REQUEST_ID, CallRecord, open_record, write_record
from treeserve.server.calls import Calls, Phase
from treeserve.server.doorkeeper import KEY_NO_LONGER_VALID
from treeserve.server.identity import Identity
from treeserve.server.refusals import Unauthenticated
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
        self._running: dict[asyncio.Task[object], CallRecord] = {}
        self._revoked: set[asyncio.Task[object]] = set()

    def end_unless(self, is_known: Callable[[Identity], bool]) -> int:
        """End the running calls of callers who are not known any more; how many there are."""
        unknown = [
            task
            for task, record in self._running.items()
            if task not in self._revoked and not is_known(record.identity)
        ]
        for task in unknown:
            self._revoked.add(task)
            task.cancel()
        return len(unknown)

    @asynccontextmanager
    async def of(self, service: str, method: str, context: Context) -> AsyncIterator[CallRecord]:
        """While a call runs; what it raises ends it, and is not raised any further.

        The call is counted before its caller is told of its end: whoever has heard of it finds it
        in the metrics.

        Args:
            service: Its full name.
            method: Its name in the service.
            context: The call's.
        """
        record = open_record(method, context.invocation_metadata(), service)
        context.set_trailing_metadata(((REQUEST_ID, record.request_id),))
        with self.running(record):
            why: Exception | None = None
            try:
                yield record
            except asyncio.CancelledError:
                why = None if context.done() else self.why_cut_short()
                if why is None:
                    self.tell(record, grpc.StatusCode.CANCELLED.name)
                    raise
            except Exception as error:
                why = error
            if why is None:
                self.tell(record, grpc.StatusCode.OK.name)
            elif context.done():
                self.tell(record, grpc.StatusCode.CANCELLED.name)
            else:
                self.tell(record, code_of(why).name)
                await _abort(context, why, record)

    @contextmanager
    def running(self, record: CallRecord) -> Iterator[None]:
        """While the current task runs a call, which `end_unless` may cut short."""
        task = _current_task()
        self._running[task] = record
        try:
            yield
        finally:
            del self._running[task]
            self._revoked.discard(task)

    def why_cut_short(self) -> Exception | None:
        """What the server tells a call that it ends itself, in its task; None: its caller did."""
        if _current_task() in self._revoked:
            return Unauthenticated(KEY_NO_LONGER_VALID)
        if self._calls.phase is Phase.STOPPED:
            return EngineStopped("the server shut down before the call had ended")
        return None

    def tell(self, record: CallRecord, code: str) -> None:
        """A call has ended, with the name of a gRPC status, whichever door it came through."""
        self._metrics.observe_call(record.method, code, record.identity.tenant)
        if self._tracing is not None:
            record.trace_id = self._tracing.trace(record, code)
        if self._request_log:
            write_record(record, code)


def _current_task() -> "asyncio.Task[object]":
    task = asyncio.current_task()
    assert task is not None
    return task


async def _abort(context: Context, error: Exception, record: CallRecord) -> None:
    status = status_of(error)
    ids = ((REQUEST_ID, record.request_id),)
    await context.abort(status.code, status.details, (*status.trailing_metadata, *ids))

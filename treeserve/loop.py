"""Runs the engine in a thread of its own, with asyncio streams on top."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from treeserve.engine import Engine
from treeserve.engine_messages import EngineEvent, EngineRequest, RequestEnded
from treeserve.errors import EngineStopped, TreeserveError
from treeserve.scheduler.request import PromptUsage
from treeserve.types import FinishReason, StepNumbers

logger = logging.getLogger(__name__)

_NO_USAGE = PromptUsage(0, 0, 0, 0)
_STOPPED = "the engine has stopped"

StepObserver = Callable[[StepNumbers], None]
_ResultT = TypeVar("_ResultT")


@dataclass(frozen=True, slots=True, eq=False)
class _Submit:
    requests: tuple[EngineRequest, ...]
    stream: "EngineStream"
    accepted: "asyncio.Future[None]"


@dataclass(frozen=True, slots=True)
class _Abort:
    request_id: str
    sample_index: int | None


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    function: Callable[[Engine], Any]
    loop: asyncio.AbstractEventLoop
    result: "asyncio.Future[Any]"
    is_change: bool


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


@dataclass(frozen=True, slots=True, eq=False)
class EngineStream:
    """Events of some requests, in batches of one step, ending when all of them have ended."""

    loop: asyncio.AbstractEventLoop
    queue: "asyncio.Queue[list[EngineEvent]]" = field(default_factory=asyncio.Queue)
    open_requests: set[str] = field(default_factory=set)

    async def __aiter__(self) -> AsyncIterator[list[EngineEvent]]:
        while self.open_requests:
            events = await self.queue.get()
            ended = [event.request_id for event in events if isinstance(event, RequestEnded)]
            self.open_requests.difference_update(ended)
            yield events


_Delivery: TypeAlias = tuple[EngineStream, list[EngineEvent]]


class EngineLoop:
    """The engine belongs to the loop's thread; everything reaches it through one inbox.

    Args:
        engine: Used by nobody else from start() on.
        on_step: Called in the engine's thread with every step's numbers; must be quick.
    """

    def __init__(self, engine: Engine, on_step: StepObserver | None = None) -> None:
        self._engine = engine
        self._on_step = on_step
        self._inbox: queue.SimpleQueue[_Submit | _Abort | _Call | _Stop] = queue.SimpleQueue()
        self._streams: dict[str, EngineStream] = {}
        self._thread = threading.Thread(target=self._run, name="treeserve-engine", daemon=True)
        self._open_requests: set[str] = set()
        self._open_changed = threading.Condition()
        self._draining = threading.Event()
        self._failed = threading.Event()
        self._ended = False
        self.num_changes = 0
        """Steps, and messages that may have changed something: while it stays, nothing changes."""

    @property
    def healthy(self) -> bool:
        """Whether the engine's thread is running."""
        return self._thread.is_alive() and not self._failed.is_set()

    @property
    def has_failed(self) -> bool:
        """Whether the engine could not go on; not after `stop`."""
        return self._failed.is_set()

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    async def submit(self, requests: Sequence[EngineRequest]) -> EngineStream:
        """Queue requests together, so that one step sees them all.

        Raises:
            InvalidRequest: One of them can never fit; none is queued.
            ValueError: One of them has an id that is in use, or is malformed; none is queued.
            EngineStopped: The engine is draining or has stopped.
        """
        request_ids = [request.request_id for request in requests]
        loop = asyncio.get_running_loop()
        stream = EngineStream(loop, open_requests=set(request_ids))
        accepted: asyncio.Future[None] = loop.create_future()
        with self._open_changed:
            if self._draining.is_set() or not self.healthy:
                raise EngineStopped("the engine is shutting down and takes no more requests")
            self._open_requests.update(request_ids)
            self._inbox.put(_Submit(tuple(requests), stream, accepted))
        try:
            await accepted
        except asyncio.CancelledError:
            for request_id in request_ids:
                self.abort(request_id)
            raise
        return stream

    async def run_to_end(self, request: EngineRequest, what: str) -> PromptUsage:
        """Compute a request whose draws nobody reads, and say what came of its prompt.

        Args:
            request: With an id that nobody else uses.
            what: Names it in an error: "a prefix could not be computed".

        Raises:
            InvalidRequest, EngineStopped: As submit().
            RuntimeError: A step of it failed.
        """
        ended: RequestEnded | None = None
        stream = await self.submit([request])
        try:
            async for events in stream:
                ended = next((e for e in events if isinstance(e, RequestEnded)), ended)
        finally:
            self.abort(request.request_id)
        assert ended is not None, "a stream ended before its request"
        if ended.reason is FinishReason.ERROR:
            if not self.healthy:
                raise EngineStopped(ended.error or _STOPPED)
            raise RuntimeError(f"{what}: {ended.error}")
        return ended.usage

    def abort(self, request_id: str, sample_index: int | None = None) -> None:
        """End a request or one of its samples before the next step. Unknown ones are ignored."""
        self._inbox.put(_Abort(request_id, sample_index))

    async def call(self, function: Callable[[Engine], _ResultT]) -> _ResultT:
        """Run a function in the engine's thread, between two steps; its result or exception.

        A step on its way is read and told first. The function must be quick, for every stream waits
        for it. Calls run while the engine drains. One whose caller has gone is not started any
        more.

        Raises:
            EngineStopped: The engine has stopped, or stops before it comes to it.
        """
        return await self._call(function, is_change=True)

    async def look(self, function: Callable[[Engine], _ResultT]) -> _ResultT:
        """As `call`, for a function that changes nothing."""
        return await self._call(function, is_change=False)

    async def drain(self, grace_seconds: float) -> bool:
        """Take no more requests, and wait for those that run; True if all of them ended in time."""
        self._draining.set()
        return await asyncio.to_thread(self._wait_until_idle, grace_seconds)

    def stop(self) -> None:
        """End what still runs and the thread with it."""
        self._draining.set()
        self._inbox.put(_Stop())
        if self._thread.ident is not None:
            self._thread.join()

    async def _call(self, function: Callable[[Engine], _ResultT], is_change: bool) -> _ResultT:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[_ResultT] = loop.create_future()
        with self._open_changed:
            if self._ended or not self._thread.is_alive():
                raise EngineStopped(_STOPPED)
            self._inbox.put(_Call(function, loop, result, is_change))
        return await result

    def _wait_until_idle(self, timeout_seconds: float) -> bool:
        with self._open_changed:
            return self._open_changed.wait_for(lambda: not self._open_requests, timeout_seconds)

    def _close_requests(self, request_ids: Iterable[str]) -> None:
        with self._open_changed:
            self._open_requests.difference_update(request_ids)
            self._open_changed.notify_all()

    def _run(self) -> None:
        try:
            while self._take_inbox():
                events, numbers = self._engine.step()
                self.num_changes += 1
                self._tell(events, numbers)
        except Exception:
            logger.exception("the engine cannot go on")
            self._failed.set()
        finally:
            self._end_all()

    def _take_inbox(self) -> bool:
        """Carry out what came in, waiting for it when there is nothing else to do."""
        while True:
            try:
                message = self._inbox.get(block=not self._engine.has_work())
            except queue.Empty:
                return True
            if isinstance(message, _Stop):
                return False
            if isinstance(message, _Call):
                self.num_changes += message.is_change
                self._answer(message)
                continue
            self.num_changes += 1
            if isinstance(message, _Abort):
                self._engine.abort(message.request_id, message.sample_index)
            else:
                self._add(message)

    def _answer(self, call: _Call) -> None:
        if call.result.cancelled():
            return
        try:
            self._settle()
        except BaseException:
            _call_soon(call.loop, _reject, call.result, EngineStopped(_STOPPED))
            raise
        try:
            result = call.function(self._engine)
        except Exception as error:
            _call_soon(call.loop, _reject, call.result, error)
        else:
            _call_soon(call.loop, _accept, call.result, result)

    def _settle(self) -> None:
        """Whoever looks between two steps finds no step on its way, and no token unread."""
        events, numbers = self._engine.settle()
        if numbers is not None:
            self.num_changes += 1
            self._tell(events, numbers)

    def _tell(self, events: Sequence[EngineEvent], numbers: StepNumbers | None) -> None:
        if numbers is not None and self._on_step is not None:
            self._on_step(numbers)
        self._dispatch(events)

    def _add(self, submit: _Submit) -> None:
        added: list[str] = []
        try:
            for request in submit.requests:
                self._engine.add(request)
                added.append(request.request_id)
        except (TreeserveError, ValueError) as error:
            for request_id in added:
                self._engine.abort(request_id)
            request_ids = {request.request_id for request in submit.requests}
            self._close_requests(request_ids - self._streams.keys())
            _call_soon(submit.stream.loop, _reject, submit.accepted, error)
            return
        for request_id in added:
            self._streams[request_id] = submit.stream
        _call_soon(submit.stream.loop, _accept, submit.accepted)

    def _dispatch(self, events: Sequence[EngineEvent]) -> None:
        batches: dict[EngineStream, list[EngineEvent]] = {}
        for event in events:
            stream = self._streams.get(event.request_id)
            if stream is not None:
                batches.setdefault(stream, []).append(event)
            if isinstance(event, RequestEnded):
                self._streams.pop(event.request_id, None)
        # Waking an event loop takes a system call: once a step, however many streams there are.
        deliveries: dict[asyncio.AbstractEventLoop, list[_Delivery]] = {}
        for stream, batch in batches.items():
            deliveries.setdefault(stream.loop, []).append((stream, batch))
        for loop, delivered in deliveries.items():
            _call_soon(loop, _deliver, delivered)
        self._close_requests(e.request_id for e in events if isinstance(e, RequestEnded))

    def _end_all(self) -> None:
        with self._open_changed:
            self._draining.set()
            self._ended = True
        try:
            self._engine.abort_all()
            self._dispatch(self._engine.take_ended())
        except Exception:
            logger.exception("requests could not be ended in good order")
        self._dispatch(
            [RequestEnded(key, _NO_USAGE, FinishReason.ERROR, _STOPPED) for key in self._streams]
        )
        while not self._inbox.empty():
            message = self._inbox.get_nowait()
            error = EngineStopped(_STOPPED)
            if isinstance(message, _Submit):
                _call_soon(message.stream.loop, _reject, message.accepted, error)
            elif isinstance(message, _Call):
                _call_soon(message.loop, _reject, message.result, error)
        with self._open_changed:
            self._open_requests.clear()
            self._open_changed.notify_all()


def _call_soon(
    loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object
) -> None:
    """As call_soon_threadsafe, for a caller whose event loop may already be gone."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        logger.debug("a caller's event loop closed before its stream ended")


def _deliver(deliveries: "list[_Delivery]") -> None:
    for stream, batch in deliveries:
        stream.queue.put_nowait(batch)


def _accept(accepted: "asyncio.Future[Any]", result: object = None) -> None:
    if not accepted.done():
        accepted.set_result(result)


def _reject(accepted: "asyncio.Future[Any]", error: Exception) -> None:
    if not accepted.done():
        accepted.set_exception(error)

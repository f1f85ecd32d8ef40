"""One HTTP request and its answer, whose caller may go at any time."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from treeserve.errors import InvalidRequest
from treeserve.server.call_log import REQUEST_ID
from treeserve.server.openai.answers import Chunk, Json
from treeserve.server.openai.failures import BodyTooLarge, BodyTooSlow, Failure, NotJson

DEADLINE_HEADER = "x-request-timeout"
_MAX_TIMEOUT_SECONDS = 86_400.0
_BODY_SECONDS = 60.0
_DONE = b"data: [DONE]\n\n"


class Exchange:
    """Belongs to the task that it is made in, which ends when the caller goes.

    Args:
        scope: Of ASGI, as the others.
        receive: What the caller sends.
        send: What it is told.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request = Request(scope)
        self.is_gone = False
        """Whether the caller went away before its answer had ended."""
        self.has_begun = False
        """Whether the answer has: its status can change no more."""
        self.is_stream = False
        self._receive = receive
        self._send = send
        self._request_id = ""

    @property
    def metadata(self) -> list[tuple[str, str | bytes]]:
        """The headers, by names in lower case."""
        return [(name, value) for name, value in self.request.headers.items()]

    def authorization(self) -> list[str]:
        return self.request.headers.getlist("authorization")

    def timeout_seconds(self) -> float | None:
        """How long the caller gives the call; None: as long as it takes.

        Raises:
            InvalidRequest: It says something else than a number of seconds.
        """
        text = self.request.headers.get(DEADLINE_HEADER)
        if text is None:
            return None
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= _MAX_TIMEOUT_SECONDS:
            raise InvalidRequest(
                DEADLINE_HEADER, f"must be seconds, above 0 and at most {_MAX_TIMEOUT_SECONDS:g}"
            )
        return seconds

    def name_call(self, request_id: str) -> None:
        """The id that the answer's header carries."""
        self._request_id = request_id

    async def read_body(self, max_bytes: int) -> bytes:
        """All of it.

        Raises:
            InvalidRequest: It is too large, too slow, or does not say that it is JSON.
            CancelledError: The caller has gone.
        """
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise NotJson("content-type", "must be application/json")
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                return await self._read_body(max_bytes)
        except TimeoutError:
            raise BodyTooSlow("body", f"must come within {_BODY_SECONDS:g} seconds") from None

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Cancel the task within when the caller goes; the body has been read."""
        task = asyncio.current_task()
        assert task is not None
        watching = asyncio.create_task(self._cancel_when_gone(task))
        try:
            yield
        finally:
            watching.cancel()

    async def send_json(self, body: Json | Failure) -> None:
        """A whole answer."""
        failure = body if isinstance(body, Failure) else Failure(200, body)
        data = _json(failure.body)
        length = {"content-length": str(len(data))}
        await self._start(failure.status, "application/json", failure.headers | length)
        await self._send({"type": "http.response.body", "body": data})

    async def begin_stream(self) -> None:
        """An answer as server-sent events."""
        self.is_stream = True
        # A proxy that buffers would hold back what is sent to be read along.
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        await self._start(200, "text/event-stream; charset=utf-8", headers)

    async def send_chunks(self, chunks: Iterable[Chunk]) -> None:
        """Some events, in one piece; waits while the caller does not read."""
        data = b"".join(map(_event, chunks))
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_stream(self) -> None:
        """No more events."""
        await self._send({"type": "http.response.body", "body": _DONE})

    async def fail(self, failure: Failure) -> None:
        """Tell of an error: by the status, or in the stream where that has begun."""
        if not self.has_begun:
            await self.send_json(failure)
        elif self.is_stream:
            await self.send_chunks([Chunk(failure.body, "error")])
            await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, status: int, kind: str, headers: dict[str, str]) -> None:
        self.has_begun = True
        given = {"content-type": kind, REQUEST_ID: self._request_id, **headers}
        raw = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _read_body(self, max_bytes: int) -> bytes:
        length = self.request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > max_bytes:
            raise BodyTooLarge("body", f"has {length} bytes; this server takes at most {max_bytes}")
        data = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.is_gone = True
                raise asyncio.CancelledError
            data += message.get("body", b"")
            if len(data) > max_bytes:
                raise BodyTooLarge("body", f"has more than {max_bytes} bytes, the most taken")
            if not message.get("more_body", False):
                return bytes(data)

    async def _cancel_when_gone(self, task: "asyncio.Task[Any]") -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.is_gone = True
                task.cancel()
                return


def _event(chunk: Chunk) -> bytes:
    name = b"" if chunk.event is None else f"event: {chunk.event}\n".encode()
    return name + b"data: " + _json(chunk.data) + b"\n\n"


def _json(body: Json) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

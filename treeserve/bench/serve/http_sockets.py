"""The same calls over HTTP: server-sent events, read by a light client of its own."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from treeserve.bench.serve.sockets import (
    CallRecord,
    Meter,
    Request,
    SampleRecord,
    what_is_wrong,
)
from treeserve.bench.serve.workloads import Call
from treeserve.pb import generation_pb2 as pb
from treeserve.types import PromptTree

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""As gRPC names them, so that both doors' results are of one kind."""
_LIMIT_BYTES = 64 << 20
_TREES, _COMPLETIONS = "/v1/trees", "/v1/completions"


class HttpCaller:
    """Makes calls, each on a connection that no other call has meanwhile; idle ones are kept.

    Args:
        address: The server's "host:port".
        timeout_seconds: The deadline of every call.
    """

    def __init__(self, address: str, timeout_seconds: float) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._idle: list[_Connection] = []

    def request(self, call: Call) -> Request:
        """The call as it goes over the wire."""
        is_tree = bool(call.tree.branches)
        told: dict[str, Any] = {"stream": True, "return_token_ids": True}
        if is_tree:
            body = {"tree": _node(call.tree), **told}
        else:
            usage = {"stream_options": {"include_usage": True}}
            params = _params(call.tree) or {}
            body = {"prompt": call.tree.text, "n": call.num_samples, **params, **told, **usage}
        data = json.dumps(body).encode()
        head = (
            f"POST {_TREES if is_tree else _COMPLETIONS} HTTP/1.1\r\nHost: {self._address}\r\n"
            "Content-Type: application/json\r\n"
            f"x-request-timeout: {self._timeout_seconds:g}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return Request(call, is_tree, head.encode() + data)

    async def make(self, request: Request, due: float, meter: Meter) -> CallRecord:
        """Make one call to its end; an error is part of its record."""
        record = CallRecord(due=due, sent=time.perf_counter())
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(self._timeout_seconds + 5):
                connection = await self._connect()
                await self._call(connection, request, record, meter)
        except (OSError, EOFError) as error:
            record.status, record.details = "UNAVAILABLE", str(error) or "the connection broke"
        record.end = time.perf_counter()
        if connection is not None:
            if record.status == "OK":
                self._idle.append(connection)
            else:
                connection.close()
        return record

    def close(self) -> None:
        """Close idle connections."""
        for connection in self._idle:
            connection.close()

    async def _connect(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            connection.close()
        host = self._host.removeprefix("[").removesuffix("]")
        opened = await asyncio.open_connection(host, int(self._port), limit=_LIMIT_BYTES)
        return _Connection(*opened)

    async def _call(
        self, connection: "_Connection", request: Request, record: CallRecord, meter: Meter
    ) -> None:
        status, headers = await connection.send(request.data)
        if status != 200:
            body = await connection.rest(headers)
            record.status = _STATUSES.get(status, f"HTTP {status}")
            record.details = body.decode(errors="replace")[:200]
            return
        async for data in connection.chunks():
            now = time.perf_counter()
            meter.see(now, _read(data, now, record))
        if record.status == "OK":
            record.wrong = what_is_wrong(request.call, record)


@asynccontextmanager
async def http_connected(address: str, timeout_seconds: float) -> AsyncIterator[HttpCaller]:
    """A caller whose connections are closed at the end."""
    caller = HttpCaller(address, timeout_seconds)
    try:
        yield caller
    finally:
        caller.close()


class _Connection:
    """One at a time: a request, and its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def is_open(self) -> bool:
        """Servers close connections that nobody has used for a while."""
        return not (self._reader.at_eof() or self._writer.is_closing())

    async def send(self, data: bytes) -> tuple[int, dict[str, str]]:
        """The status and the headers of the answer, by names in lower case."""
        self._writer.write(data)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in head[1:] if line)
        return int(head[0].split()[1]), {name.lower(): value for name, _, value in pairs}

    async def rest(self, headers: dict[str, str]) -> bytes:
        """An answer whose length is known."""
        return await self._reader.readexactly(int(headers.get("content-length", "0")))

    async def chunks(self) -> AsyncIterator[bytes]:
        """An answer as it comes."""
        while True:
            size = int((await self._reader.readuntil(b"\r\n")).strip(), 16)
            data = await self._reader.readexactly(size + 2)
            if size == 0:
                return
            yield data[:-2]

    def close(self) -> None:
        with suppress(OSError):
            self._writer.close()


def _read(data: bytes, now: float, record: CallRecord) -> int:
    """Take in the events of one chunk, which the server never cuts; their tokens."""
    record.num_messages += 1
    num_tokens = 0
    for line in data.split(b"\n"):
        if line.startswith(b"data: {"):
            num_tokens += _read_event(json.loads(line[6:]), now, record)
    return num_tokens


def _read_event(event: dict[str, Any], now: float, record: CallRecord) -> int:
    if "error" in event:
        code = event["error"]["code"] or "internal"
        record.status, record.details = code.upper(), event["error"]["message"]
        return 0
    num_tokens = 0
    for choice in event.get("choices", ()):
        key = (*event.get("path", ()), choice["index"])
        sample = record.samples.get(key)
        if sample is None:
            sample = record.samples[key] = SampleRecord(now, now)
        sample.last_token = now
        sample.num_tokens += len(choice["token_ids"])
        num_tokens += len(choice["token_ids"])
        if choice["finish_reason"]:
            name = f"FINISH_REASON_{choice['finish_reason'].upper()}"
            sample.finish_reason = pb.FinishReason.Value(name)
    usage = event.get("usage")
    if usage:
        record.prompt_tokens += usage["prompt_tokens"]
        record.computed_tokens += usage["prompt_tokens_details"]["computed_tokens"]
        record.completion_tokens += usage["completion_tokens"]
    return num_tokens


def _node(tree: PromptTree) -> dict[str, Any]:
    node: dict[str, Any] = {"text": tree.text, "branches": [_node(b) for b in tree.branches]}
    params = _params(tree)
    return {
        **node,
        **({} if tree.n is None else {"n": tree.n}),
        **({} if params is None else {"params": params}),
    }


def _params(tree: PromptTree) -> dict[str, Any] | None:
    params = tree.params
    if params is None:
        return None
    return {"seed": params.seed, "max_tokens": params.max_tokens, "ignore_eos": params.ignore_eos}

"""The HTTP door: who calls, may it, what it asks for, and how that ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Generic, NamedTuple

import grpc

from treeserve.errors import InvalidRequest, NotPossible
from treeserve.server.batching import batched, ends_late, group
from treeserve.server.call_log import open_record
from treeserve.server.config import ServerConfig
from treeserve.server.contract import EventStream, ServedModel, TextService
from treeserve.server.doors import Call, Doors
from treeserve.server.endings import Endings
from treeserve.server.generating import AskedCall, Generating, Known
from treeserve.server.identity import ANYBODY, Identity, Permission
from treeserve.server.openai.answers import Collected, Json, TokenText
from treeserve.server.openai.asked import Asked
from treeserve.server.openai.body import BodyT, read_body
from treeserve.server.openai.exchange import Exchange
from treeserve.server.openai.failures import failure_of
from treeserve.server.openai.token_texts import TokenTexts
from treeserve.server.refusals import DeadlinePassed, ReaderTooSlow, Unauthenticated
from treeserve.server.status import code_of
from treeserve.types import Prompt, RequestOptions, StreamEvent

if TYPE_CHECKING:
    from treeserve.prefixes.keeper import PrefixKeeper

SERVICE_NAME = "openai.v1"
"""In logs and traces."""

_DAY_SECONDS = 86_400.0
_RETAINED_WEIGHT = 1.0


class Drawn(NamedTuple, Generic[BodyT]):
    """A method that draws: its name in logs, the shape of its body, and who reads it."""

    name: str
    schema: type[BodyT]
    read: Callable[[BodyT, ServedModel, TokenText], Asked]


class Told(NamedTuple, Generic[BodyT]):
    """A method that answers at once from what the model is."""

    name: str
    schema: type[BodyT]
    tell: Callable[[BodyT, TextService, ServedModel], Json]


class HttpDoor:
    """Answers HTTP requests from what gRPC calls are answered from; a failure ends its call alone.

    Args:
        doors: Decide whether a call may run.
        endings: Tell of every call.
        generating: Starts what is asked for.
        config: How much a caller may send, and leave unread.
    """

    def __init__(
        self, doors: Doors, endings: Endings, generating: Generating, config: ServerConfig
    ) -> None:
        self.keeper: PrefixKeeper | None = None
        """None: no prompt can be retained."""
        self._doors = doors
        self._endings = endings
        self._generating = generating
        self._config = config
        self._texts = TokenTexts()

    async def draw(self, method: Drawn[BodyT], exchange: Exchange) -> None:
        """Answer with samples, as a stream or at their end."""
        async with self._known(method.name, exchange) as known:
            with known.call.enter():
                data = await exchange.read_body(self._config.load.max_message_bytes)
                async with exchange.watched():
                    await self._draw(method, data, known, exchange)

    async def tell(self, method: Told[BodyT], exchange: Exchange) -> None:
        """Answer with what the model knows at once."""
        async with self._known(method.name, exchange) as known:
            with known.call.enter():
                data = await exchange.read_body(self._config.load.max_message_bytes)
                service, model = self._generating.ready(), self._generating.model
                body = await self._generating.tokenise(
                    lambda: method.tell(read_body(method.schema, data), service, model)
                )
                await exchange.send_json(body)

    async def show(
        self, name: str, answer: Callable[[ServedModel], Json], exchange: Exchange
    ) -> None:
        """Answer with what is known of the model."""
        async with self._known(name, exchange):
            self._generating.ready()
            await exchange.send_json(answer(self._generating.model))

    async def _draw(
        self, method: Drawn[BodyT], data: bytes, known: Known, exchange: Exchange
    ) -> None:
        service = self._generating.ready()
        read = partial(self._read, method, data, self._texts.of(service))
        asked = await self._generating.tokenise(read)
        with _named(asked.param_of):
            await self._retain(asked.retained, known)
            stream = await self._generating.open(known, _already(asked.call))
            async with aclosing(stream) as events:
                send = self._send_stream if asked.is_streamed else self._send_whole
                await send(events, asked, exchange)

    def _read(self, method: Drawn[BodyT], data: bytes, text_of: TokenText) -> Asked:
        return method.read(read_body(method.schema, data), self._generating.model, text_of)

    async def _retain(self, prompt: Prompt | None, known: Known) -> None:
        if prompt is None:
            return
        known.call.require(Permission.RETAIN)
        if self.keeper is None:
            raise NotPossible("prompt_cache_retention: this server has nothing to retain with")
        await self.keeper.retain(prompt, known.call.tenant, _RETAINED_WEIGHT, _DAY_SECONDS)

    async def _send_whole(self, events: EventStream, asked: Asked, exchange: Exchange) -> None:
        collected, is_late = Collected(), False
        async for event in events:
            for prompt_events in group([event]):
                collected.keep(prompt_events)
                is_late = is_late or ends_late(prompt_events)
        if is_late:
            raise DeadlinePassed("the deadline passed before all samples had ended")
        await exchange.send_json(asked.answer.whole(collected))

    async def _send_stream(self, events: EventStream, asked: Asked, exchange: Exchange) -> None:
        is_late = False
        # A refused call ends here, before any header is sent: its status says why.
        first: StreamEvent | None = await anext(events, None)
        await exchange.begin_stream()
        most = self._config.load.max_buffered_bytes
        async with batched(events, most, first, self._generating.hold_seconds) as batches:
            async for batch in batches:
                chunks = [chunk for events in batch for chunk in asked.answer.chunks(events)]
                await exchange.send_chunks(chunks)
                is_late = is_late or any(map(ends_late, batch))
        if is_late:
            raise DeadlinePassed("the deadline passed before all samples had ended")
        await exchange.send_chunks(asked.answer.last())
        await exchange.end_stream()

    @asynccontextmanager
    async def _known(self, name: str, exchange: Exchange) -> AsyncIterator[Known]:
        """While a call runs whose caller may generate; what it raises ends it, and goes no further.

        The body may not come to its end, and what follows it is done all the same.
        """
        record = open_record(name, exchange.metadata, SERVICE_NAME, "http")
        exchange.name_call(record.request_id)
        with self._endings.running(record):
            code = grpc.StatusCode.OK
            try:
                record.identity = self._identify(exchange)
                call = Call(record, self._doors)
                call.require(Permission.GENERATE)
                yield Known(call, _options(exchange, call.identity))
            except asyncio.CancelledError:
                code = await self._end_cancelled(exchange)
            except Exception as error:
                code = await self._end_failed(error, exchange)
            finally:
                self._endings.tell(record, code.name)

    async def _end_cancelled(self, exchange: Exchange) -> grpc.StatusCode:
        """Raises CancelledError where neither the caller's going nor the server ended the call."""
        task = asyncio.current_task()
        assert task is not None
        if exchange.is_gone:
            task.uncancel()
            return grpc.StatusCode.CANCELLED
        error = self._endings.why_cut_short()
        if error is None:
            raise asyncio.CancelledError
        task.uncancel()
        await exchange.fail(failure_of(error))
        return code_of(error)

    async def _end_failed(self, error: Exception, exchange: Exchange) -> grpc.StatusCode:
        if exchange.is_gone:
            return grpc.StatusCode.CANCELLED
        # One who does not read would not read this either: the connection ends.
        if not isinstance(error, ReaderTooSlow):
            await exchange.fail(failure_of(error))
        return code_of(error)

    def _identify(self, exchange: Exchange) -> Identity:
        """Raises Unauthenticated: HTTP asks for no client certificates, so they open nothing."""
        if self._doors.doorkeeper.asks_for_keys:
            return self._doors.doorkeeper.identify_key(exchange.authorization())
        if self._config.by_certificate:
            raise Unauthenticated(
                "this server knows callers by client certificates, which it takes over gRPC alone"
            )
        return ANYBODY


def _already(asked: AskedCall) -> Callable[[], AskedCall]:
    return lambda: asked


@contextmanager
def _named(param_of: Callable[[str], str]) -> Iterator[None]:
    """Errors name fields as the request does."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(param_of(error.field), error.description) from None


def _options(exchange: Exchange, identity: Identity) -> RequestOptions:
    """When a call came, when it has to end, and whose it is."""
    now = time.monotonic()
    left = exchange.timeout_seconds()
    return RequestOptions(
        arrived_at=now,
        deadline=None if left is None else now + left,
        namespace=identity.tenant,
        tenant=identity.tenant,
    )

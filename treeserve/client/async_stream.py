"""Calls for asyncio over a channel, made again where that is safe, and their streams."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio

from treeserve.client.call import Call, Stubs
from treeserve.client.endpoint import Endpoint
from treeserve.client.gathering import Completion, Forks, Gathering, SampleHandle
from treeserve.client.generation_calls import Events
from treeserve.client.remote_error import RemoteError, read_error
from treeserve.client.retries import Attempts, Retries
from treeserve.types import Delta, Finished, Started, StreamEvent, Usage

ReadT = TypeVar("ReadT")
_pause = asyncio.sleep


class AsyncConnection:
    """A channel and how calls are made over it; for one event loop.

    Args:
        endpoint: Where and how to connect.
        retries: How often calls are made again.
        timeout_seconds: Of calls that bring none; None: no limit.
    """

    def __init__(self, endpoint: Endpoint, retries: Retries, timeout_seconds: float | None) -> None:
        options = endpoint.channel_options()
        if endpoint.tls is None:
            self._channel = grpc.aio.insecure_channel(endpoint.address, options=options)
        else:
            credentials = endpoint.tls.credentials()
            self._channel = grpc.aio.secure_channel(endpoint.address, credentials, options=options)
        self._stubs = Stubs(self._channel)
        self._metadata = endpoint.metadata()
        self._retries = retries
        self._timeout_seconds = timeout_seconds

    async def close(self) -> None:
        """End what still runs."""
        await self._channel.close(None)

    def attempts(
        self, call: Call[object], timeout_seconds: float | None, retries: Retries | None = None
    ) -> Attempts:
        """Of a call that begins now."""
        return Attempts(
            retries or self._retries,
            self._timeout_seconds if timeout_seconds is None else timeout_seconds,
            repeats_lost=call.repeats_lost,
            repeats_exactly=call.repeats_exactly,
        )

    def start(self, call: Call[object], attempts: Attempts) -> Any:
        """One attempt of a stream."""
        method = self._stubs.method(call)
        try:
            return method(call.request, timeout=attempts.seconds_left(), metadata=self._metadata)
        except grpc.aio.UsageError:
            raise RemoteError("CANCELLED", "the client is closed") from None

    async def unary(
        self,
        call: Call[ReadT],
        timeout_seconds: float | None = None,
        retries: Retries | None = None,
    ) -> ReadT:
        """The answer to a call.

        Raises:
            RemoteError: The last attempt failed.
        """
        attempts = self.attempts(call, timeout_seconds, retries)
        while True:
            try:
                return call.read(await self.start(call, attempts))
            except grpc.aio.AioRpcError as error:
                await self.wait(attempts, error, has_begun=False, is_told=False)

    async def stream(
        self, call: Call[ReadT], timeout_seconds: float | None
    ) -> AsyncGenerator[ReadT, None]:
        """The answers to a call, as they come; closing the iterator cancels it."""
        attempts = self.attempts(call, timeout_seconds)
        while True:
            has_begun = False
            running = self.start(call, attempts)
            try:
                async for response in running:
                    has_begun = True
                    yield call.read(response)
                return
            except grpc.aio.AioRpcError as error:
                await self.wait(attempts, error, has_begun=has_begun, is_told=has_begun)
            finally:
                running.cancel()

    async def wait(
        self, attempts: Attempts, error: grpc.aio.AioRpcError, *, has_begun: bool, is_told: bool
    ) -> None:
        """Until the next attempt; raises the RemoteError where there must be none."""
        known = read_error(error.code(), error.details(), error.trailing_metadata())
        delay = attempts.delay_after(known, has_begun=has_begun, is_told=is_told)
        if delay is None:
            raise known from None
        await _pause(delay)


class AsyncStream:
    """Samples as they grow: deltas, and each prompt's usage after its last one.

    The call is made when the first is asked for. Closing the stream, or leaving its `async
    with` statement, ends its samples within a step of the server. Another task can end it
    by AsyncClient.abort().
    """

    def __init__(
        self,
        connection: AsyncConnection,
        call: Call[Events],
        forks: "Forks[AsyncStream]",
        timeout_seconds: float | None,
    ) -> None:
        self._connection = connection
        self._call = call
        self._timeout_seconds = timeout_seconds
        self._forks = forks
        self._gathering: Gathering[AsyncStream] = Gathering(forks)
        self._has_begun = False
        self._events = self._tell()

    def __aiter__(self) -> "AsyncStream":
        return self

    async def __anext__(self) -> Delta | Finished:
        async for event in self._events:
            if isinstance(event, Delta | Finished):
                return event
        raise StopAsyncIteration

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the call, if it runs; its samples end with it."""
        await self._events.aclose()

    def events(self) -> AsyncIterator[StreamEvent]:
        """All that the server tells, Started, Progress and TreeFinished among it."""
        return self._events

    async def collect(self) -> "list[Completion[AsyncStream]]":
        """Finished samples of every prompt, depth first, once all have ended.

        Since nothing is seen before the end, a call whose parameters have a seed is made again
        even after the server was lost in the middle of it.

        Raises:
            InvalidRequest: Names the field and the limit.
            RemoteError: Anything else that goes wrong.
            RuntimeError: Something of the stream has been read already.
        """
        self._begin()
        attempts = self._connection.attempts(self._call, self._timeout_seconds)
        while True:
            self._gathering = Gathering(self._forks)
            has_begun = False
            running = self._connection.start(self._call, attempts)
            try:
                async for response in running:
                    has_begun = True
                    for event in self._call.read(response):
                        self._gathering.see(event, keep_samples=True)
                return self._gathering.completions()
            except grpc.aio.AioRpcError as error:
                await self._connection.wait(attempts, error, has_begun=has_begun, is_told=False)
            finally:
                running.cancel()

    @property
    def request_id(self) -> str:
        """Of the request, for AsyncClient.abort().

        Raises:
            LookupError: The server has not told it yet.
        """
        return self._gathering.request_id

    @property
    def started(self) -> Mapping[tuple[int, ...], Started]:
        """By path, what the server told of the prompts that it has taken so far."""
        return self._gathering.started

    @property
    def tree_usage(self) -> Usage | None:
        """Of a tree that has ended: its tokens, those that several prompts share counted once."""
        return self._gathering.tree_usage

    def sample(self, index: int = 0, path: tuple[int, ...] = ()) -> "SampleHandle[AsyncStream]":
        """A sample that may still run, to be branched.

        Raises:
            LookupError: Nothing has been told of its prompt yet.
        """
        return self._gathering.handle(index, path)

    def _begin(self) -> None:
        if self._has_begun:
            raise RuntimeError("the stream has been read already; make the call again")
        self._has_begun = True

    async def _tell(self) -> AsyncGenerator[StreamEvent, None]:
        self._begin()
        async with aclosing(self._connection.stream(self._call, self._timeout_seconds)) as messages:
            async for events in messages:
                for event in events:
                    self._gathering.see(event, keep_samples=False)
                    yield event

"""Blocking calls over a channel, made again where that is safe, and their streams."""

import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from types import TracebackType
from typing import Any, TypeVar

import grpc

from treeserve.client.call import Call, Stubs
from treeserve.client.endpoint import Endpoint
from treeserve.client.gathering import Completion, Forks, Gathering, SampleHandle
from treeserve.client.generation_calls import Events
from treeserve.client.remote_error import RemoteError, read_error
from treeserve.client.retries import Attempts, Retries
from treeserve.types import Delta, Finished, Started, StreamEvent, Usage

ReadT = TypeVar("ReadT")


class BlockingConnection:
    """A channel and how calls are made over it; for all threads.

    Args:
        endpoint: Where and how to connect.
        retries: How often calls are made again.
        timeout_seconds: Of calls that bring none; None: no limit.
    """

    def __init__(self, endpoint: Endpoint, retries: Retries, timeout_seconds: float | None) -> None:
        options = endpoint.channel_options()
        if endpoint.tls is None:
            self._channel = grpc.insecure_channel(endpoint.address, options)
        else:
            credentials = endpoint.tls.credentials()
            self._channel = grpc.secure_channel(endpoint.address, credentials, options)
        self._stubs = Stubs(self._channel)
        self._metadata = endpoint.metadata()
        self._retries = retries
        self._timeout_seconds = timeout_seconds
        self._closed = threading.Event()

    def close(self) -> None:
        """End what still runs, and what waits to be made again."""
        self._closed.set()
        self._channel.close()

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
        except ValueError:
            if not self._closed.is_set():
                raise
            raise RemoteError("CANCELLED", "the client is closed") from None

    def unary(
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
                return call.read(self.start(call, attempts))
            except grpc.RpcError as error:
                self.wait(attempts, error, has_begun=False, is_told=False)

    def stream(
        self, call: Call[ReadT], timeout_seconds: float | None
    ) -> Generator[ReadT, None, None]:
        """The answers to a call, as they come; closing the iterator cancels it."""
        attempts = self.attempts(call, timeout_seconds)
        while True:
            has_begun = False
            running = self.start(call, attempts)
            try:
                for response in running:
                    has_begun = True
                    yield call.read(response)
                return
            except grpc.RpcError as error:
                self.wait(attempts, error, has_begun=has_begun, is_told=has_begun)
            finally:
                running.cancel()

    def wait(self, attempts: Attempts, error: Any, *, has_begun: bool, is_told: bool) -> None:
        """Until the next attempt; raises the RemoteError where there must be none."""
        known = read_error(error.code(), error.details(), error.trailing_metadata())
        delay = attempts.delay_after(known, has_begun=has_begun, is_told=is_told)
        if delay is None or self._closed.wait(delay):
            raise known from None


class Stream:
    """Samples as they grow: deltas, and each prompt's usage after its last one.

    The call is made when the first is asked for. Closing the stream, or leaving its `with`
    statement, ends its samples within a step of the server. It belongs to one thread; another one
    can end it by Client.abort().
    """

    def __init__(
        self,
        connection: BlockingConnection,
        call: Call[Events],
        forks: "Forks[Stream]",
        timeout_seconds: float | None,
    ) -> None:
        self._connection = connection
        self._call = call
        self._timeout_seconds = timeout_seconds
        self._forks = forks
        self._gathering: Gathering[Stream] = Gathering(forks)
        self._has_begun = False
        self._events = self._tell()

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Delta | Finished:
        for event in self._events:
            if isinstance(event, Delta | Finished):
                return event
        raise StopIteration

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the call, if it runs; its samples end with it."""
        self._events.close()

    def events(self) -> Iterator[StreamEvent]:
        """All that the server tells, Started, Progress and TreeFinished among it."""
        return self._events

    def collect(self) -> "list[Completion[Stream]]":
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
                for response in running:
                    has_begun = True
                    for event in self._call.read(response):
                        self._gathering.see(event, keep_samples=True)
                return self._gathering.completions()
            except grpc.RpcError as error:
                self._connection.wait(attempts, error, has_begun=has_begun, is_told=False)
            finally:
                running.cancel()

    @property
    def request_id(self) -> str:
        """Of the request, for Client.abort().

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

    def sample(self, index: int = 0, path: tuple[int, ...] = ()) -> "SampleHandle[Stream]":
        """A sample that may still run, to be branched.

        Raises:
            LookupError: Nothing has been told of its prompt yet.
        """
        return self._gathering.handle(index, path)

    def _begin(self) -> None:
        if self._has_begun:
            raise RuntimeError("the stream has been read already; make the call again")
        self._has_begun = True

    def _tell(self) -> Generator[StreamEvent, None, None]:
        self._begin()
        with closing(self._connection.stream(self._call, self._timeout_seconds)) as messages:
            for events in messages:
                for event in events:
                    self._gathering.see(event, keep_samples=False)
                    yield event

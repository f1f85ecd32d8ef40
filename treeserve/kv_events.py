"""Publishes what blocks the tree holds over ZeroMQ, in vLLM's layout, for routers outside."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq

from treeserve.errors import ConfigError
from treeserve.scheduler.tree.block_book import BlockBook, BlockChange, BlocksRemoved

logger = logging.getLogger(__name__)

MAX_BUFFERED_BATCHES = 10_000
"""Of those that were sent, the last ones, for whoever asks for them again."""
_END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)
_MEDIUM = "GPU"
_STOP = b""


class KVEventPublisher:
    """One message for each step that changed something: topic, number, and a batch in msgpack.

    The batch is `[seconds, events, 0]`; an event is `["BlockStored", hashes, parent hash or nil,
    token ids, block size, nil, "GPU"]`, `["BlockRemoved", hashes, "GPU"]` or
    `["AllBlocksCleared"]`, with which the first message begins. Numbers are 8 bytes, big-endian,
    from 0; one that is missing was lost, and can be asked for at the replay endpoint as at vLLM's.

    Args:
        endpoint: Of the PUB socket: bound if there is a `*` in it, else connected to.
        replay_endpoint: Of the ROUTER socket, which is bound; None: there is none.
        topic: As routers expect it: llm-d takes `kv@POD@MODEL`.
        book: Of the engine's tree.

    Raises:
        ConfigError: An endpoint cannot be had.
    """

    def __init__(
        self, endpoint: str, replay_endpoint: str | None, topic: str, book: BlockBook
    ) -> None:
        self._book = book
        self._topic = topic.encode()
        self._number = 0
        self._context = zmq.Context()
        self._buffer: deque[tuple[bytes, bytes]] = deque(maxlen=MAX_BUFFERED_BATCHES)
        self._published = self._context.socket(zmq.PUB)
        self._replay = self._context.socket(zmq.ROUTER)
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.bind("inproc://batches")
        try:
            self.endpoint = _open("kv_events", self._published, endpoint, "*" in endpoint)
            self.replay_endpoint = None
            if replay_endpoint is not None:
                self.replay_endpoint = _open("kv_events_replay", self._replay, replay_endpoint)
        except ConfigError:
            self._context.destroy(linger=0)
            raise
        self._outbox = self._connect()
        self._send([["AllBlocksCleared"]])
        self._thread = threading.Thread(target=self._run, name="treeserve-kv-events", daemon=True)
        self._thread.start()

    def publish(self) -> None:
        """Tell what has changed since the last time; in the engine's thread, between steps."""
        changes = self._book.take_changes()
        if changes:
            self._send([_event(change, self._book.block_size) for change in changes])

    def close(self) -> None:
        """Send what is on its way, and end."""
        stop = self._connect()
        stop.send_multipart((_STOP, _STOP))
        self._thread.join()
        stop.close()
        self._outbox.close()
        self._context.term()

    def _connect(self) -> "zmq.Socket[bytes]":
        socket = self._context.socket(zmq.PUSH)
        socket.connect("inproc://batches")
        return socket

    def _send(self, events: Sequence[Sequence[Any]]) -> None:
        number, self._number = self._number.to_bytes(8, "big"), self._number + 1
        payload = msgspec.msgpack.encode([time.time(), events, 0])
        try:
            self._outbox.send_multipart((number, payload), zmq.NOBLOCK)
        except zmq.Again:
            # Whoever listens sees that the number is missing.
            logger.warning("KV events of a step were dropped: the network does not take them")

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._inbox, zmq.POLLIN)
        poller.register(self._replay, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._replay in ready:
                self._answer(self._replay.recv_multipart())
            if self._inbox in ready:
                number, payload = self._inbox.recv_multipart()
                if payload == _STOP:
                    break
                self._buffer.append((number, payload))
                self._published.send_multipart((self._topic, number, payload))
        for socket in (self._published, self._replay, self._inbox):
            socket.close(linger=1000)

    def _answer(self, frames: list[bytes]) -> None:
        if len(frames) != 3 or len(frames[2]) != 8:
            logger.warning("a replay of KV events was asked for in another form than 8 bytes")
            return
        client, _, first = frames
        for number, payload in self._buffer:
            if number >= first:
                self._replay.send_multipart((client, b"", number, payload))
        self._replay.send_multipart((client, b"", _END_OF_REPLAY, b""))


def _open(option: str, socket: "zmq.Socket[bytes]", endpoint: str, binds: bool = True) -> str:
    """The endpoint as it is, with its port."""
    try:
        (socket.bind if binds else socket.connect)(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError(
            f"{option}: cannot use {endpoint}: {error}; try tcp://127.0.0.1:* or tcp://*:5557"
        ) from error
    return socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def _event(change: BlockChange, block_size: int) -> list[Any]:
    if isinstance(change, BlocksRemoved):
        return ["BlockRemoved", change.hashes, _MEDIUM]
    tokens = change.token_ids.tolist()
    return [
        "BlockStored", change.hashes, change.parent_hash, tokens, block_size, None, _MEDIUM
    ]  # fmt: skip

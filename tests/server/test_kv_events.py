"""A subscriber that knows vLLM's KV events learns what the cache holds, over real sockets."""

from typing import Any

import pytest

msgspec = pytest.importorskip("msgspec", reason="needs treeserve[kv-events]")
zmq = pytest.importorskip("zmq", reason="needs treeserve[kv-events]")

from treeserve.building import BuiltEngine, build_engine  # noqa: E402
from treeserve.commands.kv_event_options import KVEventOptions, open_kv_events  # noqa: E402
from treeserve.commands.main import main  # noqa: E402
from treeserve.config import EngineOptions  # noqa: E402
from treeserve.engine_messages import EngineRequest  # noqa: E402
from treeserve.errors import ConfigError  # noqa: E402
from treeserve.types import SamplingParams  # noqa: E402

ANY_PORT = "tcp://127.0.0.1:*"
SECONDS = 60


class BlockStored(msgspec.Struct, array_like=True, omit_defaults=True, tag=True):
    """Fields and their order are vLLM's (vllm/distributed/kv_events.py), as are the others'."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None = None


class BlockRemoved(msgspec.Struct, array_like=True, omit_defaults=True, tag=True):
    block_hashes: list[int]
    medium: str | None


class AllBlocksCleared(msgspec.Struct, array_like=True, omit_defaults=True, tag=True):
    pass


class KVEventBatch(msgspec.Struct, array_like=True, omit_defaults=True):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


decode = msgspec.msgpack.Decoder(KVEventBatch).decode


@pytest.fixture
def built(checkpoint_of) -> BuiltEngine:
    return build_engine(EngineOptions(model=str(checkpoint_of("llama")), num_pages=16, page_size=4))


@pytest.fixture
def publisher(built):
    opened = open_kv_events(KVEventOptions(ANY_PORT, ANY_PORT, "kv@10.0.0.7@m", 4), built)
    yield opened
    opened.close()


@pytest.fixture
def socket_of():
    with zmq.Context() as context:
        sockets = []

        def connect(kind: int, endpoint: str) -> Any:
            socket = context.socket(kind)
            socket.setsockopt(zmq.RCVTIMEO, SECONDS * 1000)
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(endpoint)
            sockets.append(socket)
            return socket

        yield connect
        for socket in sockets:
            socket.close()


def run(built: BuiltEngine, publisher, name: str, prompt: range) -> None:
    params = SamplingParams(max_tokens=1, temperature=0, seed=1)
    built.engine.add(EngineRequest(name, tuple(prompt), params))
    while built.engine.has_work():
        built.engine.step()
        publisher.publish()


def replayed(socket_of, publisher, first: int) -> list[tuple[int, KVEventBatch]]:
    """The batches from a number on, as vLLM has them asked for."""
    socket = socket_of(zmq.DEALER, publisher.replay_endpoint)
    socket.send_multipart((b"", first.to_bytes(8, "big")))
    found = []
    while True:
        _, number, payload = socket.recv_multipart()
        if not payload:
            return found
        found.append((int.from_bytes(number, "big"), decode(payload)))


def test_blocks_that_are_computed_and_evicted_are_told_in_vllms_layout(built, publisher, socket_of):
    run(built, publisher, "a", range(1, 13))
    run(built, publisher, "b", range(101, 161))
    batches = replayed(socket_of, publisher, 0)
    assert [number for number, _ in batches] == list(range(len(batches)))
    assert all(batch.data_parallel_rank == 0 for _, batch in batches)
    events = [event for _, batch in batches for event in batch.events]
    assert isinstance(events[0], AllBlocksCleared)
    first = events[1]
    assert isinstance(first, BlockStored)
    assert first.token_ids == list(range(1, 13))
    assert (first.block_size, len(first.block_hashes)) == (4, 3)
    assert (first.parent_block_hash, first.lora_id, first.medium) == (None, None, "GPU")
    removed = [h for event in events if isinstance(event, BlockRemoved) for h in event.block_hashes]
    assert removed, "the second prompt has no room beside the first"
    assert set(removed) <= set(first.block_hashes)
    assert replayed(socket_of, publisher, len(batches) - 1)[0][0] == len(batches) - 1


def test_a_subscriber_gets_topic_number_and_batch(built, publisher, socket_of):
    socket = socket_of(zmq.SUB, publisher.endpoint)
    socket.setsockopt(zmq.SUBSCRIBE, b"kv@")
    # Who subscribes late misses what was sent before: so one prompt after another, until one comes.
    poller, number = zmq.Poller(), 0
    poller.register(socket, zmq.POLLIN)
    while not poller.poll(50):
        run(built, publisher, str(number), range(number % 50 + 1, number % 50 + 13))
        number += 1
        assert number < 1000
    topic, sequence, payload = socket.recv_multipart()
    assert topic == b"kv@10.0.0.7@m"
    first = int.from_bytes(sequence, "big")
    assert replayed(socket_of, publisher, first)[0] == (first, decode(payload))


def test_a_malformed_replay_request_is_ignored(built, publisher, socket_of):
    socket = socket_of(zmq.DEALER, publisher.replay_endpoint)
    socket.send_multipart((b"", b"all of it"))
    socket.send(b"")
    run(built, publisher, "a", range(1, 13))
    assert len(replayed(socket_of, publisher, 0)) >= 2


def test_an_endpoint_that_is_taken_is_an_error_that_names_it(built, publisher):
    taken = KVEventOptions(ANY_PORT, publisher.endpoint, None, 4)
    with pytest.raises(ConfigError, match=r"kv_events_replay: cannot use tcp://127.0.0.1:\d+"):
        open_kv_events(taken, built)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kv-events", "5557"], "kv_events: '5557' is no endpoint; try tcp://"),
        (["--kv-events-topic", "kv"], "kv_events_topic: is of no use without --kv-events"),
        (
            ["--kv-events", ANY_PORT, "--kv-events-block", "0"],
            "kv_events_block: must be at least 1",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message, capsys):
    assert main(["serve", *options]) == 2
    assert message in capsys.readouterr().err


def test_packages_that_are_missing_are_named(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", "--kv-events", ANY_PORT]) == 2
    assert "pip install 'treeserve[kv-events]'" in capsys.readouterr().err

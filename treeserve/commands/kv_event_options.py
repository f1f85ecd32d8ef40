"""The options of `treeserve serve` for KV events, and their publisher for a loaded engine."""

import argparse
import importlib.util
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from treeserve.errors import ConfigError

if TYPE_CHECKING:
    from treeserve.building import BuiltEngine
    from treeserve.kv_events import KVEventPublisher


@dataclass(frozen=True, slots=True)
class KVEventOptions:
    """Checked at the start, before a model is loaded."""

    endpoint: str
    replay_endpoint: str | None
    topic: str | None
    block_size: int


def add_kv_event_options(group: "argparse._ArgumentGroup") -> None:
    """Declare them."""
    group.add_argument(
        "--kv-events", metavar="ENDPOINT",
        help="publish which blocks the cache holds, with the token ids that clients wrote, for "
        "routers that read vLLM's KV events; bound if there is a * in it, such as tcp://*:5557, "
        "else connected to; default: nowhere",
    )  # fmt: skip
    group.add_argument(
        "--kv-events-replay", metavar="ENDPOINT",
        help="where batches of events can be asked for again; default: nowhere",
    )  # fmt: skip
    group.add_argument(
        "--kv-events-topic", metavar="TOPIC",
        help="default: kv@HOST@MODEL; llm-d takes the pod's address for HOST",
    )  # fmt: skip
    group.add_argument(
        "--kv-events-block", type=int, default=16, metavar="TOKENS",
        help="tokens of a block, as the router counts them; default: %(default)s",
    )  # fmt: skip


def read_kv_event_options(args: argparse.Namespace) -> KVEventOptions | None:
    """None: they are not asked for.

    Raises:
        ConfigError: They do not go together, are malformed, or a package is missing.
    """
    if args.kv_events is None:
        for name in ("kv_events_replay", "kv_events_topic"):
            if getattr(args, name) is not None:
                raise ConfigError(f"{name}: is of no use without --kv-events")
        return None
    for name in ("kv_events", "kv_events_replay"):
        endpoint = getattr(args, name)
        if endpoint is not None and not endpoint.startswith(("tcp://", "ipc://")):
            raise ConfigError(f"{name}: {endpoint!r} is no endpoint; try tcp://127.0.0.1:5557")
    if args.kv_events_block < 1:
        raise ConfigError(f"kv_events_block: must be at least 1, got {args.kv_events_block}")
    missing = [name for name in ("zmq", "msgspec") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError("kv_events: needs pyzmq and msgspec; pip install 'treeserve[kv-events]'")
    return KVEventOptions(
        args.kv_events, args.kv_events_replay, args.kv_events_topic, args.kv_events_block
    )


def open_kv_events(
    options: KVEventOptions | None, built: "BuiltEngine"
) -> "KVEventPublisher | None":
    """For an engine whose loop has not started.

    Raises:
        ConfigError: An endpoint cannot be had.
    """
    if options is None:
        return None
    from treeserve.kv_events import KVEventPublisher
    from treeserve.scheduler.tree.block_book import BlockBook

    topic = options.topic or f"kv@{socket.gethostname()}@{built.model.name}"
    book = BlockBook(options.block_size)
    publisher = KVEventPublisher(options.endpoint, options.replay_endpoint, topic, book)
    tree, _ = built.engine.scheduler.insides()
    tree.watch(book)
    return publisher

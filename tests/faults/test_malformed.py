"""Whatever bytes come to whichever method, there is one clear answer and nothing is held."""

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from faults.spotless import CODE, METHODS, call, nothing_is_held, serves, spotless_house
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server.any_messages import KNOWN, SCHEMA, messages
from server.side_house import House, prefix

from treeserve.pb import generation_pb2 as pb
from treeserve.pb import module_pb2, prefix_pb2

NUM_MESSAGES = 1000
"""Of all methods together, at least."""
AT_ONCE = 5
REFUSALS = {
    CODE.INVALID_ARGUMENT,
    CODE.OUT_OF_RANGE,
    CODE.NOT_FOUND,
    CODE.ALREADY_EXISTS,
    CODE.FAILED_PRECONDITION,
    CODE.UNIMPLEMENTED,
    CODE.RESOURCE_EXHAUSTED,
}
TAKING_AWAY = ("DeleteSaved", "DeleteSavedSchema", "DeleteSchema", "Release")
QUIET = sorted(
    METHODS.keys() - {"Drain", "Calibrate"}, key=lambda method: (method in TAKING_AWAY, method)
)
"""Methods that leave the server to those who come after them; last, what takes things away."""


def share_of(method: str) -> int:
    """How many requests a method gets: more where there is more to get wrong."""
    if not METHODS[method].input_type.fields:
        return 5
    if METHODS[method].server_streaming and method != "WatchTree":
        return 150
    return 75 if method in ("Warm", "Retain", "Save", "Restore") else 30


def message_class(method: str) -> type[Message]:
    return GetMessageClass(METHODS[method].input_type)


@st.composite
def serialised(draw, method: str) -> tuple[str, bytes]:
    """Half of the messages are nearly right."""
    message = draw(messages(message_class(method), right=draw(st.sampled_from([1, 14]))))
    return method, message.SerializeToString()


@st.composite
def broken(draw, method: str) -> tuple[str, bytes]:
    """Bytes of a message with some of them changed, cut off, doubled or added; or any at all."""
    method, data = draw(serialised(method))
    chance = random.Random(draw(st.integers(0, 2**32)))
    kind = chance.randrange(5)
    if kind == 0:
        return method, chance.randbytes(chance.randrange(60))
    changed = bytearray(data or b"\x0a")
    place = chance.randrange(len(changed))
    if kind == 1:
        changed[place] ^= 1 << chance.randrange(8)
    elif kind == 2:
        del changed[place:]
    elif kind == 3:
        changed += changed[place:]
    else:
        changed[place:place] = chance.randbytes(3)
    return method, bytes(changed)


class Trial:
    """One server for all examples, in an event loop that lives between them."""

    def __init__(self, options, folder) -> None:
        self.loop = asyncio.new_event_loop()
        self._context = spotless_house(options, folder)
        self.house: House = self.loop.run_until_complete(self._context.__aenter__())
        self.codes: Counter[tuple[str, str]] = Counter()

    def close(self) -> None:
        self.loop.run_until_complete(self._context.__aexit__(None, None, None))
        self.loop.close()

    def run(self, requests: list[tuple[str, bytes]]) -> None:
        self.loop.run_until_complete(self._run(requests))

    async def _run(self, requests: list[tuple[str, bytes]]) -> None:
        answers = await asyncio.gather(*(call(self.house, *request) for request in requests))
        for (method, data), (code, details) in zip(requests, answers, strict=True):
            self.codes[method, code.name] += 1
            assert code is CODE.OK or (code in REFUSALS and details), (method, data, code, details)
        await nothing_is_held(self.house)

    def told(self) -> Counter[str]:
        """Answers by status; printed, for whoever runs this with -s."""
        by_code: Counter[str] = Counter()
        for (_, code), count in self.codes.items():
            by_code[code] += count
        print(f"\n{sum(by_code.values())} requests: {dict(by_code.most_common())}")
        for entry, count in sorted(self.codes.items()):
            print(f"  {count:5} {' '.join(entry)}")
        return by_code


@contextmanager
def trying(options, folder) -> Iterator[Trial]:
    """A trial in which a request has run, and a prefix and a schema are kept and saved."""
    level = logging.getLogger().level
    trial = Trial(options, folder)
    known = pb.GenerateRequest(text="ab", n=2, options=pb.RequestOptions(request_id=KNOWN))
    known.params.stopping.max_tokens = 5
    kept = prefix("ab")
    trial.run([("Generate", known.SerializeToString())])
    trial.run([("Retain", prefix_pb2.RetainRequest(prefix=kept).SerializeToString())])
    trial.run([("Save", prefix_pb2.SaveRequest(name="saved", prefix=kept).SerializeToString())])
    trial.run([("PutSchema", module_pb2.PutSchemaRequest(pml=SCHEMA).SerializeToString())])
    save_schema = module_pb2.SaveSchemaRequest(name="saved")
    trial.run([("SaveSchema", save_schema.SerializeToString())])
    try:
        yield trial
        trial.loop.run_until_complete(serves(trial.house))
    finally:
        trial.close()
        logging.getLogger().setLevel(level)


def try_all(trial: Trial, strategy, methods: list[str]) -> Counter[str]:
    """Requests to each method by its share, always the same ones, a few at once; answers."""
    for method in methods:
        some = st.lists(strategy(method), min_size=AT_ONCE, max_size=AT_ONCE)
        limits = settings(
            max_examples=share_of(method) // AT_ONCE,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        limits(given(some)(trial.run))()
    return trial.told()


@pytest.mark.slow
def test_a_thousand_messages_of_all_services_hold_nothing_afterwards(
    plain_options, tmp_path, expected
):
    expected.log("a guided sample cannot go on")
    with trying(replace(plain_options, overlap="on"), tmp_path / "saved") as trial:
        by_code = try_all(trial, serialised, QUIET)
    assert by_code.total() >= NUM_MESSAGES
    assert by_code["INVALID_ARGUMENT"] >= NUM_MESSAGES // 3
    assert {method for method, code in trial.codes if code == "OK"} == set(QUIET)


@pytest.mark.slow
def test_bytes_that_are_no_message_hold_nothing_afterwards(plain_options, tmp_path, expected):
    expected.log("a guided sample cannot go on")
    with trying(plain_options, tmp_path / "saved") as trial:
        by_code = try_all(trial, broken, QUIET)
    assert by_code["INVALID_ARGUMENT"] >= NUM_MESSAGES // 3


def is_refused(method: str, data: bytes) -> bool:
    """Whether a Drain or Calibrate with these bytes has to be an error."""
    try:
        message = message_class(method).FromString(data)
    except DecodeError:
        return True
    return method == "Calibrate" and message.HasField("seconds") and not 1 <= message.seconds <= 60


async def test_a_malformed_drain_or_calibration_is_refused_and_neither_begins(plain_options):
    chance = random.Random(1)
    wrong = [0.0, -1.0, 0.99, 60.01, 1e300, math.nan, math.inf]
    given = [
        ("Calibrate", message_class("Calibrate")(seconds=s).SerializeToString()) for s in wrong
    ]
    given += [(m, chance.randbytes(9)) for m in ("Drain", "Calibrate") for _ in range(100)]
    requests = [request for request in given if is_refused(*request)]
    assert len(requests) > 100
    async with spotless_house(plain_options) as house:
        for request in requests:
            code, details = await call(house, *request)
            assert (code, bool(details)) == (CODE.INVALID_ARGUMENT, True), (request, code)
        await serves(house)


GARBAGE = {
    "nothing": b"",
    "http/1": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303") + bytes(500),
    "preface alone": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "frame of 16 MB": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "headers that are none": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + bytes.fromhex("000000040000000000" + "00000a010400000001")
    + b"\xff" * 10,
}


@pytest.mark.parametrize("abruptly", [False, True], ids=["closed", "reset"])
async def test_connections_that_speak_no_grpc_do_not_disturb_those_that_do(
    plain_options, abruptly, expected
):
    expected.log("Invalid HTTP request received")
    chance = random.Random(2)
    said = [*GARBAGE.values(), *(chance.randbytes(chance.randrange(1, 3000)) for _ in range(60))]
    async with spotless_house(plain_options) as house:
        doors = house.server.grpc_address, house.server.http_address
        writers = []
        for data in said:
            for address in doors:
                _, writer = await asyncio.open_connection(address.host, address.port)
                writers.append(writer)
                writer.write(data)
        await serves(house)
        for writer in writers:
            if abruptly:
                writer.transport.abort()
            else:
                writer.close()
        await asyncio.gather(*(w.wait_closed() for w in writers), return_exceptions=True)
        await serves(house)

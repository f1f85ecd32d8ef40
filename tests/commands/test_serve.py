"""`treeserve serve` as a process of its own: start, clients, signals."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from treeserve.client import Client, RemoteError
from treeserve.client.endpoint import Endpoint
from treeserve.commands.main import main
from treeserve.types import Delta, Finished, FinishReason, SamplingParams

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 120
LONG = SamplingParams(n=8, max_tokens=250, ignore_eos=True, logprobs=20)
"""Of half a megabyte: far more than a connection takes before its reader does."""


@dataclass(frozen=True)
class Served:
    """A server process that is ready, and the addresses that it chose."""

    process: "subprocess.Popen[str]"
    grpc_address: str
    http_address: str

    def status_of(self, path: str) -> int:
        try:
            url = f"http://{self.http_address}{path}"
            with urllib.request.urlopen(url, timeout=DEADLINE_SECONDS) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code


def start(model: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "treeserve", "serve", "--model", str(model)]
    addresses = ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
    # What a command in this process has set must not be what keeps the server's log clean.
    inherited = {k: v for k, v in os.environ.items() if k != "HF_HUB_DISABLE_PROGRESS_BARS"}
    return subprocess.Popen(
        [*command, *addresses, *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**inherited, "PYTHONUNBUFFERED": "1"},
    )


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that take 64 KB before their reader does, and never learn to take more."""
    given = Endpoint.channel_options
    narrow = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)]
    monkeypatch.setattr(Endpoint, "channel_options", lambda self: [*given(self), *narrow])


@pytest.fixture
def served(checkpoint_of) -> Iterator[Served]:
    with start(checkpoint_of("llama"), "--num-pages", "256", "--drain-grace", "300") as process:
        try:
            line = process.stdout.readline()
            found = re.search(r"is ready: grpc (\S+), http (\S+), model", line)
            assert found, line + process.stderr.read()
            yield Served(process, *found.groups())
        finally:
            process.kill()


def wait_for(condition) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Reader(threading.Thread):
    """Reads the first item of a long stream, which sets `began`, and the others when told to.

    Over a narrow connection the call cannot end meanwhile, however long this process waits for a
    core.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self.began = threading.Event()
        self.may_go_on = threading.Event()
        self.items: list[Delta | Finished] = []
        self.error: RemoteError | None = None

    def run(self) -> None:
        with Client(self._address) as client:
            try:
                for item in client.generate("abc", LONG):
                    self.items.append(item)
                    self.began.set()
                    assert self.may_go_on.wait(DEADLINE_SECONDS)
            except RemoteError as error:
                self.error = error

    def start_and_wait(self) -> None:
        self.start()
        assert self.began.wait(DEADLINE_SECONDS)


@pytest.mark.slow
def test_clients_then_sigterm_lets_a_running_stream_end(served, narrow, capsys, tmp_path):
    tree = tmp_path / "tree.json"
    tree.write_text(json.dumps({"text": "abc", "branches": [{"text": "d"}, {"text": "e"}]}))
    server = ["--server", served.grpc_address]
    assert served.status_of("/readyz") == 200
    assert main(["generate", "--tree", str(tree), *server, "--max-tokens", "3"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("== branch ") == 2
    assert captured.err.startswith("prompt 8 tokens: ")
    assert main(["generate", "abc", *server, "--max-tokens", "0"]) == 2
    assert "max_tokens: must be between 1" in capsys.readouterr().err

    reader = Reader(served.grpc_address)
    reader.start_and_wait()
    served.process.send_signal(signal.SIGTERM)
    wait_for(lambda: served.status_of("/readyz") == 503)
    reader.may_go_on.set()
    reader.join(DEADLINE_SECONDS)
    assert reader.error is None
    assert isinstance(reader.items[-1], Finished)
    assert reader.items[-1].usage.completion_tokens == LONG.n * LONG.max_tokens
    ends = [i.finish_reason for i in reader.items if isinstance(i, Delta) and i.finish_reason]
    assert ends == [FinishReason.LENGTH] * LONG.n
    assert served.process.wait(DEADLINE_SECONDS) == 0
    assert served.process.stderr.read() == ""


@pytest.mark.slow
def test_a_second_signal_stops_at_once(served, narrow):
    reader = Reader(served.grpc_address)
    reader.start_and_wait()
    served.process.send_signal(signal.SIGTERM)
    wait_for(lambda: served.status_of("/readyz") == 503)
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(DEADLINE_SECONDS) == 0
    reader.may_go_on.set()
    reader.join(DEADLINE_SECONDS)
    assert reader.error is not None
    assert reader.error.code == "UNAVAILABLE"


def test_what_cannot_be_served_is_one_line(capsys, tmp_path):
    addresses = ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
    assert main(["serve", "--model", str(tmp_path), *addresses]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"treeserve serve: model: the folder {tmp_path} has no config.json\n"


def test_an_address_in_use_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--grpc-address", f"127.0.0.1:{port}", "--http-address", "[::1]:0"])
    err = capsys.readouterr().err
    assert err.startswith(f"treeserve serve: grpc_address: cannot listen on 127.0.0.1:{port}: ")
    assert err.count("\n") == 1

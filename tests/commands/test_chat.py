"""`treeserve chat` through both doors of a live server, as a process and in a terminal."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from server.http_door.live import LiveServer, live_server, save_chat_checkpoint

from treeserve.commands.chat_doors import HttpDoor
from treeserve.commands.main import main
from treeserve.errors import ConfigError
from treeserve.types import Message

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def live(tmp_path_factory) -> Iterator[LiveServer]:
    with live_server(save_chat_checkpoint(tmp_path_factory.mktemp("chat"))) as server:
        yield server
        server.assert_nothing_is_held()


def to(live: LiveServer, door: str) -> list[str]:
    if door == "http":
        return ["--url", live.url]
    return ["--server", str(live.service.server.grpc_address)]


def chat(monkeypatch, lines: str, *options: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return main(["chat", *options])


def shown(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def answers(live: LiveServer, *turns: Message) -> str:
    """What the model says with the seed of these tests."""
    with live.client() as sdk:
        answer = sdk.chat.completions.create(
            model="treeserve",
            messages=[{"role": turn.role, "content": turn.content} for turn in turns],
            max_tokens=8,
            seed=3,
        )
    return answer.choices[0].message.content


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_turns_are_remembered_until_a_reset(live, door, monkeypatch, capsys):
    options = [*to(live, door), "--max-tokens", "8", "--seed", "3"]
    assert chat(monkeypatch, "hello\nand now\n/reset\nhello\n", *options) == 0
    first = answers(live, Message("user", "hello"))
    second = answers(
        live, Message("user", "hello"), Message("assistant", first), Message("user", "and now")
    )
    out, notes = capsys.readouterr()
    assert out == "".join(shown(text) + "\n" for text in (first, second, first))
    assert "(ended: length)" in notes


def test_both_doors_give_the_same_chat(live, monkeypatch, capsys):
    said = []
    for door in ("grpc", "http"):
        options = [*to(live, door), "--max-tokens", "12", "--seed", "9", "--system", "be brief"]
        assert chat(monkeypatch, "hello\n", *options) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != "\n"


def test_commands_are_told_and_unknown_ones_named(live, monkeypatch, capsys):
    lines = "/help\n/nonsense\n/system wizardly\n/quit\nnever asked\n"
    assert chat(monkeypatch, lines, *to(live, "http")) == 0
    out, notes = capsys.readouterr()
    assert out == ""
    assert "/reset" in notes
    assert "/nonsense is no command; /help names them" in notes


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_a_turn_that_is_refused_is_forgotten_and_the_chat_goes_on(live, door, monkeypatch, capsys):
    options = [*to(live, door), "--max-tokens", "8", "--seed", "3"]
    assert chat(monkeypatch, "not <end> this\nhello\n", *options) == 0
    out, notes = capsys.readouterr()
    assert out == shown(answers(live, Message("user", "hello"))) + "\n"
    assert "must not contain the special token '<end>'" in notes


def test_a_server_that_is_not_there_is_one_line(monkeypatch, capsys):
    assert chat(monkeypatch, "hello\n", "--url", "http://127.0.0.1:1") == 1
    assert "error: cannot reach 127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "http://", "http://a:port"])
def test_a_url_that_is_none_is_named(url, monkeypatch, capsys):
    assert chat(monkeypatch, "", "--url", url) == 2
    assert "--url: must be like http://127.0.0.1:8000" in capsys.readouterr().err


def test_the_two_doors_exclude_each_other(monkeypatch, capsys):
    assert chat(monkeypatch, "", "--url", "http://a", "--server", "a:1") == 2
    assert "--server: must not be given with --url" in capsys.readouterr().err


def test_a_key_is_not_sent_in_the_clear_to_another_machine():
    rest = {"tls_ca": None, "timeout_seconds": None}
    with pytest.raises(ConfigError, match="plain text to another machine"):
        HttpDoor("http://example.org", "key", insecure=False, **rest)
    HttpDoor("http://example.org", "key", insecure=True, **rest)
    HttpDoor("http://localhost:8000/v1", "key", insecure=False, **rest)


@pytest.mark.slow
@pytest.mark.parametrize("door", ["grpc", "http"])
def test_an_interrupt_stops_the_answer_and_the_chat_goes_on(live, door):
    """In a real terminal: what is typed is Ctrl-C itself."""
    # With this seed the model draws all of them, unless somebody stops it.
    options = [*to(live, door), "--max-tokens", "900", "--seed", "30"]
    command = [sys.executable, "-m", "treeserve", "chat", *options]
    terminal, inside = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    with subprocess.Popen(
        command, stdin=inside, stdout=inside, stderr=inside, env=environment, cwd=ROOT,
        start_new_session=True, preexec_fn=_take_terminal,
    ) as process:  # fmt: skip
        os.close(inside)
        try:
            read_until(terminal, r"> ")
            live.service.held.hold(num_steps=200)
            os.write(terminal, b"begin\n")
            read_until(terminal, r"begin\r\n.{40}")
            os.write(terminal, b"\x03")
            read_until(terminal, r"\(ended: you stopped it\)\r\n.*> ")
            live.assert_nothing_is_held()
            live.service.held.release()
            os.write(terminal, b"/quit\n")
            assert process.wait(120) == 0
        finally:
            process.kill()
            os.close(terminal)


def _take_terminal() -> None:
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.default_int_handler)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(terminal: int, pattern: str) -> str:
    seen = ""
    while not re.search(pattern, seen, re.DOTALL):
        seen += os.read(terminal, 4096).decode(errors="replace")
    return seen

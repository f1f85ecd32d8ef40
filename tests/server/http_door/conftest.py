"""One live server for the tests of a file."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from server.http_door.live import LiveServer, live_server, save_chat_checkpoint


@pytest.fixture(scope="session")
def chat_checkpoint(tmp_path_factory) -> Path:
    return save_chat_checkpoint(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def live(chat_checkpoint) -> Iterator[LiveServer]:
    with live_server(chat_checkpoint) as server:
        yield server
        server.assert_nothing_is_held()


@pytest.fixture
def sdk(live) -> Iterator[openai.OpenAI]:
    with live.client() as client:
        yield client

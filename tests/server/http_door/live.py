"""A server with a tiny model and a chat template, in a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import tiny_models
from running_service import RunningService, running_service

from treeserve.config import EngineOptions

MODEL = "treeserve"
NO_KEY = "none is asked for"
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role not in ('system', 'user', 'assistant', 'tool') %}"
    "{{ raise_exception('unknown role ' + m.role) }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    "{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "<assistant>"
)


class LiveServer:
    """The service, and how to do something in its event loop.

    Args:
        service: Running.
        loop: Its event loop, in another thread.
    """

    def __init__(self, service: RunningService, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self._loop = loop

    @property
    def url(self) -> str:
        return f"http://{self.service.server.http_address}"

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Wait for something that is done in the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def start(self, work: Coroutine[Any, Any, Any]) -> "Future[Any]":
        """Begin something in the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def assert_nothing_is_held(self) -> None:
        self.run(self.service.assert_nothing_is_held())

    def client(self, **options: Any) -> openai.OpenAI:
        given = {"base_url": f"{self.url}/v1", "api_key": NO_KEY, "max_retries": 0, **options}
        return openai.OpenAI(**given)

    def async_client(self, **options: Any) -> openai.AsyncOpenAI:
        given = {"base_url": f"{self.url}/v1", "api_key": NO_KEY, "max_retries": 0, **options}
        return openai.AsyncOpenAI(**given)


@contextmanager
def live_server(checkpoint: Path, **config: Any) -> Iterator[LiveServer]:
    """Start it, and stop it in the end; `config` is of the server."""
    started = threading.Event()
    running: list[LiveServer] = []
    ended: list[asyncio.Event] = []

    async def serve() -> None:
        options = EngineOptions(model=str(checkpoint), num_pages=256, page_size=16)
        async with running_service(options, **config) as service:
            ended.append(asyncio.Event())
            running.append(LiveServer(service, asyncio.get_running_loop()))
            started.set()
            await ended[0].wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        finally:
            started.set()

    thread = threading.Thread(target=run, name="live-server")
    thread.start()
    started.wait()
    try:
        yield running[0]
    finally:
        if running:
            running[0]._loop.call_soon_threadsafe(ended[0].set)
        thread.join()


def save_chat_checkpoint(folder: Path) -> Path:
    """A tiny random model whose tokenizer has a chat template."""
    tiny_models.save_checkpoint(folder, "llama")
    tokenizer = tiny_models.byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder

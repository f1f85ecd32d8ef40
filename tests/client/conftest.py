"""A real server with a tiny model, and both clients of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from server.side_house import House, running_house

from treeserve.client import AsyncClient, Client
from treeserve.config import EngineOptions


def secret_of(metadata: tuple[tuple[str, str], ...]) -> str:
    """The key in the metadata of a call."""
    return metadata[0][1].removeprefix("Bearer ")


@dataclass
class Both:
    """Does the same with the blocking client, in a thread, and with the one for asyncio."""

    house: House
    address: str
    api_key: str

    async def do(self, blocking: Callable[[Client], Any], asynchronous: Callable) -> list[Any]:
        """What the two of them gave."""

        def run() -> Any:
            with Client(self.address, api_key=self.api_key) as client:
                return blocking(client)

        first = await asyncio.to_thread(run)
        async with AsyncClient(self.address, api_key=self.api_key) as client:
            return [first, await asynchronous(client)]

    async def same(self, call: Callable[[Any], Any]) -> list[Any]:
        """The results of a method that is named alike."""
        return await self.do(call, call)


@pytest.fixture
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(model=str(checkpoint_of("llama")), num_pages=256, page_size=16)


@pytest.fixture
async def house(options, tmp_path) -> AsyncIterator[House]:
    async with running_house(options, tmp_path / "prefixes") as house:
        yield house


@pytest.fixture
async def both(house) -> Both:
    return Both(house, str(house.server.grpc_address), secret_of(house.own_key))


@pytest.fixture
async def client(both) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(both.address, api_key=both.api_key) as client:
        yield client

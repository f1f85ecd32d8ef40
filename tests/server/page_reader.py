"""Reads the page's data over a real socket, as a browser's script does."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from server.side_house import House


@dataclass
class Reply:
    """An HTTP answer whose body has not been read yet."""

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader

    async def chunk(self) -> bytes:
        """The next piece of a body in chunks; empty at its end."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def text(self) -> str:
        if "content-length" in self.headers:
            return (await self.reader.readexactly(int(self.headers["content-length"]))).decode()
        return (await self.chunk()).decode()

    async def event(self, kind: str) -> Any:
        """The next event of a kind."""
        async with asyncio.timeout(60):
            while True:
                for block in (await self.chunk()).decode().split("\n\n"):
                    name, _, data = block.partition("\n")
                    if name == f"event: {kind}":
                        return json.loads(data.removeprefix("data: "))

    async def picture(self, is_it: Callable[[Any], bool]) -> Any:
        """The next picture that is it; others may be drawn in the middle of a change."""
        async with asyncio.timeout(60):
            while not is_it(picture := await self.event("tree")):
                pass
        return picture


@asynccontextmanager
async def asking(
    house: House,
    path: str,
    key: tuple[tuple[str, str], ...] = (),
    *,
    method: str = "GET",
    host: str | None = None,
) -> AsyncIterator[Reply]:
    """A request of its own connection; `key` is metadata as `House.new_key` gives it."""
    address = house.server.http_address
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host or address}"]
        lines += [f"{name}: {value}" for name, value in key]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        status = int((await reader.readline()).split()[1])
        headers = {}
        while line := (await reader.readline()).decode().strip():
            name, _, value = line.partition(": ")
            headers[name] = value
        yield Reply(status, headers, reader)
    finally:
        writer.close()


async def refusal(house: House, path: str, **given: Any) -> tuple[int, str]:
    """Status and text of an answer that is no stream."""
    async with asking(house, path, **given) as reply:
        return reply.status, await reply.text()


def nodes_of(picture: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a picture, by the names of their fields."""
    return [dict(zip(picture["fields"], row, strict=True)) for row in picture["nodes"]]

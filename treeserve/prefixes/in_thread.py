"""File work in a thread of its own, waited for to its end."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

ResultT = TypeVar("ResultT")


async def finish_in_thread(function: Callable[[], ResultT]) -> ResultT:
    """Waits for the function even where the caller is cancelled, since a thread cannot be ended."""
    running = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise

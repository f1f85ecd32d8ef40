"""`treeserve serve` in a process of its own: signals, ends, and what it said."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from treeserve.pb import generation_pb2_grpc

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 120
TREESERVE = ("-m", "treeserve")
_ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
_OF_SCRIPTS = {
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    # `treeserve` says so itself, before it imports what a script has imported by then.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_READY = re.compile(r"is ready: grpc (\S+), http (\S+), ")


@dataclass(frozen=True)
class Served:
    """A server process that is ready."""

    process: asyncio.subprocess.Process
    grpc_address: str

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def end(self) -> tuple[int, str]:
        """(exit status, what it said on stderr)"""
        async with asyncio.timeout(WAIT_SECONDS):
            _, said = await self.process.communicate()
        return self.process.returncode, said.decode()


@asynccontextmanager
async def served(
    model: Path, *options: str, program: tuple[str, ...] = TREESERVE, port: int = 0
) -> AsyncIterator[Served]:
    """Killed in the end, if it still runs; `program` may be a script in its place."""
    address = f"127.0.0.1:{port}"
    command = [sys.executable, *program, "serve", "--model", str(model), "--grpc-address", address]
    process = await asyncio.create_subprocess_exec(
        *(*command, "--http-address", "127.0.0.1:0", *options),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **_ENVIRONMENT, **({} if program == TREESERVE else _OF_SCRIPTS)},
    )
    try:
        line = (await process.stdout.readline()).decode()
        found = _READY.search(line)
        assert found, line + (await process.stderr.read()).decode()
        yield Served(process, found[1])
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()


@asynccontextmanager
async def channel_to(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    options = (
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 200),
    )
    async with grpc.aio.insecure_channel(served.grpc_address, options=options) as channel:
        yield channel


@asynccontextmanager
async def connected(served: Served) -> AsyncIterator[generation_pb2_grpc.GenerationServiceStub]:
    async with channel_to(served) as channel:
        yield generation_pb2_grpc.GenerationServiceStub(channel)

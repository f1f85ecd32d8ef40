"""A real headless Chromium, driven over its debugging pipe."""

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


@dataclass
class Tab:
    """One page, and all that it complained of and asked for."""

    browser: "Browser"
    session: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        return await self.browser.send(method, self.session, **params)

    async def go(self, url: str) -> None:
        await self.send("Page.navigate", url=url)

    async def reload(self) -> None:
        """The page anew; the old one is gone at the end."""
        await self.run("window.isOld = true")
        await self.send("Page.reload")
        await self.until("!window.isOld")

    async def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        answer = await self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, script: str, within_seconds: float = 120) -> Any:
        """Ask again until an expression has a value that is true."""
        try:
            async with asyncio.timeout(within_seconds):
                while not (value := await self._run_where_it_is(script)):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            body = await self.run("document.body.innerText")
            raise AssertionError(f"never came true: {script}\n{self.errors}\n{body}") from None
        return value

    async def _run_where_it_is(self, script: str) -> Any:
        """None while the tab is on its way to another page."""
        try:
            return await self.run(script)
        except RuntimeError as error:
            if "navigated" not in str(error):
                raise
            return None

    async def look(self, width: int, height: int, scheme: str) -> None:
        """As on a screen of that size, in a dark or light scheme."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.send("Emulation.setEmulatedMedia", features=features)

    async def press(self, key: str) -> None:
        code = {"Enter": 13, "Backspace": 8, "Home": 36, "ArrowDown": 40, "ArrowRight": 39}[key]
        given = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.send("Input.dispatchKeyEvent", type="rawKeyDown", **given)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **given)

    async def photograph(self, file: Path) -> None:
        """The whole page, not only what fits the screen."""
        answer = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(answer["data"]))

    def hear(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(params["exceptionDetails"])[:500])
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(params["entry"]["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.errors.append(json.dumps(params["args"])[:500])


class Browser:
    """Commands go down one pipe, answers and events come up the other, each ended by a zero."""

    def __init__(self, reader: asyncio.StreamReader, descriptor: int) -> None:
        self._reader = reader
        self._descriptor = descriptor
        self._last_id = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}
        self.reading = asyncio.create_task(self._read())

    async def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        answer = self._answers[self._last_id] = asyncio.get_running_loop().create_future()
        os.write(self._descriptor, json.dumps(message).encode() + b"\0")
        return await asyncio.wait_for(answer, 120)

    async def open(self) -> Tab:
        target = await self.send("Target.createTarget", url="about:blank")
        given = {"targetId": target["targetId"], "flatten": True}
        session = (await self.send("Target.attachToTarget", **given))["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            await tab.send(f"{domain}.enable")
        return tab

    async def _read(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if "id" not in message:
                    tab = self._tabs.get(message.get("sessionId", ""))
                    if tab is not None:
                        tab.hear(message["method"], message["params"])
                    continue
                answer = self._answers.pop(message["id"])
                if "error" in message:
                    answer.set_exception(RuntimeError(str(message["error"])))
                elif not answer.done():
                    answer.set_result(message["result"])


@contextlib.asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    assert CHROMIUM is not None
    down_read, down_write = _pipe()
    up_read, up_write = _pipe()
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            f'exec "$@" 3<&{down_read} 4>&{up_write}',
            "bash",
            CHROMIUM,
            *_OPTIONS,
            f"--user-data-dir={profile}",
            pass_fds=(down_read, up_write),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.close(down_read)
        os.close(up_write)
        reader = asyncio.StreamReader(limit=64 << 20)
        upward = os.fdopen(up_read, "rb")
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), upward
        )
        browser = Browser(reader, down_write)
        try:
            yield browser
        finally:
            with contextlib.suppress(Exception):
                await browser.send("Browser.close")
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                await asyncio.wait_for(process.wait(), 5)
            if process.returncode is None:
                process.kill()
                await process.wait()
            browser.reading.cancel()
            transport.close()
            os.close(down_write)


def _pipe() -> tuple[int, int]:
    """Away from the descriptors 3 and 4, which are Chromium's."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 64) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]

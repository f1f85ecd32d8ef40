"""The page in a real Chromium while requests run; screenshots are kept in build/screenshots."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from server.browser import CHROMIUM, Tab, running_browser
from server.side_house import House, prefix, running_house

from treeserve.config import EngineOptions
from treeserve.pb import generation_pb2, prefix_pb2
from treeserve.server.config import AccessConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
TRUNK = "A trunk that everybody begins with, so that there is something to share. "
HOSTILE = "<img src=x onerror='window.wasHacked=1'><script>window.wasHacked=2</script>\u202e&amp;"
BLOCKS = "document.querySelectorAll('#icicle .block').length"
SUMMARY = "document.getElementById('tree-summary').textContent"


@pytest.fixture
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(
        model=str(checkpoint_of("llama")), num_pages=512, page_size=16, sharing="always"
    )


@asynccontextmanager
async def requests_running(house: House, streams: int = 4):
    """Samples under one trunk, again and again."""

    async def run(number: int) -> None:
        params = generation_pb2.Parameters(
            stopping=generation_pb2.Stopping(max_tokens=60, ignore_eos=True)
        )
        while True:
            text = f"{TRUNK}Question {number}: {HOSTILE}"
            request = generation_pb2.GenerateRequest(text=text, params=params, n=2)
            async for _ in house.generation.Generate(request):
                pass

    tasks = [asyncio.create_task(run(number)) for number in range(streams)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def warm(house: House, text: str) -> None:
    await house.prefix.Warm(prefix_pb2.WarmRequest(prefix=prefix(text)))


async def photograph(tab: Tab, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    await tab.photograph(SCREENSHOTS / f"{name}.png")


def assert_no_harm(tab: Tab, house: House) -> None:
    """Nothing complained, and nothing was asked of another host."""
    assert tab.errors == []
    origin = f"http://{house.server.http_address}/"
    assert [url for url in tab.requests if not url.startswith(origin)] == []
    assert len(tab.requests) > 5


async def test_the_page_shows_the_tree_while_requests_run(options):
    access = AccessConfig()
    async with (
        running_house(options, show_text=True, access=access) as house,
        requests_running(house),
        running_browser() as browser,
    ):
        tab = await browser.open()
        await tab.look(1280, 900, "light")
        await tab.go(f"http://{house.server.http_address}/")
        await tab.until(f"{BLOCKS} >= 4")
        await tab.until("document.querySelector('#now dd')?.textContent > 0")
        before = await tab.run(SUMMARY)

        # It changes as the tree does.
        await warm(house, "Something else altogether. " * 4)
        await tab.until(f"{SUMMARY} !== {before!r}")

        # A node opens by keyboard, shows its text as text, and everything comes back.
        await tab.run("document.getElementById('icicle').focus()")
        for key in ("ArrowDown", "ArrowDown"):
            await tab.press(key)
        await tab.until("document.getElementById('chosen-text').textContent.includes('<script>')")
        assert await tab.run("window.wasHacked") is None
        text = await tab.run("document.getElementById('chosen-text').textContent")
        assert "\\u{202e}&amp;" in text, "what turns text around is seen, and does nothing"
        assert await tab.run("document.querySelectorAll('#chosen script, #chosen img').length") == 0
        await tab.press("Enter")
        await tab.until("document.querySelectorAll('#path button').length > 1")
        await photograph(tab, "light-opened")
        await tab.press("Home")
        await tab.until("document.querySelectorAll('#path button').length === 1")

        # The table behind the picture has a row for every node.
        await tab.run("document.getElementById('tree-table').open = true")
        rows = "document.querySelectorAll('#tree-table tbody tr').length"
        await tab.until(f"{rows} > 3 && {rows} <= 200")
        await tab.until("document.querySelectorAll('#plan tbody tr').length > 0")
        await photograph(tab, "light")
        ground = "getComputedStyle(document.body).backgroundColor"
        light = await tab.run(ground)

        await tab.look(1280, 900, "dark")
        await tab.until(f"{ground} !== {light!r}")
        await photograph(tab, "dark")

        # On a phone nothing is wider than the screen.
        await tab.look(390, 844, "dark")
        await tab.until("document.getElementById('icicle').clientWidth < 390")
        await tab.until("[...document.querySelectorAll('canvas')].every(c => c.clientWidth < 390)")
        await tab.until("document.documentElement.scrollWidth <= 390")
        await photograph(tab, "phone-dark")

        # Nothing is served while somebody has paused it.
        await tab.run("document.getElementById('pause').click()")
        async with asyncio.timeout(60):
            while house.server._page.hub.num_watchers:
                await asyncio.sleep(0.02)
        assert_no_harm(tab, house)


async def test_the_page_asks_for_a_key_and_keeps_it_out_of_addresses(options):
    async with running_house(options) as house, running_browser() as browser:
        [(_, value)] = house.new_key("acme", "inspect")
        secret = value.removeprefix("Bearer ")
        await house.prefix.Warm(
            prefix_pb2.WarmRequest(prefix=prefix(TRUNK)), metadata=house.key_of("acme")
        )
        await warm(house, "what another tenant keeps")
        tab = await browser.open()
        await tab.look(390, 844, "light")
        await tab.go(f"http://{house.server.http_address}/")
        shown = "document.getElementById('key-form')?.hidden === false"
        await tab.until(shown)
        await photograph(tab, "phone-key")

        async def give(key: str) -> None:
            await tab.run(f"document.getElementById('key').value = {key!r}")
            await tab.run("document.querySelector('#key-form button').click()")

        await give("ts_00000000_wrong")
        await tab.until(f"{shown} && !document.getElementById('notice').hidden")
        await give(secret)
        await tab.until(f"{BLOCKS} === 1")
        assert f"1 node of {len(TRUNK)} tokens" in await tab.run(SUMMARY)
        await tab.reload()
        await tab.until(f"{BLOCKS} === 1")
        assert not any(secret in url for url in tab.requests)
        assert await tab.run("Object.keys(localStorage).length + document.cookie.length") == 0
        await tab.run("document.getElementById('forget').click()")
        await tab.until(shown)
        # The browser notes each 401 itself; that is no fault of the page.
        tab.errors = [error for error in tab.errors if "401" not in error]
        assert_no_harm(tab, house)

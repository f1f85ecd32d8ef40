"""The page's data over a real socket: who may see it, what it tells, and what it can stand."""

import asyncio
import re
import socket
import threading
from pathlib import Path

import pytest
from server.listening import bearer, listening
from server.page_reader import asking, nodes_of, refusal
from server.side_house import HOME, House, prefix, running_house

from treeserve.config import EngineOptions
from treeserve.inspection import Scope
from treeserve.pb import generation_pb2, prefix_pb2
from treeserve.server.config import AccessConfig, Address
from treeserve.server.key_file import read_keys
from treeserve.server.page import event_stream, routes
from treeserve.server.page import hub as hub_module

ASSETS = Path(routes.__file__).parent / "assets"
TRUNK = "A trunk that many prompts begin with. "


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch):
    monkeypatch.setattr(hub_module, "TICK_SECONDS", 0.05)


@pytest.fixture
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(
        model=str(checkpoint_of("llama")), num_pages=256, page_size=16, sharing="always"
    )


@pytest.fixture
async def house(options):
    async with running_house(options, show_text=True) as running:
        yield running


async def warm(house: House, text: str, tenant: str = HOME) -> None:
    request = prefix_pb2.WarmRequest(prefix=prefix(text))
    await house.prefix.Warm(request, metadata=house.key_of(tenant))


def inspector(house: House, tenant: str = HOME) -> tuple[tuple[str, str], ...]:
    return house.new_key(tenant, "inspect")


@pytest.mark.parametrize("path", ["/page/events", "/page/node?id=1"])
async def test_data_is_shown_to_keys_that_may_inspect_and_to_nobody_else(house, path):
    assert (await refusal(house, path))[0] == 401
    assert (await refusal(house, path, key=bearer("ts_00000000_wrong")))[0] == 401
    status, text = await refusal(house, path, key=house.new_key(HOME, "generate"))
    assert (status, text) == (403, "the permission 'inspect' is needed, and the key lacks it\n")


async def test_a_key_in_the_address_is_no_key(house):
    """Addresses end up in logs and histories."""
    [(_, value)] = house.own_key
    secret = value.removeprefix("Bearer ")
    assert (await refusal(house, f"/page/events?key={secret}"))[0] == 401


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("focus=x", "focus: must be the id of a node, a whole number, got 'x'"),
        ("focus=0", "focus: must be the id of a node, a whole number, got '0'"),
        ("focus=99999999999999999999", "focus: must be the id of a node, a whole number"),
        ("live=yes", "live: must be 0 or 1, got 'yes'"),
        ("focus=1&focus=2", "focus: must be given once"),
        ("fokus=1", "fokus: is unknown here; known: focus, live"),
    ],
)
async def test_what_is_wrong_with_an_address_is_said(house, query, text):
    status, said = await refusal(house, f"/page/events?{query}", key=house.own_key)
    assert status == 400
    assert said.startswith(text)


async def test_a_head_request_starts_no_stream(house):
    async with asking(house, "/page/events", house.own_key, method="HEAD") as reply:
        assert reply.status == 405
    assert house.server._page.hub.num_watchers == 0


async def test_a_tenant_sees_its_own_nodes_and_an_operator_everybodys(house):
    await warm(house, TRUNK + "mine")
    await warm(house, TRUNK + "theirs", "other")
    async with asking(house, "/page/events", inspector(house)) as reply:
        own = nodes_of(await reply.event("tree"))
    async with asking(house, "/page/events", house.own_key) as reply:
        picture = await reply.event("tree")
    assert [node["tokens"] for node in own] == [len(TRUNK) + 4]
    assert sorted(picture["namespaces"]) == [HOME, "other"]
    assert len(picture["nodes"]) == 2
    [other] = [n for n in nodes_of(picture) if picture["namespaces"][n["namespace"]] == "other"]
    status, _ = await refusal(house, f"/page/node?id={other['id']}", key=inspector(house))
    assert status == 404, "another tenant's text"


async def test_a_nodes_text_comes_as_it_was_written(house):
    hostile = '<script>alert(1)</script> \u202e & "quotes"'
    await warm(house, hostile)
    async with asking(house, "/page/events", house.own_key) as reply:
        [node] = nodes_of(await reply.event("tree"))
    async with asking(house, f"/page/node?id={node['id']}", house.own_key) as reply:
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json", "no browser reads it as a page"
        assert reply.headers["x-content-type-options"] == "nosniff"
        text = await reply.text()
    assert "alert(1)" in text


async def test_no_text_leaves_a_server_that_was_not_told_to_show_it(options):
    async with running_house(options) as house:
        await warm(house, TRUNK)
        async with asking(house, "/page/events", house.own_key) as reply:
            [node] = nodes_of(await reply.event("tree"))
            assert (await reply.event("state"))["shows_text"] is False
        status, text = await refusal(house, f"/page/node?id={node['id']}", key=house.own_key)
        assert (status, "--show-text" in text) == (403, True)


async def test_the_tree_is_told_again_when_it_has_changed_and_only_then(house):
    inspection = house.backstage.inspection
    async with asking(house, "/page/events", house.own_key) as reply:
        assert nodes_of(await reply.event("tree")) == []
        num_looks = inspection.num_looks
        for _ in range(5):
            await reply.event("point")
        assert inspection.num_looks == num_looks, "nothing changed"
        await warm(house, TRUNK)
        [node] = nodes_of(await reply.picture(is_computed))
    assert (node["tokens"], node["computed"], node["parent"]) == (len(TRUNK), len(TRUNK), -1)


def is_computed(picture) -> bool:
    """Some nodes are there, and nothing is missing of them."""
    nodes = nodes_of(picture)
    return bool(nodes) and all(node["computed"] == node["tokens"] for node in nodes)


async def test_an_opened_node_fills_the_picture_until_it_is_gone(house):
    for end in ("one", "two"):
        await warm(house, TRUNK + end)
    async with asking(house, "/page/events", house.own_key) as reply:
        nodes = nodes_of(await reply.event("tree"))
    [trunk] = [node for node in nodes if node["parent"] == -1]
    child = next(node for node in nodes if node["parent"] != -1)
    async with asking(house, f"/page/events?focus={child['id']}", house.own_key) as reply:
        picture = await reply.event("tree")
        assert [node["id"] for node in nodes_of(picture)] == [child["id"]]
        assert [crumb[0] for crumb in picture["path"]] == [trunk["id"], child["id"]]
        await house.loop.call(lambda engine: engine.scheduler.clear_cache())
        picture = await reply.picture(lambda picture: picture["focus"] is None)
        assert picture["nodes"] == []


async def test_all_who_watch_share_one_look_and_one_picture(house, monkeypatch):
    drawn = []
    draw = hub_module.draw
    monkeypatch.setattr(hub_module, "draw", lambda *a: drawn.append(1) or draw(*a))
    inspection = house.backstage.inspection
    async with asyncio.TaskGroup() as group, asyncio.timeout(60):
        watching = asyncio.Semaphore(0)

        async def watch() -> None:
            async with asking(house, "/page/events", house.own_key) as reply:
                await reply.event("tree")
                watching.release()
                while not nodes_of(await reply.event("tree")):
                    pass

        for _ in range(12):
            group.create_task(watch())
        for _ in range(12):
            await watching.acquire()
        num_looks, num_drawn = inspection.num_looks, len(drawn)
        await warm(house, TRUNK)
    # Warming may be seen in the middle as well as at its end; twelve watchers make no difference.
    assert inspection.num_looks - num_looks <= 4
    assert len(drawn) - num_drawn <= 4


async def test_nobody_looks_at_the_engine_while_nobody_watches(house):
    inspection = house.backstage.inspection
    async with asking(house, "/page/events", house.own_key) as reply:
        await reply.event("tree")
    hub = house.server._page.hub
    while hub.num_watchers:
        await asyncio.sleep(0.01)
    num_looks = inspection.num_looks
    await warm(house, TRUNK)
    # A picture may have been due to those who went.
    await hub._look(Scope(None), inspection)
    num_points = len(hub._history.points)
    while len(hub._history.points) < num_points + 3:
        await asyncio.sleep(0.01)
    assert inspection.num_looks == num_looks
    assert not hub._forests, "and no tree is kept for them"


async def test_of_a_thousand_watchers_those_beyond_the_limit_are_told_to_come_later(
    house, monkeypatch
):
    # Nobody reads here, so that nothing need be sent.
    monkeypatch.setattr(hub_module, "TICK_SECONDS", 3600)
    hub = house.server._page.hub
    open_streams = []
    try:
        for tenant in ("a", "b", "c", "d", "e"):
            key = inspector(house, tenant)
            for _ in range(hub_module.MAX_WATCHERS_OF_TENANT):
                context = asking(house, "/page/events", key)
                open_streams.append(context)
                reply = await context.__aenter__()
                assert reply.status == (200 if tenant != "e" else 503)
        assert hub.num_watchers == hub_module.MAX_WATCHERS == 64
        for _ in range(1000 - len(open_streams)):
            async with asking(house, "/page/events", key) as reply:
                assert reply.status == 503
                assert int(reply.headers["retry-after"]) >= 1
    finally:
        for context in open_streams:
            await context.__aexit__(None, None, None)
    async with asyncio.timeout(60):
        while hub.num_watchers:
            await asyncio.sleep(0.01)


async def test_a_reader_that_never_reads_is_cut_off_and_holds_little(house, monkeypatch):
    monkeypatch.setattr(event_stream, "MAX_STALL_SECONDS", 0.2)
    hub, address = house.server._page.hub, house.server.http_address
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect((address.host, address.port))
        [(_, value)] = house.own_key
        request = f"GET /page/events HTTP/1.1\r\nHost: {address}\r\nAuthorization: {value}\r\n\r\n"
        lazy.sendall(request.encode())
        async with asyncio.timeout(60):
            while not hub.num_watchers:
                await asyncio.sleep(0.01)
            [watcher] = hub._watchers
            while hub.num_watchers:
                watcher.put("tree", b"0" * 1_000_000)
                assert sum(map(len, watcher._waiting.values())) < 1_100_000, "the newest alone"
                await asyncio.sleep(0.01)
            # The connection is gone too, though its last bytes were never taken.
            while house.server._http.server_state.connections:
                await asyncio.sleep(0.01)


async def test_a_revoked_key_ends_what_it_watches(house):
    key = inspector(house)
    async with asking(house, "/page/events", key) as reply:
        await reply.event("tree")
        house.key_file.write_text("")
        house.server.reload()
        assert not read_keys(house.key_file)
        async with asyncio.timeout(60):
            while await reply.chunk():
                pass


async def test_the_page_says_so_while_the_engine_is_stuck(house):
    blocked, go_on = threading.Event(), threading.Event()

    def block(engine) -> None:
        blocked.set()
        go_on.wait(120)

    blocking = asyncio.ensure_future(house.loop.call(block))
    await asyncio.to_thread(blocked.wait, 60)
    call = house.generation.Generate(generation_pb2.GenerateRequest(text="waits"))
    reading = asyncio.ensure_future(_read(call))
    try:
        async with asking(house, "/page/events", house.own_key) as reply:
            while (await reply.event("state"))["stalled_seconds"] < 0.2:
                await reply.event("point")
            go_on.set()
            await reply.event("tree")
    finally:
        go_on.set()
    await blocking
    await reading


async def _read(call) -> None:
    async for _ in call:
        pass


async def test_streams_end_with_the_server_and_do_not_hold_it_up(options):
    async with (
        running_house(options) as house,
        asking(house, "/page/events", house.own_key) as reply,
    ):
        await reply.event("tree")
        await house.server.stop()
        async with asyncio.timeout(60):
            while await reply.chunk():
                pass


async def test_a_loading_server_says_so(loading_server):
    class Loading:
        server = loading_server

    async with asking(Loading, "/page/events") as reply:
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert await reply.text() == "the server is loading\n"


async def test_without_keys_the_page_is_for_this_machine_by_its_own_name(text_service):
    """A name that was made to lead here must not carry the data to another site's script."""
    async with listening(text_service) as server:

        class Open:
            pass

        Open.server = server
        port = server.http_address.port
        for host in (f"localhost:{port}", f"127.0.0.1:{port}"):
            async with asking(Open, "/page/events", host=host) as reply:
                assert reply.status == 200
        assert (await refusal(Open, "/page/events", host=f"evil.example:{port}"))[0] == 403


async def test_where_certificates_say_who_calls_the_page_needs_a_key(text_service, tmp_path):
    from server.certificates import Authority

    from treeserve.server.config import ServerConfig, TlsFiles
    from treeserve.server.doorkeeper import Doorkeeper
    from treeserve.server.page.door import PageDoor
    from treeserve.server.refusals import Forbidden

    authority = Authority(tmp_path)
    own = authority.sign("server")
    address = Address("127.0.0.1", 0)
    config = ServerConfig(
        grpc_address=address, http_address=address, tls=TlsFiles(own.cert, own.key, authority.cert)
    )
    door = PageDoor(config, Doorkeeper(None, by_certificate=True))
    with pytest.raises(Forbidden, match="--api-keys"):
        door.identify(None)


async def test_with_insecure_the_page_is_open_wherever_the_service_is(text_service):
    access = AccessConfig(insecure=True)
    async with listening(text_service, access=access) as server:

        class Open:
            pass

        Open.server = server
        async with asking(Open, "/page/events", host="a-name.example") as reply:
            assert reply.status == 200


async def test_every_file_comes_without_a_key_and_with_a_strict_policy(house):
    for path in ("/", *(f"/page/{name}" for name in routes._FILES)):
        async with asking(house, path) as reply:
            assert reply.status == 200
            policy = reply.headers["content-security-policy"]
            assert await reply.text()
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_the_page_has_no_inline_script_or_style_and_names_no_other_host():
    page = (ASSETS / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"<style|\sstyle=|\son\w+=", page)
    own = [file for file in ASSETS.iterdir() if not file.name.startswith("uplot")]
    for file in own:
        found = re.findall(r"https?://[^\s\"'`)]+", file.read_text())
        assert set(found) <= {"http://www.w3.org/2000/svg"}, file


def test_no_script_writes_markup():
    """What clients wrote is shown as text, whatever it holds."""
    for file in ASSETS.glob("*.js"):
        if not file.name.startswith("uplot"):
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(",
                                 file.read_text())  # fmt: skip


def test_every_asset_is_served_and_its_licence_with_it():
    assert {file.name for file in ASSETS.iterdir()} == set(routes._FILES)
    assert "Leon Sorokin" in (ASSETS / "uplot.LICENSE.txt").read_text()

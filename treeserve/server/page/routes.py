"""The page's routes: its files for all, its data for those who may see it."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from importlib.resources import files
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from treeserve.errors import InvalidRequest
from treeserve.inspection import MAX_NODE_TOKENS
from treeserve.server.backstage import Backstage
from treeserve.server.calls import Calls, Phase
from treeserve.server.contract import TextService
from treeserve.server.identity import Identity
from treeserve.server.page.door import PageDoor
from treeserve.server.page.event_stream import EventStream
from treeserve.server.page.hub import Hub
from treeserve.server.page.picture import Wish
from treeserve.server.refusals import Forbidden, Overloaded, Unauthenticated

_FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "events.js": "text/javascript; charset=utf-8",
    "icicle.js": "text/javascript; charset=utf-8",
    "words.js": "text/javascript; charset=utf-8",
    "uplot.min.js": "text/javascript; charset=utf-8",
    "uplot.min.css": "text/css; charset=utf-8",
    "uplot.LICENSE.txt": "text/plain; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_SAFE = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FRESH = {"Cache-Control": "no-cache", **_SAFE}
_DATA = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **_SAFE}
_MAX_ID = (1 << 63) - 1

_Answer: TypeAlias = Callable[[Request, Identity], ASGIApp]


class Page:
    """Watches an engine once there is one.

    Args:
        door: Decides who may see the data.
        hub: Serves those who watch.
        calls: Say whether the server is ready.
    """

    def __init__(self, door: PageDoor, hub: Hub, calls: Calls) -> None:
        self.hub = hub
        self.text_service: TextService | None = None
        self._door = door
        self._calls = calls

    def set_ready(self, text_service: TextService, backstage: Backstage | None) -> None:
        """Show the tree from now on, if there is one to look at."""
        self.text_service = text_service
        self.hub.inspection = None if backstage is None else backstage.inspection

    def routes(self) -> list[Route]:
        """Of `/`, and of what lies under `/page/`."""
        folder = files("treeserve.server.page") / "assets"
        assets = [
            Route(f"/page/{name}", _show((folder / name).read_bytes(), media_type))
            for name, media_type in _FILES.items()
        ]
        index = _show((folder / "index.html").read_bytes(), _FILES["index.html"])
        return [
            Route("/", index),
            *assets,
            Route("/page/events", self._guarded(self._events)),
            Route("/page/node", self._guarded_node),
        ]

    def _guarded(self, answer: _Answer) -> "Callable[[Request], object]":
        """What it raises becomes a status and a line of text."""

        async def handle(request: Request) -> ASGIApp:
            try:
                return answer(request, self._identify(request))
            except Exception as error:
                return _refusal(error)

        return handle

    def _identify(self, request: Request) -> Identity:
        identity = self._door.identify(request)
        if self._calls.phase not in (Phase.READY, Phase.DRAINING):
            raise Overloaded(f"the server is {self._calls.phase.value}", 1.0)
        return identity

    def _events(self, request: Request, identity: Identity) -> ASGIApp:
        if request.method != "GET":
            return _plain("only GET is answered here", 405, {"Allow": "GET"})
        stack = ExitStack()
        watcher = stack.enter_context(self.hub.watch(identity, _wish(request)))
        return EventStream(watcher, stack, lambda: self._door.identify(request), _DATA)

    async def _guarded_node(self, request: Request) -> Response:
        try:
            return await self._node(request, self._identify(request))
        except Exception as error:
            return _refusal(error)

    async def _node(self, request: Request, identity: Identity) -> Response:
        """The text of one node of the last picture."""
        asked = _query(request, {"id"})
        if "id" not in asked:
            raise InvalidRequest("id", "must be given, the id of a node")
        if self.hub.inspection is None or not self.hub.inspection.shows_tokens:
            raise Forbidden("this server shows no text: it was started without --show-text")
        token_ids = self.hub.find(identity, _node_id("id", asked["id"]))
        if token_ids is None or self.text_service is None:
            return _plain("the node is not there any more", 404)
        shown = token_ids[:MAX_NODE_TOKENS]
        service = self.text_service
        text = await asyncio.to_thread(service.detokenize, shown, special_tokens=True)
        left_out = len(token_ids) - len(shown)
        return JSONResponse({"text": text, "left_out_tokens": left_out}, headers=_DATA)


def _show(content: bytes, media_type: str) -> Callable[[Request], Response]:
    def show(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=_FRESH)

    return show


def _wish(request: Request) -> Wish:
    asked = _query(request, {"focus", "live"})
    live = asked.get("live", "0")
    if live not in ("0", "1"):
        raise InvalidRequest("live", f"must be 0 or 1, got {live!r}")
    focus = _node_id("focus", asked["focus"]) if "focus" in asked else None
    return Wish(focus, live == "1")


def _query(request: Request, known: set[str]) -> dict[str, str]:
    """Each at most once, and none that is unknown."""
    asked: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise InvalidRequest(name, f"is unknown here; known: {', '.join(sorted(known))}")
        if name in asked:
            raise InvalidRequest(name, "must be given once")
        asked[name] = value
    return asked


def _node_id(name: str, text: str) -> int:
    is_number = text.isascii() and text.isdecimal() and len(text) <= 19
    if not is_number or not 1 <= int(text) <= _MAX_ID:
        raise InvalidRequest(name, f"must be the id of a node, a whole number, got {text[:40]!r}")
    return int(text)


def _refusal(error: Exception) -> Response:
    match error:
        case Unauthenticated():
            return _plain(str(error), 401, {"WWW-Authenticate": "Bearer"})
        case Forbidden():
            return _plain(str(error), 403)
        case InvalidRequest():
            return _plain(str(error), 400)
        case Overloaded():
            return _plain(str(error), 503, {"Retry-After": f"{error.retry_seconds or 1:.0f}"})
    raise error


def _plain(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{text}\n", status, {**_DATA, **(headers or {})})

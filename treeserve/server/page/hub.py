"""The hub of the page: one look at the engine a tick for all who watch, and none if nobody does."""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from treeserve.errors import EngineStopped
from treeserve.forest import Forest, read_forest, take_forest
from treeserve.inspection import Inspection, Scope
from treeserve.server.identity import Identity, Permission
from treeserve.server.page.history import History, Point, columns_of
from treeserve.server.page.picture import Weights, Wish, draw
from treeserve.server.page.watcher import Watcher
from treeserve.server.refusals import Overloaded

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""Between two points, and at least between two pictures."""
MAX_WATCHERS = 64
MAX_WATCHERS_OF_TENANT = 16
MAX_SHARE = 0.005
"""Of the time: what drawing and sending pictures may take of the thread that serves streams. The
looks at the engine have as much again."""
_MAX_REST_SECONDS = 10.0
"""The garbage collector may run in the middle of a drawing, which is then not what it costs."""

TellState = Callable[[], dict[str, Any]]
"""The server's state, as JSON takes it."""


def scope_of(identity: Identity) -> Scope:
    """Operators see everybody's nodes, others their own."""
    is_operator = Permission.ADMIN in identity.permissions
    return Scope(None if is_operator else identity.tenant)


class Hub:
    """Belongs to one event loop.

    Args:
        history: What the charts show.
        tell_state: What else is told with every point.
    """

    def __init__(self, history: History, tell_state: TellState) -> None:
        self.inspection: Inspection | None = None
        self._history = history
        self._tell_state = tell_state
        self._watchers: set[Watcher] = set()
        self._of_tenant: Counter[str] = Counter()
        self._forests: dict[Scope, tuple[int, Forest]] = {}
        self._looking: dict[Scope, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._rests_until = 0.0
        self.spent_seconds = 0.0
        """On drawing and sending, of the event loop's thread."""

    @property
    def num_watchers(self) -> int:
        return len(self._watchers)

    def start(self) -> None:
        """Take a point a tick from now on, and pictures while anybody watches."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End every stream."""
        tasks = [task for task in (self._task, *self._looking.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for watcher in self._watchers:
            watcher.close()

    @contextmanager
    def watch(self, identity: Identity, wish: Wish) -> Iterator[Watcher]:
        """A watcher that is served while the context lasts.

        Raises:
            Overloaded: There are too many, of all callers or of this one.
        """
        # Where nobody is asked who it is all are one tenant.
        is_known = bool(identity.tenant)
        if len(self._watchers) >= MAX_WATCHERS:
            raise Overloaded(f"{MAX_WATCHERS} pages watch already, which is the limit", 5.0)
        if is_known and self._of_tenant[identity.tenant] >= MAX_WATCHERS_OF_TENANT:
            raise Overloaded(
                f"{MAX_WATCHERS_OF_TENANT} pages of yours watch already, which is the limit", 5.0
            )
        watcher = Watcher(identity, wish)
        watcher.put("history", _json(columns_of(self._history.points)))
        watcher.put("state", self._state())
        self._watchers.add(watcher)
        self._of_tenant[identity.tenant] += 1
        self._serve(scope_of(identity))
        try:
            yield watcher
        finally:
            self._watchers.remove(watcher)
            self._of_tenant[identity.tenant] -= 1
            self._of_tenant += Counter()

    def find(self, identity: Identity, node_id: int) -> tuple[int, ...] | None:
        """The first tokens of a node in the last picture; None where there is none, or no right."""
        _, forest = self._forests.get(scope_of(identity), (0, None))
        nodes = () if forest is None else forest.nodes
        for node in nodes:
            if node.node_id == node_id and node.tokens is not None:
                return tuple(node.tokens.tolist())
        return None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self._tick()
            except Exception:
                # The page may fail; what it shows must not.
                logger.exception("the page has missed a tick")

    def _tick(self) -> None:
        point = self._history.take()
        scopes = {scope_of(watcher.identity) for watcher in self._watchers}
        for gone in self._forests.keys() - scopes:
            del self._forests[gone]
        if not self._watchers:
            return
        self._tell(point)
        self._charge_sending()
        for scope in scopes:
            self._serve(scope)

    def _tell(self, point: Point) -> None:
        data, state = _json(asdict(point)), self._state()
        for watcher in self._watchers:
            watcher.put("point", data)
            watcher.put("state", state)

    def _state(self) -> bytes:
        shows_text = self.inspection is not None and self.inspection.shows_tokens
        return _json({**self._tell_state(), "shows_text": shows_text})

    def _serve(self, scope: Scope) -> None:
        """See to it that who watches a scope gets its picture, unless somebody does already."""
        if self.inspection is None or scope in self._looking:
            return
        task = self._looking[scope] = asyncio.create_task(self._look(scope, self.inspection))
        task.add_done_callback(lambda done: self._looking.pop(scope, None))

    async def _look(self, scope: Scope, inspection: Inspection) -> None:
        await asyncio.sleep(max(0.0, self._rests_until - time.monotonic()))
        if not self._is_watched(scope):
            return
        num_changes, forest = self._forests.get(scope, (-1, None))
        is_new = forest is None or inspection.num_changes != num_changes
        if is_new:
            # What changes during the look is for the next one.
            num_changes = inspection.num_changes
            try:
                look = await inspection.ask(
                    lambda engine: take_forest(engine, scope, shows_tokens=inspection.shows_tokens)
                )
            except EngineStopped:
                return
            started = time.thread_time()
            forest = read_forest(look, scope)
            self._charge(time.thread_time() - started)
        assert forest is not None
        if self._is_watched(scope):
            self._forests[scope] = num_changes, forest
            self._show(scope, forest, is_new=is_new)

    def _is_watched(self, scope: Scope) -> bool:
        """All may have gone away while the next picture was waited for."""
        return any(scope_of(watcher.identity) == scope for watcher in self._watchers)

    def _show(self, scope: Scope, forest: Forest, *, is_new: bool) -> None:
        """Each picture is drawn once, however many want it."""
        started = time.thread_time()
        pictures: dict[Wish, bytes] = {}
        weights: dict[bool, Weights] = {}
        for watcher in self._watchers:
            if scope_of(watcher.identity) != scope or (watcher.has_picture and not is_new):
                continue
            wish = watcher.wish
            if wish.live_only not in weights:
                weights[wish.live_only] = Weights(forest, live_only=wish.live_only)
            if wish not in pictures:
                pictures[wish] = draw(forest, wish, weights[wish.live_only])
            watcher.put("tree", pictures[wish])
        self._charge(time.thread_time() - started)

    def _charge_sending(self) -> None:
        for watcher in self._watchers:
            self._charge(watcher.sending_seconds)
            watcher.sending_seconds = 0.0

    def _charge(self, seconds: float) -> None:
        """No pictures are drawn until this is a small part of the time."""
        self.spent_seconds += seconds
        now = time.monotonic()
        rest = max(self._rests_until, now) + seconds * (1 / MAX_SHARE - 1)
        self._rests_until = min(rest, now + _MAX_REST_SECONDS)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

"""The methods of TreeService: the live tree and the last plan, read only."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeAlias

import grpc
from google.protobuf.message import Message

from treeserve.errors import NotPossible
from treeserve.inspection import Scope, TreeView, cut_view
from treeserve.pb import tree_pb2 as pb
from treeserve.server.activity_convert import read_get_activity, write_activity
from treeserve.server.doors import Call, Doors
from treeserve.server.endings import Endings
from treeserve.server.identity import Permission
from treeserve.server.methods import Methods, require_ready
from treeserve.server.refusals import Overloaded
from treeserve.server.side_contract import Inspects
from treeserve.server.tree_convert import (
    WatchQuery,
    read_get_plan,
    read_get_tree,
    read_watch_tree,
    write_plan,
    write_tree,
)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["TreeService"].full_name
MAX_WATCHERS = 64
MAX_WATCHERS_OF_TENANT = 16
AskActivity: TypeAlias = Callable[[str | None, int], Awaitable[pb.GetActivityResponse]]
"""(tenant, or None for everybody; calls to list) -> what goes on."""
_NOTICES_DRAIN_WITHIN_SECONDS = 0.5


class TreeService:
    """Answers from an inspection that arrives when the model is loaded.

    Args:
        doors: Decide whether a call may run.
        endings: Tell of every call.
    """

    def __init__(self, doors: Doors, endings: Endings) -> None:
        self.inspection: Inspects | None = None
        self.ask_activity: AskActivity = self.activity
        """Who says what goes on: this process, or all of them."""
        self._calls = doors.calls
        self._doorkeeper = doors.doorkeeper
        self._activity = doors.activity
        self._totals = doors.watch.totals
        self._watchers: Counter[str] = Counter()
        self._methods = Methods(SERVICE_NAME, doors, endings)
        self._methods.look("GetTree", Permission.INSPECT, self._get_tree)
        self._methods.look("GetPlan", Permission.INSPECT, self._get_plan)
        self._methods.look("GetActivity", Permission.INSPECT, self._get_activity)
        self._methods.watch("WatchTree", Permission.INSPECT, self._watch_tree)

    @property
    def num_watchers(self) -> int:
        """Streams of WatchTree that are open."""
        return self._watchers.total()

    async def activity(self, tenant: str | None, max_calls: int) -> pb.GetActivityResponse:
        """What goes on in this process.

        Args:
            tenant: Whose calls; None: everybody's.
            max_calls: That are listed.
        """
        records = self._activity.running(tenant)
        return write_activity(records, max_calls, self._totals, self._activity)

    def handler(self) -> "grpc.GenericRpcHandler[bytes, Message]":
        """To be added to a grpc.aio server."""
        return self._methods.handler()

    async def _get_tree(self, data: bytes, call: Call) -> Message:
        query = read_get_tree(data)
        look = await self._inspection().tree(self._scope(call, query.all_namespaces))
        return pb.GetTreeResponse(tree=write_tree(look.view, query.max_nodes))

    async def _get_plan(self, data: bytes, call: Call) -> Message:
        scope = self._scope(call, read_get_plan(data))
        return write_plan(await self._inspection().plan(scope))

    async def _get_activity(self, data: bytes, call: Call) -> Message:
        max_calls, all_namespaces = read_get_activity(data)
        return await self.ask_activity(self._scope(call, all_namespaces).namespace, max_calls)

    async def _watch_tree(self, data: bytes, call: Call) -> AsyncGenerator[Message, None]:
        query = read_watch_tree(data)
        scope = self._scope(call, query.tree.all_namespaces)
        self._require_room(call.tenant)
        self._watchers[call.tenant] += 1
        try:
            async with aclosing(self._changes(scope, query)) as views:
                async for view in views:
                    yield pb.WatchTreeResponse(tree=write_tree(view, query.tree.max_nodes))
        finally:
            self._watchers[call.tenant] -= 1
            self._watchers += Counter()

    def _require_room(self, tenant: str) -> None:
        if self.num_watchers >= MAX_WATCHERS:
            raise Overloaded(f"{MAX_WATCHERS} streams watch already, which is the limit")
        if self._watchers[tenant] >= MAX_WATCHERS_OF_TENANT:
            raise Overloaded(f"{MAX_WATCHERS_OF_TENANT} of yours watch already, which is the limit")

    async def _changes(self, scope: Scope, query: WatchQuery) -> AsyncGenerator[TreeView, None]:
        """Nothing is queued: while a slow reader's message is under way nobody looks for it."""
        inspection = self._inspection()
        seen: TreeView | None = None
        num_changes = -1
        while True:
            if inspection.num_changes != num_changes:
                look = await inspection.tree(scope, query.interval_seconds)
                num_changes = look.num_changes
                view = cut_view(look.view, query.tree.max_nodes)
                if view != seen:
                    seen = view
                    yield view
            await self._pause(query.interval_seconds)

    async def _pause(self, seconds: float) -> None:
        """Raises EngineStopped soon after the server ceases to take calls."""
        while seconds > 0:
            require_ready(self._calls)
            await asyncio.sleep(min(seconds, _NOTICES_DRAIN_WITHIN_SECONDS))
            seconds -= _NOTICES_DRAIN_WITHIN_SECONDS
        require_ready(self._calls)

    def _inspection(self) -> Inspects:
        if self.inspection is None:
            raise NotPossible("this server has no engine to look at")
        return self.inspection

    def _scope(self, call: Call, all_namespaces: bool) -> Scope:
        if not all_namespaces:
            return Scope(call.tenant)
        self._doorkeeper.require(call.identity, Permission.ADMIN)
        return Scope(None)

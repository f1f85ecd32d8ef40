"""What a replica answers and does beside generation, for all its callers' services."""

from collections.abc import Sequence
from dataclasses import replace

from prometheus_client import Metric

from treeserve.administration import Status
from treeserve.errors import NotFound
from treeserve.inspection import Look, PlanView, Scope, TreeNode
from treeserve.metrics import Metrics
from treeserve.prefixes.keeper import Held, Restored, Retained, Saved
from treeserve.scheduler.modules import Module
from treeserve.scheduler.request import PromptUsage
from treeserve.schemas.warming import Warmed
from treeserve.server.activity import Activity
from treeserve.server.activity_convert import write_activity
from treeserve.server.admin_service import set_own_log_level
from treeserve.server.backstage import Backstage
from treeserve.server.engine_watch import EngineWatch

_ID_BITS = 32
"""Of an id of the engine's own, beneath the replica's number."""


class ReplicaSide:
    """Every method may be called from the ingress, with what can be sent.

    Ids of segments and retained prefixes are distinct in the whole cluster: above the engine's own
    stands the number of the replica.

    Args:
        backstage: Of the engine.
        metrics: Of the engine.
        watch: Of the engine.
        number: Of the replica, below 2**31 and most likely no other's.
    """

    def __init__(
        self, backstage: Backstage, metrics: Metrics, watch: EngineWatch, number: int
    ) -> None:
        self._backstage = backstage
        self._metrics = metrics
        self._watch = watch
        self._number = number

    async def tree(self, scope: Scope, max_age_seconds: float) -> Look:
        """As Inspection.tree."""
        look = await self._backstage.inspection.tree(scope, max_age_seconds)
        nodes = tuple(map(self._node, look.view.nodes))
        return replace(look, view=replace(look.view, nodes=nodes))

    async def plan(self, scope: Scope) -> PlanView:
        """As Inspection.plan."""
        view = await self._backstage.inspection.plan(scope)
        segments = (replace(s, serial=self._id(s.serial)) for s in view.segments)
        return replace(view, segments=tuple(segments))

    async def warm(self, token_ids: Sequence[int], namespace: str) -> PromptUsage:
        """As PrefixKeeper.warm."""
        return await self._backstage.keeper.warm(tuple(token_ids), namespace)

    async def retain(
        self, token_ids: Sequence[int], namespace: str, weight: float, ttl_seconds: float
    ) -> Retained:
        """As PrefixKeeper.retain."""
        keeper = self._backstage.keeper
        return self._retained(await keeper.retain(tuple(token_ids), namespace, weight, ttl_seconds))

    async def retained(self, namespace: str) -> Retained:
        """As PrefixKeeper.retained."""
        return self._retained(await self._backstage.keeper.retained(namespace))

    async def release(self, retained_id: int, namespace: str) -> None:
        """As PrefixKeeper.release."""
        number, own_id = divmod(retained_id, 1 << _ID_BITS)
        if number != self._number:
            raise NotFound(f"no retained prefix has the id {retained_id}")
        try:
            await self._backstage.keeper.release(own_id, namespace)
        except NotFound:
            raise NotFound(f"no retained prefix has the id {retained_id}") from None

    async def save(
        self, name: str, token_ids: Sequence[int], namespace: str, overwrite: bool
    ) -> Saved:
        """As PrefixKeeper.save."""
        keeper = self._backstage.keeper
        return await keeper.save(name, tuple(token_ids), namespace, overwrite=overwrite)

    async def restore(self, name: str, namespace: str) -> Restored:
        """As PrefixKeeper.restore."""
        return await self._backstage.keeper.restore(name, namespace)

    async def encode(self, modules: Sequence[Module], base_position: int, namespace: str) -> Warmed:
        """As SchemaWarmer.encode."""
        return await self._backstage.warmer.encode(modules, base_position, namespace)

    async def clear_cache(self) -> int:
        """As Administration.clear_cache."""
        return await self._backstage.administration.clear_cache()

    async def status(self) -> Status:
        """As Administration.status."""
        return await self._backstage.administration.status()

    async def set_log_level(self, level: int) -> int:
        """Of the replica's process; what it was."""
        return set_own_log_level(level)

    async def activity(self) -> bytes:
        """A GetActivityResponse whose totals are those of the engine's steps."""
        return write_activity((), 0, self._watch.totals, Activity()).SerializeToString()

    async def families(self) -> list[Metric]:
        """All metrics as they are now."""
        return list(self._metrics.collect())

    def _retained(self, retained: Retained) -> Retained:
        def held(entry: Held) -> Held:
            return replace(entry, retained_id=self._id(entry.retained_id))

        return replace(retained, prefixes=tuple(map(held, retained.prefixes)))

    def _node(self, node: TreeNode) -> TreeNode:
        parent_id = None if node.parent_id is None else self._id(node.parent_id)
        return replace(node, node_id=self._id(node.node_id), parent_id=parent_id)

    def _id(self, own_id: int) -> int:
        return (self._number << _ID_BITS) + own_id

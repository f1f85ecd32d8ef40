"""The trees and plans of all engines as one, for TreeService."""

import time
from itertools import count

from treeserve.inspection import Look, PlanView, Scope
from treeserve.ray.engines import Engines
from treeserve.ray.joined import join_plans, join_views

_MAX_KEPT_LOOKS = 16


class RemoteInspection:
    """As `treeserve.inspection.Inspection`. What two engines hold of one text is there twice.

    Args:
        engines: All of them are asked.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._asked = count()
        self._kept: dict[Scope, Look] = {}

    @property
    def num_changes(self) -> int:
        """Never that of a look: only asking says whether anything has changed."""
        return next(self._asked)

    async def tree(self, scope: Scope, max_age_seconds: float = 0.0) -> Look:
        """Those nearest to their roots first, however many engines they are on.

        Raises:
            EngineStopped: No engine answers.
        """
        kept = self._kept.get(scope)
        if kept is not None and time.monotonic() - kept.taken_at < max_age_seconds:
            return kept
        taken_at = time.monotonic()
        told = await self._engines.ask("tree", scope, max_age_seconds)
        look = Look(-1, taken_at, join_views([entry.value.view for entry in told]))
        if len(self._kept) >= _MAX_KEPT_LOOKS:
            self._kept.clear()
        self._kept[scope] = look
        return look

    async def plan(self, scope: Scope) -> PlanView:
        """Of every engine's last step; raises as tree()."""
        told = await self._engines.ask("plan", scope)
        return join_plans([entry.value for entry in told])

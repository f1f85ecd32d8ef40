"""The application as its AdminService sees it: every ingress and every engine."""

from collections import Counter
from typing import NoReturn

from treeserve.administration import Status
from treeserve.errors import NotPossible
from treeserve.pb import tree_pb2
from treeserve.ray.engines import Engines
from treeserve.ray.joined import join_activity
from treeserve.ray.peers import Peers

_MARGIN_SECONDS = 10.0


class RemoteAdministration:
    """As `treeserve.administration.Administration`, over all engines.

    Args:
        engines: Are asked.
        peers: Count the calls that run.
    """

    def __init__(self, engines: Engines, peers: Peers) -> None:
        self._engines = engines
        self._peers = peers

    async def clear_cache(self) -> int:
        """Tokens of all engines together."""
        return sum(entry.value for entry in await self._engines.ask("clear_cache"))

    async def calibrate(self, seconds: float) -> NoReturn:
        """Refused: engines that share a machine would disturb each other's measurement."""
        raise NotPossible(
            "Ray Serve's engines are not calibrated while they run: run `treeserve calibrate` on "
            "every node before the application starts, or give it engine.calibration: measure"
        )

    async def status(self) -> Status:
        """Versions and options of one engine, since all have the same; counts of all together."""
        told: list[Status] = [entry.value for entry in await self._engines.ask("status")]
        counts: Counter[str] = Counter()
        for status in told:
            counts.update(status.counts)
        counts["running_calls"] = sum(await self._peers.ask("running_calls"))
        counts["engines"] = len(told)
        return Status(told[0].versions, told[0].options, counts)


class RemoteHost:
    """As `treeserve.server.side_contract.Host`: every process of the application.

    Args:
        engines: Behind their router.
        peers: All ingresses.
        grace_seconds: How long running calls may go on after a drain has begun.
    """

    def __init__(self, engines: Engines, peers: Peers, grace_seconds: float) -> None:
        self._engines = engines
        self._peers = peers
        self._grace_seconds = grace_seconds

    async def drain(self) -> int:
        """All ingresses refuse new calls from now on; how many calls still run at last."""
        timeout_seconds = self._grace_seconds + _MARGIN_SECONDS
        return sum(await self._peers.ask("drain", timeout_seconds=timeout_seconds))

    async def set_log_level(self, level: int) -> int:
        """In every process; what it was in one of them."""
        levels = await self._peers.ask("set_log_level", level)
        await self._engines.ask("set_log_level", level)
        return int(levels[0])


class ClusterActivity:
    """What goes on at all ingresses and in all engines.

    Args:
        engines: Say what their steps add up to.
        peers: Say which calls run.
    """

    def __init__(self, engines: Engines, peers: Peers) -> None:
        self._engines = engines
        self._peers = peers

    async def ask(self, tenant: str | None, max_calls: int) -> tree_pb2.GetActivityResponse:
        """As TreeService.activity."""
        told = await self._peers.ask("activity", tenant, max_calls)
        told += [entry.value for entry in await self._engines.ask("activity")]
        parts = [tree_pb2.GetActivityResponse.FromString(data) for data in told]
        return join_activity(parts, max_calls)

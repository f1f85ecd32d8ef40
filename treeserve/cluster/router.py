"""Where the next request goes: to the replica that holds most of it and is not overloaded."""

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from treeserve.cluster.config import RouterConfig
from treeserve.cluster.held_prefixes import Found, HeldPrefixes, Node, TokenIds, Trunk

RouteReason: TypeAlias = Literal["owner", "prefix", "spread", "balance"]
"""owner: it continues a request that is there; prefix: most of it is held there; spread: whoever
holds most of it is overloaded; balance: nobody holds enough of it."""

_MAX_ENDED = 100_000
"""Names of requests that have ended, which may still be forked or told of."""
_EXPECTED_TOKENS = 256
"""Of a sample: most end long before the most that they may have."""


@dataclass(frozen=True, slots=True, eq=False)
class RoutedRequest:
    """What the router has to know of a request."""

    request_id: str
    """Distinct among all that are open."""
    namespace: Hashable
    """Prefixes of two namespaces are never shared."""
    tokens: TokenIds
    """[n]: the prompt; of a tree of prompts its trunk, down to where it first branches."""
    num_expected: int = 0
    """Tokens that it will draw, about, over all samples; and those of a tree's branches."""
    name: str = ""
    """As its caller knows it, within the namespace."""
    continues: str | None = None
    """The name of the request that it forks, if it has to go where that is."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes, and why."""

    replica_id: str
    num_matched: int
    """Tokens of it that the replica is thought to hold."""
    reason: RouteReason


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """What a replica says of itself from time to time."""

    epoch: str
    """Another one where it has started again and holds nothing of what it held."""
    num_cached_tokens: int
    """In its tree, each counted once."""
    capacity_tokens: int
    """Of its pool."""
    work_of_others: float = 0.0
    """That other routers sent and that has not ended, as `work_of` counts it."""


def expected_tokens(num_samples: int, max_tokens: int) -> int:
    """That samples of one prompt will draw, about."""
    return num_samples * min(max_tokens, _EXPECTED_TOKENS)


class NoReplica(Exception):
    """There is no replica to choose from."""


@dataclass(slots=True)
class _Replica:
    index: int
    epoch: str | None = None


@dataclass(frozen=True, slots=True)
class _Open:
    replica_id: str
    work: float
    key: tuple[Hashable, str]
    """Namespace and name."""
    trunk: Node | None


class Router:
    """The replica where a request costs least: what it would compute, and what is before it there.

    Work that is open at a replica costs `load_weight` a token beyond `calm_tokens`. So a hot trunk
    is computed a second time where, and only where, its holders have so much more to do than
    another that waiting would cost more. With credit it costs up to `eager_weight`, the more the
    more there is, and a trunk counts by `trunk_weight` only: a small part of all work may be done
    twice for the sake of balance, rather for trunks than for one conversation, and first where the
    difference is largest. Credit is earned, so that a short load is not computed twice on a guess.
    A trunk that has too much under it for its holders is copied without: when all of them had more
    than their fair share to do for as long as it took to bring `copy_work` for each of its tokens.
    Once two replicas hold a trunk they share its requests for nothing. A request of which nobody
    holds enough goes to the lesser loaded of two, chosen at random, so that many routers do not
    all choose the same.
    """

    def __init__(
        self,
        config: RouterConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        seed: int = 0,
    ) -> None:
        self._config = config
        self._clock = clock
        self._random = random.Random(seed)
        self._replicas: dict[str, _Replica] = {}
        self._ids: list[str | None] = []
        self._all = np.zeros(0, dtype=np.intp)
        self._own_work = np.zeros(0)
        self._work_of_others = np.zeros(0)
        self._open: dict[str, _Open] = {}
        self._owners: dict[tuple[Hashable, str], str] = {}
        self._ended: OrderedDict[tuple[Hashable, str], None] = OrderedDict()
        self._credit = 0.0
        self.held = HeldPrefixes()

    @property
    def replica_ids(self) -> Collection[str]:
        """Those that may be chosen."""
        return self._replicas.keys()

    def load_of(self, replica_id: str) -> float:
        """Its open work, in tokens of prompts."""
        index = self._replicas[replica_id].index
        return float(self._own_work[index] + self._work_of_others[index])

    def update_replicas(self, replica_ids: Collection[str]) -> None:
        """These there are now. What the others held is forgotten, and their requests too."""
        for gone in self._replicas.keys() - set(replica_ids):
            self.died(gone)
        for replica_id in replica_ids:
            if replica_id not in self._replicas:
                self._add(replica_id)
        self._all = self._indices(self._replicas)

    def died(self, replica_id: str) -> list[str]:
        """It is gone; returns the ids of the requests that were open there."""
        replica = self._replicas.pop(replica_id, None)
        if replica is None:
            return []
        self.held.remove_replica(replica.index)
        self._ids[replica.index] = None
        self._own_work[replica.index] = self._work_of_others[replica.index] = 0.0
        self._all = self._indices(self._replicas)
        lost = [i for i, opened in self._open.items() if opened.replica_id == replica_id]
        for request_id in lost:
            self._forget_open(request_id)
        return lost

    def choose(self, request: RoutedRequest, candidates: Collection[str] | None = None) -> Route:
        """Where the request should go; changes nothing.

        Args:
            request: To be routed.
            candidates: Replicas that may be chosen; all where None.

        Raises:
            NoReplica: There is none.
        """
        owner = self._owner(request, candidates)
        found = self.held.find(request.namespace, request.tokens)
        if owner is not None:
            return Route(owner, int(found.matched[self._replicas[owner].index]), "owner")
        indices = self._all if candidates is None else self._indices(candidates)
        if not len(indices):
            raise NoReplica("no replica is ready")
        return self._choose(indices, found)

    def routed(self, request: RoutedRequest, replica_id: str) -> None:
        """The request was sent there; to be followed by one `completed`."""
        replica = self._replicas.get(replica_id)
        if replica is None:
            return
        now = self._clock()
        self.held.expire(replica.index, now - self._config.max_age_seconds)
        found = self.held.find(request.namespace, request.tokens)
        num_again = int(found.matched.max() - found.matched[replica.index])
        is_free = self._note_wanted(found, replica.index, request)
        num_new = self.held.insert(request.namespace, request.tokens, replica.index, now)
        self._add_credit(self._config.credit_fraction * num_new - (0 if is_free else num_again))
        work = self.work_of(num_new, request.num_expected)
        key = request.namespace, request.name
        trunk = None if found.trunk is None else found.trunk.node
        if trunk is not None:
            trunk.num_open += 1
        self._open[request.request_id] = _Open(replica_id, work, key, trunk)
        self._own_work[replica.index] += work
        if request.name:
            self._owners[key] = replica_id
            self._ended.pop(key, None)

    def drew(self, namespace: Hashable, name: str, tokens: TokenIds) -> None:
        """A request has ended: where it ran, its prompt and what a sample drew is held now.

        Args:
            namespace: The request's.
            name: The request's; nothing where the router did not send one of that name.
            tokens: [n] of the prompt and the sample.
        """
        replica = self._replicas.get(self._owners.get((namespace, name), ""))
        if replica is not None:
            self.held.insert(namespace, tokens, replica.index, self._clock())

    def completed(self, request_id: str) -> None:
        """It has ended, whichever way; nothing where it is not known."""
        if request_id in self._open:
            opened = self._forget_open(request_id)
            index = self._replicas[opened.replica_id].index
            self._own_work[index] = max(0.0, self._own_work[index] - opened.work)

    def replica_of(self, request_id: str) -> str | None:
        """Where an open request was sent."""
        opened = self._open.get(request_id)
        return None if opened is None else opened.replica_id

    def work_of_open(self, request_id: str) -> float:
        """What an open request counts as; 0 where it is not known."""
        opened = self._open.get(request_id)
        return 0.0 if opened is None else opened.work

    def report(self, replica_id: str, stats: ReplicaStats) -> None:
        """A replica says what it holds and has to do: what was guessed is put right.

        To be called once for what it said once.
        """
        replica = self._replicas.get(replica_id)
        if replica is None:
            return
        if stats.epoch != replica.epoch:
            if replica.epoch is not None:
                self.held.trim(replica.index, 0)
            replica.epoch = stats.epoch
        self.held.set_capacity(replica.index, stats.capacity_tokens)
        own = float(self._own_work[replica.index])
        # What this router sent since then is not in its tree yet.
        self.held.trim(replica.index, stats.num_cached_tokens + int(own))
        self._work_of_others[replica.index] = stats.work_of_others

    def work_of(self, num_computed: int, num_drawn: int) -> float:
        """In tokens of prompts: a drawn token takes a little more than one of a prompt."""
        return num_computed + self._config.drawn_weight * num_drawn

    def _choose(self, indices: npt.NDArray[np.intp], found: Found) -> Route:
        matched = found.matched[indices]
        loads = self._own_work[indices] + self._work_of_others[indices]
        best = int(matched.max())
        if best < self._config.min_matched_tokens:
            return self._route(indices, matched, self._lesser_of_two(loads), "balance")
        num_trunk = found.trunk.num_tokens if found.trunk is not None else 0
        idle = int(loads.argmin())
        is_free = matched[idle] < num_trunk and loads[idle] < self._mean_load()
        if is_free and self._is_due(found):
            return self._route(indices, matched, idle, "spread")
        trunk_weight = self._trunk_weight(found.trunk) if found.trunk is not None else 1.0
        values = matched - (1 - trunk_weight) * np.minimum(matched, num_trunk)
        chosen = self._cheapest(values, loads, self._weight())
        if best - int(matched[chosen]) > self._credit:
            chosen = self._cheapest(values, loads, self._config.load_weight)
        reason: RouteReason = "prefix" if int(matched[chosen]) == best else "spread"
        return self._route(indices, matched, chosen, reason)

    def _note_wanted(self, found: Found, index: int, request: RoutedRequest) -> bool:
        """Of a request that was sent there; whether it brings a copy that was due.

        What is wanted is a cumulative sum, Page's test (1954) for a level that has risen: it finds
        a large overload soon and a small one late, and takes no notice of one that comes and goes.
        """
        trunk = found.trunk
        if trunk is None:
            return False
        if found.matched[index] < trunk.num_tokens and self._is_due(found):
            trunk.node.wanted_work = 0.0
            return True
        num_own = len(request.tokens) - max(int(found.matched[index]), trunk.num_tokens)
        work = self.work_of(num_own, request.num_expected)
        change = work * (self._share_of_holders(found, trunk) - self._config.fair_share)
        trunk.node.wanted_work = max(0.0, trunk.node.wanted_work + change)
        return False

    def _is_due(self, found: Found) -> bool:
        """Whether its trunk was wanted for so long that a copy is worth its tokens.

        A conversation does not bring it: it would be computed again too.
        """
        trunk = found.trunk
        if trunk is None or trunk.node.wanted_work < self._config.copy_work * trunk.num_tokens:
            return False
        num_own = int(found.matched.max()) - trunk.num_tokens
        is_short = num_own < self._config.min_matched_tokens
        return is_short and self._share_of_holders(found, trunk) > self._config.fair_share

    def _share_of_holders(self, found: Found, trunk: Trunk) -> float:
        """Open work of the least loaded replica that holds it, over the mean of all."""
        loads = self._own_work + self._work_of_others
        holding = loads[found.matched[: len(loads)] >= trunk.num_tokens]
        mean = self._mean_load()
        return float(holding.min()) / mean if len(holding) and mean else 0.0

    def _trunk_weight(self, trunk: Trunk) -> float:
        """Of its tokens: what a copy can take over is no more than what goes on from the trunk.

        So `trunk_weight` is for one with a replica's part of all open requests, or more; one with
        less counts for more, and one under which nothing is open in full.
        """
        mean_open = max(1.0, len(self._open) / len(self._replicas))
        part = min(1.0, trunk.node.num_open / mean_open)
        return 1 - (1 - self._config.trunk_weight) * part

    def _mean_load(self) -> float:
        """Of all replicas."""
        return float(self._own_work.sum() + self._work_of_others.sum()) / len(self._replicas)

    def _weight(self) -> float:
        """Of open work; the less credit is left, the more a replica has to be behind."""
        patient, eager = self._config.load_weight, self._config.eager_weight
        most = self._config.credit_tokens * len(self._replicas)
        return patient + (eager - patient) * (self._credit / most if most else 0.0)

    def _cheapest(
        self, values: npt.NDArray[Any], loads: npt.NDArray[np.float64], weight: float
    ) -> int:
        """Of equal ones the least loaded."""
        overload = np.maximum(loads - self._config.calm_tokens, 0.0)
        costs = weight * overload - values
        cheapest = np.flatnonzero(costs == costs.min())
        return int(cheapest[loads[cheapest].argmin()])

    def _add_credit(self, num_tokens: float) -> None:
        most = self._config.credit_tokens * len(self._replicas)
        self._credit = min(max(self._credit + num_tokens, 0.0), most)

    def _route(
        self,
        indices: npt.NDArray[np.intp],
        matched: npt.NDArray[np.int64],
        chosen: int,
        reason: RouteReason,
    ) -> Route:
        replica_id = self._ids[indices[chosen]]
        assert replica_id is not None
        return Route(replica_id, int(matched[chosen]), reason)

    def _lesser_of_two(self, loads: npt.NDArray[np.float64]) -> int:
        two = self._random.sample(range(len(loads)), min(2, len(loads)))
        return min(two, key=lambda i: float(loads[i]))

    def _indices(self, candidates: Collection[str]) -> npt.NDArray[np.intp]:
        replicas = self._replicas
        return np.array([replicas[i].index for i in candidates if i in replicas], dtype=np.intp)

    def _owner(self, request: RoutedRequest, candidates: Collection[str] | None) -> str | None:
        if request.continues is None:
            return None
        owner = self._owners.get((request.namespace, request.continues))
        if owner not in self._replicas or (candidates is not None and owner not in candidates):
            return None
        return owner

    def _forget_open(self, request_id: str) -> _Open:
        opened = self._open.pop(request_id)
        if opened.trunk is not None:
            opened.trunk.num_open -= 1
        self._remember(opened.key)
        return opened

    def _remember(self, key: tuple[Hashable, str]) -> None:
        """The name of a request that has ended: of those that are open none is ever forgotten."""
        if key not in self._owners:
            return
        self._ended[key] = None
        self._ended.move_to_end(key)
        if len(self._ended) > _MAX_ENDED:
            oldest, _ = self._ended.popitem(last=False)
            del self._owners[oldest]

    def _add(self, replica_id: str) -> None:
        if None in self._ids:
            index = self._ids.index(None)
            self._ids[index] = replica_id
        else:
            index = len(self._ids)
            self._ids.append(replica_id)
            self._own_work = np.append(self._own_work, 0.0)
            self._work_of_others = np.append(self._work_of_others, 0.0)
        self._replicas[replica_id] = _Replica(index)
        self.held.add_replica(index, self._config.assumed_capacity_tokens)

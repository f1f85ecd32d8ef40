"""The router as Ray Serve runs it, on the deployment of the engines: one in every ingress."""

import asyncio
import random
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from treeserve.cluster.config import RouterConfig
from treeserve.cluster.router import NoReplica, Router
from treeserve.ray.calls import StreamCall
from treeserve.ray.config import router_config
from treeserve.ray.stats import read_stats, stats_for


class PrefixRouter(RequestRouter):  # type: ignore[misc]  # Ray is not typed
    """Sends what shares a trunk to where the trunk is.

    A request is noted as routed when it is chosen, not when Ray Serve has sent it: of a hundred
    that come at once the second already follows the first.
    """

    def initialize_state(self, **options: Any) -> None:
        """Called by Ray Serve with the options of the router; raises ConfigError."""
        self._id = uuid.uuid4().hex
        self._router = Router(router_config(options) if options else RouterConfig())
        self._reported: dict[str, tuple[str, int]] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """These there are now, with what they last said of themselves."""
        super().update_replicas(replicas)
        names = {replica.replica_id.unique_id for replica in replicas}
        self._router.update_replicas(names)
        for name in self._reported.keys() - names:
            del self._reported[name]
        for replica in replicas:
            self._report(replica)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The one to send to, and after it the others, in case that its queue is full.

        Whoever holds what is forked has to take the fork, so there are no others then.
        """
        if pending_request is not None:
            # Ray Serve asks again without a pause otherwise while the queue is full.
            pending_request.routing_context.should_backoff = True
        call = _call_of(pending_request)
        if pending_request is None or call is None:
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        # Where all have refused the call, one of them says so once more, and it ends.
        by_name = {n: r for n, r in by_name.items() if n not in call.avoid} or by_name
        chosen = self._choose(call, pending_request, by_name)
        if chosen is None:
            return [list(candidate_replicas)]
        others = [replica for name, replica in by_name.items() if name != chosen]
        is_bound = call.replica_id is not None or call.routed.continues is not None
        return [[by_name[chosen]]] if is_bound or not others else [[by_name[chosen]], others]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """It may have gone to another one than was chosen."""
        call = _call_of(pending_request)
        request_id = pending_request.metadata.internal_request_id
        name = replica_id.unique_id
        if call is not None and self._router.replica_of(request_id) != name:
            self._router.completed(request_id)
            self._router.routed(replace(call.routed, request_id=request_id), name)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Whichever way it ended."""
        self._router.completed(internal_request_id)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """What it held is held no more."""
        super().on_replica_actor_died(replica_id)
        self._router.died(replica_id.unique_id)
        self._reported.pop(replica_id.unique_id, None)

    def _choose(
        self, call: StreamCall, pending: PendingRequest, names: dict[str, RunningReplica]
    ) -> str | None:
        """None: the router knows none of them yet."""
        request_id = pending.metadata.internal_request_id
        routed = replace(call.routed, request_id=request_id)
        for drew in call.learned:
            self._router.drew(drew.namespace, drew.name, drew.tokens)
        # This may be another try, after a queue was full or a replica died.
        self._router.completed(request_id)
        if call.replica_id in names:
            chosen = call.replica_id
        else:
            try:
                chosen = self._router.choose(routed, names.keys()).replica_id
            except NoReplica:
                return None
        self._router.routed(routed, chosen)
        work = self._router.work_of_open(request_id)
        pending.args = [replace(call, router_id=self._id, work=work, learned=()), *pending.args[1:]]
        pending.future.add_done_callback(lambda future: self._forget_cancelled(future, request_id))
        return chosen

    def _forget_cancelled(self, future: "asyncio.Future[Any]", request_id: str) -> None:
        """Its caller went before it was sent, so that nobody will say that it has ended."""
        if future.cancelled():
            self._router.completed(request_id)

    def _report(self, replica: RunningReplica) -> None:
        message = read_stats(replica.routing_stats)
        name = replica.replica_id.unique_id
        if message is None or self._reported.get(name) == (message.epoch, message.number):
            return
        self._reported[name] = message.epoch, message.number
        self._router.report(name, stats_for(message, self._id))


def _call_of(pending: PendingRequest | None) -> StreamCall | None:
    args: Sequence[Any] = () if pending is None else pending.args
    return args[0] if args and isinstance(args[0], StreamCall) else None

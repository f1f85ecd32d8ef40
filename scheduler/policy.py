"""The policy: in which order waiting requests are admitted."""

from collections.abc import Callable
from typing import TypeAlias

from sortedcontainers import SortedDict

from treeserve.scheduler.live import LiveRequest

PolicyKey: TypeAlias = tuple[int, ...]
Policy: TypeAlias = Callable[[LiveRequest, int], PolicyKey]
"""(request, arrival number) -> sort key; the least is admitted first."""


def first_come(request: LiveRequest, arrival: int) -> PolicyKey:
    """First come, first served; nobody overtakes."""
    return (arrival,)


class WaitingQueue:
    """Waiting requests by policy key. A key is given once, when the request comes."""

    def __init__(self, policy: Policy = first_come) -> None:
        self._policy = policy
        self._num_arrived = 0
        self._by_key: SortedDict = SortedDict()
        self._keys: dict[str, PolicyKey] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._keys

    def push(self, request: LiveRequest) -> None:
        key = (*self._policy(request, self._num_arrived), self._num_arrived)
        self._num_arrived += 1
        self._by_key[key] = request
        self._keys[request.request_id] = key

    def first(self) -> LiveRequest | None:
        if not self._by_key:
            return None
        request: LiveRequest = self._by_key.peekitem(0)[1]
        return request

    def get(self, request_id: str) -> LiveRequest | None:
        key = self._keys.get(request_id)
        if key is None:
            return None
        request: LiveRequest = self._by_key[key]
        return request

    def remove(self, request_id: str) -> None:
        del self._by_key[self._keys.pop(request_id)]

    def check(self) -> None:
        """Raises AssertionError unless both indices name the same requests."""
        self._by_key._check()
        assert {r.request_id: k for k, r in self._by_key.items()} == self._keys
        assert all(r.path is None for r in self._by_key.values()), "an admitted request waits"

"""What samples drew that ended not long ago, so that they can still be branched."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from treeserve.errors import InvalidRequest
from treeserve.scheduler.request import ScheduledFork, ScheduledRequest
from treeserve.scheduler.step import SampleKey


@dataclass(frozen=True, slots=True, eq=False)
class FinishedSample:
    """What it was asked and what it drew; whether the KV is still cached is the tree's business."""

    request: ScheduledRequest
    drawn: tuple[int, ...]


class FinishedSamples:
    """The last ones to end, as many as have at most `max_tokens` tokens, prompts counted."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self._samples: OrderedDict[SampleKey, FinishedSample] = OrderedDict()
        self._keys: dict[str, set[SampleKey]] = {}
        """Of the samples, by request."""

    def add(self, key: SampleKey, sample: FinishedSample) -> None:
        self._samples[key] = sample
        self._keys.setdefault(key.request_id, set()).add(key)
        self._num_tokens += _num_tokens(sample)
        while self._num_tokens > self._max_tokens:
            self._drop(next(iter(self._samples)))

    def get(self, key: SampleKey) -> FinishedSample | None:
        return self._samples.get(key)

    def forget(self, request_id: str) -> None:
        """The id names another request from now on."""
        for key in list(self._keys.get(request_id, ())):
            self._drop(key)

    def _drop(self, key: SampleKey) -> None:
        self._num_tokens -= _num_tokens(self._samples.pop(key))
        keys = self._keys[key.request_id]
        keys.remove(key)
        if not keys:
            del self._keys[key.request_id]


def fork_request(fork: ScheduledFork, parent: FinishedSample) -> ScheduledRequest:
    """The branch as a request of its own."""
    if not 0 <= fork.num_tokens <= len(parent.drawn):
        raise InvalidRequest(
            "num_tokens",
            f"must be between 0 and the {len(parent.drawn)} tokens that the parent drew, "
            f"got {fork.num_tokens}",
        )
    drawn = np.array(parent.drawn[: fork.num_tokens], dtype=np.int32)
    return ScheduledRequest(
        request_id=fork.request_id,
        prompt=np.concatenate([parent.request.prompt, drawn]),
        num_samples=fork.num_samples,
        max_tokens=fork.max_tokens,
        stop_token_ids=fork.stop_token_ids,
        namespace=parent.request.namespace,
        num_public_tokens=parent.request.num_public_tokens,
        tenant=parent.request.tenant,
        priority=fork.priority,
        deadline=fork.deadline,
        prompt_logprobs=fork.prompt_logprobs,
        modules=parent.request.modules,
    )


def _num_tokens(sample: FinishedSample) -> int:
    return len(sample.request.prompt) + len(sample.drawn)

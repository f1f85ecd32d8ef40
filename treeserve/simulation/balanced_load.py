"""A load for measuring the scheduler: so many requests, decoding over a balanced tree."""

import math
from collections import deque
from dataclasses import dataclass
from itertools import count
from time import perf_counter

import numpy as np

from treeserve.config import SchedulerConfig
from treeserve.scheduler.request import ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import Int32Array, SampleKey, Step

PAGE_SIZE = 16
WARM_STEPS = 16
"""Run before anything is measured."""
_STOP_TOKEN = 1
_STOPS = frozenset([_STOP_TOKEN])
_NUM_DRAWN_TOKENS = 1 << 16
_CACHED_TRUNK_TOKENS, _CACHED_LEAF_TOKENS, _CACHED_LEAVES = 1024, 256, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadShape:
    """A tree whose level l, of 1 to `depth`, has running^(l/depth) nodes: the last one `running`.

    So with depth 1 nothing is shared. Every request is one sample under a leaf of its own.
    """

    running: int
    depth: int
    level_tokens: int = 128
    """Of every node."""
    cached_tokens: int = 0
    """In the cache besides, in segments of 256 to 1,024 tokens, used by nobody."""

    def num_nodes(self, level: int) -> int:
        return round(math.pow(self.running, level / self.depth))

    def num_all_nodes(self) -> int:
        return sum(self.num_nodes(level) for level in range(1, self.depth + 1))

    def num_tokens(self) -> int:
        return self.level_tokens * self.num_all_nodes()


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """What the host took for one step."""

    add: float
    """Queueing the requests that came since the last step."""
    host: float
    """`schedule` and `complete`."""
    plan: float
    """Of the host's."""


class BalancedLoad:
    """As many requests as the shape says, none of which ends by itself; tokens are from an array.

    Args:
        shape: Of the tree.
        num_steps: How often `step` will be called.
    """

    def __init__(self, shape: LoadShape, num_steps: int) -> None:
        self._shape = shape
        self._max_tokens = num_steps + WARM_STEPS + 2
        self.scheduler = Scheduler(self._config())
        self._num_added = 0
        self._tokens = count(_STOP_TOKEN + 1)
        self._nodes = {
            (level, node): next(self._tokens)
            for level in range(1, shape.depth)
            for node in range(shape.num_nodes(level))
        }
        self._leaves: dict[str, int] = {}
        self._oldest: deque[SampleKey] = deque()
        self._vacant = list(range(shape.running))
        self._drawn = np.random.default_rng(0).integers(
            1 << 30, (1 << 31) - 1, _NUM_DRAWN_TOKENS, dtype=np.int32
        )
        self._fill_cache()
        for _ in range(WARM_STEPS):
            self.step(num_ending=0)

    def step(self, num_ending: int) -> StepSeconds:
        """One step, in which the oldest samples draw a stop token; others will replace them."""
        requests = [self._request(leaf) for leaf in self._vacant]
        started = perf_counter()
        for request in requests:
            self.scheduler.add(request)
        added = perf_counter()
        step = self.scheduler.schedule()
        scheduled = perf_counter()
        assert step is not None
        tokens = self._draw(step, num_ending)
        completing = perf_counter()
        finished = self.scheduler.complete(step, tokens)
        completed = perf_counter()
        self._vacant = [self._leaves.pop(sample.request_id) for sample in finished]
        plan_seconds = self.scheduler.counts().tally.plan_seconds
        host_seconds = scheduled - added + completed - completing
        return StepSeconds(added - started, host_seconds, plan_seconds)

    def _config(self) -> SchedulerConfig:
        shape = self._shape
        tail_pages = shape.running * (-(-self._max_tokens // PAGE_SIZE) + 1)
        num_tokens = shape.num_tokens() + shape.cached_tokens
        return SchedulerConfig(
            num_pages=tail_pages + 2 * shape.num_all_nodes() + -(-num_tokens // PAGE_SIZE),
            page_size=PAGE_SIZE,
            token_budget=1 << 24,
            max_running=shape.running,
            kept_logits=shape.running,
        )

    def _request(self, leaf: int) -> ScheduledRequest:
        """A new one, in the leaf's place: all of its path but the leaf is there already."""
        shape = self._shape
        firsts = [
            self._nodes[level, leaf * shape.num_nodes(level) // shape.running]
            for level in range(1, shape.depth)
        ]
        name = str(self._num_added)
        self._num_added += 1
        self._leaves[name] = leaf
        self._oldest.append(SampleKey(name, 0))
        prompt = np.repeat(np.array([*firsts, next(self._tokens)]), shape.level_tokens)
        return ScheduledRequest(
            request_id=name,
            prompt=prompt.astype(np.int32),
            num_samples=1,
            max_tokens=self._max_tokens,
            stop_token_ids=_STOPS,
        )

    def _draw(self, step: Step, num_ending: int) -> Int32Array:
        start = step.number * 7919 % (len(self._drawn) - len(step.draws))
        tokens = self._drawn[start : start + len(step.draws)]
        if num_ending == 0:
            return tokens
        tokens = tokens.copy()
        indices = {key: index for index, key in enumerate(step.draws.samples)}
        for _ in range(num_ending):
            tokens[indices[self._oldest.popleft()]] = _STOP_TOKEN
        return tokens

    def _fill_cache(self) -> None:
        """Requests of one token leave their prompts behind."""
        num_left, number = self._shape.cached_tokens, 0
        while num_left > 0:
            if number % _CACHED_LEAVES == 0:
                trunk = np.full(_CACHED_TRUNK_TOKENS, next(self._tokens), dtype=np.int32)
                num_left -= _CACHED_TRUNK_TOKENS
            leaf = np.full(_CACHED_LEAF_TOKENS, next(self._tokens), dtype=np.int32)
            num_left -= _CACHED_LEAF_TOKENS
            prompt = np.concatenate([trunk, leaf])
            self.scheduler.add(ScheduledRequest(f"cached {number}", prompt, 1, 1))
            step = self.scheduler.schedule()
            assert step is not None
            self.scheduler.complete(step, [0] * len(step.draws))
            number += 1

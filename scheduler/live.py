"""A request and its samples while they live: what is drawn, what is pinned, what is owed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from treeserve.errors import InvalidRequest
from treeserve.scheduler.finished import FinishedSample, FinishedSamples
from treeserve.scheduler.request import PromptUsage, ScheduledRequest
from treeserve.scheduler.scoring import Scoring
from treeserve.scheduler.step import Int32Array, SampleKey
from treeserve.scheduler.tail import Tail
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.segment import Segment


class LiveSample:
    """One sample that has been started; it holds memory unless it is preempted.

    Its context is the leaf's path and then the tail. While the tail is empty it waits for the
    logits after the leaf; otherwise it has a row in every step, until its last token is drawn.
    """

    __slots__ = (
        "earlier",
        "index",
        "key",
        "leaf",
        "request",
        "row",
        "serial",
        "shift",
        "stop_token_ids",
        "tail",
    )

    def __init__(self, request: "LiveRequest", index: int, serial: int) -> None:
        self.request = request
        self.index = index
        self.key = SampleKey(request.request_id, index)
        self.stop_token_ids = request.request.stop_token_ids
        modules = request.request.modules
        self.shift = 0 if modules is None else modules.shift
        """From a drawn token's place to where the model takes it to stand."""
        self.serial = serial
        """Samples with lower ones were started before."""
        self.earlier: list[int] = []
        """What it drew before its leaf ended."""
        self.leaf: Segment
        """Pinned, unless the sample is preempted."""
        self.tail: Tail
        self.row: int | None = None

    @property
    def drawn(self) -> list[int]:
        """Every token that it drew and that was read, first to last."""
        return self.earlier + self.tail.read_tokens

    def append(self, token_id: int) -> str | None:
        """Draws a token: why the sample ends with it, "stop" or "length", or None."""
        self.tail.tokens.append(token_id)
        return self._why_ended(token_id)

    def read(self, token_id: int) -> str | None:
        """As `append`, for a token that the tail holds unread."""
        self.tail.tokens[-1] = token_id
        return self._why_ended(token_id)

    def _why_ended(self, token_id: int) -> str | None:
        if token_id in self.stop_token_ids:
            return "stop"
        return "length" if self.tail.is_full else None


@dataclass(slots=True, eq=False)
class LiveRequest:
    """Every sample is unstarted, running, preempted or gone; only running ones hold memory."""

    request: ScheduledRequest
    arrived_at: float
    num_known_tokens: int
    """Of the prompt, computed when the request came."""
    prefix: Prefix = field(init=False)
    scoring: Scoring | None = field(init=False)
    """None: nobody asks how likely its prompt is."""
    unstarted: list[int] = field(init=False)
    """Sample indices, last to start first."""
    running: dict[int, LiveSample] = field(default_factory=dict)
    preempted: dict[int, LiveSample] = field(default_factory=dict)
    trunk: Segment | None = None
    """Where the prompt ends, while one of the running samples keeps it pinned."""
    turn: int | None = None
    """Requests with lower ones were admitted before; None while it waits."""
    num_computed_tokens: int = 0
    """Of the prompt, computed by this request."""
    num_recomputed_tokens: int = 0
    num_encoded_tokens: int = 0
    """Of modules, encoded for this request."""
    num_settled_tokens: int = 0
    """Of the prompt, those whose origin is known: what is computed of them is computed again."""

    def __post_init__(self) -> None:
        request = self.request
        self.unstarted = list(reversed(range(request.num_samples)))
        self.prefix = self._prefix(request.prompt)
        is_scored = request.prompt_logprobs is not None
        self.scoring = Scoring(len(request.prompt)) if is_scored else None

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def tenant(self) -> str:
        return self.request.tenant

    @property
    def priority(self) -> int:
        return self.request.priority

    @property
    def deadline(self) -> float | None:
        return self.request.deadline

    @property
    def num_samples(self) -> int:
        return self.request.num_samples

    @property
    def num_output_tokens(self) -> int:
        """That all its samples together may draw."""
        return self.request.num_samples * self.request.max_tokens

    @property
    def prompt_length(self) -> int:
        """Of its own tokens."""
        return len(self.request.prompt)

    @property
    def is_done(self) -> bool:
        return not (self.unstarted or self.running or self.preempted)

    @property
    def is_startable(self) -> bool:
        """Whether a sample of it waits for memory."""
        return bool(self.unstarted or self.preempted)

    def forget_startable(self, sample_index: int | None = None) -> None:
        """Its samples that wait for memory, all or this one, will never start."""
        if sample_index is None:
            self.preempted.clear()
            self.unstarted.clear()
        elif sample_index in self.preempted:
            del self.preempted[sample_index]
        elif sample_index in self.unstarted:
            self.unstarted.remove(sample_index)

    def prefix_after(self, drawn: list[int]) -> Prefix:
        """The prompt and tokens drawn after it."""
        if not drawn:
            return self.prefix
        tokens = np.concatenate([self.request.prompt, np.array(drawn, dtype=np.int32)])
        return self._prefix(tokens)

    def count_computed(self, start: int, end: int) -> None:
        """This request computed the tokens at positions `[start, end)`."""
        first_new = min(max(start, self.num_settled_tokens), self.prompt_length)
        num_new = max(0, min(end, self.prompt_length) - first_new)
        if self.scoring is not None:
            num_new = self.scoring.count_computed(start, end)
        self.num_computed_tokens += num_new
        self.num_recomputed_tokens += end - start - num_new
        self.num_settled_tokens = max(self.num_settled_tokens, min(end, self.prompt_length))

    def settle(self) -> None:
        """A first token was drawn: the whole prompt was there."""
        self.num_settled_tokens = self.prompt_length
        if self.scoring is not None:
            self.scoring.count_computed(0, self.prompt_length)

    def snapshot(self, sample_index: int) -> FinishedSample | None:
        """What a sample that has not ended drew so far; None of one that has."""
        sample = self.running.get(sample_index) or self.preempted.get(sample_index)
        if sample is not None:
            return FinishedSample(self.request, tuple(sample.drawn))
        return FinishedSample(self.request, ()) if sample_index in self.unstarted else None

    def usage(self) -> PromptUsage:
        computed, modules = self.num_computed_tokens, self.request.modules
        num_module_tokens = 0 if modules is None else modules.num_tokens
        cached = min(self.num_known_tokens, self.prompt_length - computed)
        return PromptUsage(
            prompt_tokens=num_module_tokens + self.prompt_length,
            cached_tokens=cached,
            shared_tokens=self.prompt_length - cached - computed,
            computed_tokens=computed,
            recomputed_tokens=self.num_recomputed_tokens,
            module_tokens=num_module_tokens,
            encoded_tokens=self.num_encoded_tokens,
        )

    def _prefix(self, tokens: Int32Array) -> Prefix:
        request = self.request
        return Prefix(tokens, request.namespace, request.num_public_tokens, request.modules)


def find_parent(
    live: Mapping[str, LiveRequest], finished: FinishedSamples, key: SampleKey
) -> FinishedSample:
    """The sample that is to be branched.

    Raises:
        InvalidRequest: There is none of that name.
    """
    parent = live.get(key.request_id)
    alive = None if parent is None else parent.snapshot(key.sample_index)
    found = alive or finished.get(key)
    if found is None:
        name = f"sample {key.sample_index} of {key.request_id!r}"
        raise InvalidRequest("parent", f"{name}: neither alive nor ended last")
    return found

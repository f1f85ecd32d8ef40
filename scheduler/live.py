"""A request and its samples while they live: what is drawn, what is pinned, what is owed."""

from dataclasses import dataclass, field

from treeserve.scheduler.path import Path
from treeserve.scheduler.request import PromptUsage, ScheduledRequest
from treeserve.scheduler.tail import Tail


class LiveSample:
    """One sample that holds a reservation: its tail, and its index among the request's n."""

    __slots__ = ("index", "request", "tail")

    def __init__(self, request: "LiveRequest", index: int, tail: Tail) -> None:
        self.request = request
        self.index = index
        self.tail = tail

    @property
    def has_drawn(self) -> bool:
        return bool(self.tail.tokens)

    def finish_reason(self) -> str | None:
        """After the last drawn token: "stop", "length", or None while it goes on."""
        if self.tail.tokens[-1] in self.request.request.stop_token_ids:
            return "stop"
        if len(self.tail.tokens) >= self.request.request.max_tokens:
            return "length"
        return None


@dataclass(slots=True, eq=False)
class LiveRequest:
    """Waits until it has a path; then every sample is unstarted, running or gone."""

    request: ScheduledRequest
    num_known_tokens: int
    """Of the prompt, computed when the request came."""
    unstarted: list[int] = field(default_factory=list)
    """Sample indices, last to start first."""
    running: dict[int, LiveSample] = field(default_factory=dict)
    path: Path | None = None
    num_computed_tokens: int = 0
    """Of the prompt, computed by this request."""
    has_computed_last: bool = False
    """Whether the prompt's last token is one of them, if only again, for its logits."""

    def __post_init__(self) -> None:
        self.unstarted.extend(reversed(range(self.request.num_samples)))

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt)

    @property
    def is_done(self) -> bool:
        return not self.unstarted and not self.running

    @property
    def live_path(self) -> Path:
        assert self.path is not None, f"{self.request_id} is not admitted"
        return self.path

    def count_computed(self, num_tokens: int, end_position: int) -> None:
        """This request computed prompt tokens, the last of them before `end_position`."""
        self.num_computed_tokens += num_tokens
        self.has_computed_last |= end_position == self.prompt_length

    def count_recomputed(self) -> None:
        """This request computed the prompt's last token for its logits alone."""
        if not self.has_computed_last:
            self.count_computed(1, self.prompt_length)

    def usage(self) -> PromptUsage:
        computed = self.num_computed_tokens
        cached = min(self.num_known_tokens, self.prompt_length - computed)
        return PromptUsage(
            prompt_tokens=self.prompt_length,
            cached_tokens=cached,
            shared_tokens=self.prompt_length - cached - computed,
            computed_tokens=computed,
        )

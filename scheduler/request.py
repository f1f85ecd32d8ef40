"""What the scheduler is asked for and what it reports, in token ids and numbers."""

from dataclasses import dataclass

from treeserve.scheduler.step import Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class ScheduledRequest:
    """One prompt and the samples to draw after it."""

    request_id: str
    prompt: Int32Array
    """[num_tokens], at least one"""
    num_samples: int
    max_tokens: int
    """Of each sample, at least one."""
    stop_token_ids: frozenset[int] = frozenset()
    """A sample ends with reason "stop" when it draws one of these, which it keeps."""
    namespace: str = ""
    """Requests share only within a namespace."""


@dataclass(frozen=True, slots=True)
class PromptUsage:
    """Where a prompt's tokens came from: prompt = cached + shared + computed."""

    prompt_tokens: int
    cached_tokens: int
    """Computed before the request came."""
    shared_tokens: int
    """Computed by another request while this one was in flight."""
    computed_tokens: int
    """Computed by this request."""


@dataclass(frozen=True, slots=True)
class SampleUpdate:
    """One drawn token, folded back."""

    request_id: str
    sample_index: int
    token_id: int
    finish_reason: str | None
    """None while the sample goes on, else "stop" or "length"."""

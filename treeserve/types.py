"""What callers ask for and what they get: parameters, results and usage, free of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

Prompt: TypeAlias = str | Sequence[int]
"""Text, or token ids."""

DEFAULT_MAX_TOKENS = 128
MAX_TREE_DEPTH = 64
"""Levels of branches beneath a trunk, at most."""


class FinishReason(StrEnum):
    """Why a sample ended."""

    STOP = "stop"
    """It drew an end-of-text token, a stop token id, or its text held a stop string."""
    LENGTH = "length"
    """It reached max_tokens, or the model's context length."""
    ABORT = "abort"
    """The caller went away, or the server is shutting down."""
    ERROR = "error"
    """The step that computed it failed."""
    DEADLINE = "deadline"
    """The request's deadline passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How samples are drawn and when they end. Checked by `treeserve.prompt`, not here.

    A sample depends on its seed, its index among the n, and its position alone, not on what else
    the server is doing.
    """

    temperature: float = 1.0
    """0 is greedy; otherwise logits are divided by it."""
    top_k: int = 0
    """Draw from the k likeliest tokens only; 0 is all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together reach this probability; 1 is all."""
    min_p: float = 0.0
    """Leave out tokens less likely than this fraction of the likeliest; 0 is none."""
    seed: int | None = None
    """None: a fresh random one for each request."""
    n: int = 1
    """Samples per prompt."""
    max_tokens: int = DEFAULT_MAX_TOKENS
    """Tokens of each sample, at most."""
    stop: tuple[str, ...] = ()
    """A sample ends before the first of these strings, which is not part of its text."""
    stop_token_ids: tuple[int, ...] = ()
    """A sample ends when it draws one of these, beside the model's own end-of-text tokens."""
    ignore_eos: bool = False
    """Go on past the model's own end-of-text tokens."""
    logprobs: int | None = None
    """None: no log-probabilities. k: of each drawn token, and of the k likeliest beside it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom a request is served; comes from who called, never from what was sent."""

    namespace: str = ""
    """Requests share only within a namespace."""
    tenant: str = ""
    """Whom the work is charged to."""


@dataclass(frozen=True, slots=True)
class RequestSize:
    """What the prompts of one call may come to."""

    tokens_by_path: tuple[tuple[tuple[int, ...], int], ...]
    """Of every prompt, its path in the tree, and its tokens and n × max_tokens together."""
    first_request_id: str = ""
    """The engine's, of the first prompt."""

    @property
    def num_requests(self) -> int:
        return len(self.tokens_by_path)

    @property
    def num_tokens(self) -> int:
        return sum(num_tokens for _, num_tokens in self.tokens_by_path)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of one drawn token, before temperature and truncation."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability) of the likeliest tokens, likeliest first."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one prompt and its samples.

    prompt_tokens = cached_tokens + shared_tokens + computed_tokens.
    """

    prompt_tokens: int
    cached_tokens: int
    """Computed before the request came."""
    shared_tokens: int
    """Computed by another request while this one was in flight."""
    computed_tokens: int
    """Computed by this request."""
    completion_tokens: int
    """Drawn, over all samples."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished completion."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One for each of token_ids, if asked for."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What one prompt gave."""

    samples: tuple[Sample, ...]
    usage: Usage
    path: tuple[int, ...] = ()
    """Of a tree: the index of the branch at each level; () is the trunk itself."""


@dataclass(frozen=True, slots=True)
class PromptTree:
    """Shared text and what grows from it: a node of a tree of prompts.

    The prompt of a node is the texts from the trunk down to it, joined as they are and tokenised
    whole, so that sharing never changes tokenisation.
    """

    text: str
    branches: tuple["PromptTree", ...] = ()
    n: int | None = None
    """Samples drawn after this node's text. None: one for a leaf, none for a node with branches."""
    params: SamplingParams | None = None
    """None: the parent's; for the trunk, the defaults. Its own n is not read: the node's is."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """What sharing saved, over some stretch of work."""

    prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    kv_tokens_read: int = 0
    kv_tokens_read_flat: int = 0
    """What ordinary attention, every sample alone, would have read."""


@dataclass(frozen=True, slots=True)
class StepNumbers:
    """The engine after one step, and the step itself, in plain numbers for metrics.

    A step that failed, or was not needed since all that was left was aborted, has no rows.
    """

    running_samples: int
    waiting_requests: int
    used_pages: int
    """Held by anything, the cache among it."""
    cached_pages: int
    """Of those, the ones that only the tree holds and that can be evicted."""
    total_pages: int
    evicted_tokens: int
    """Since the step before."""
    num_rows: int = 0
    num_prompt_rows: int = 0
    num_drawn: int = 0
    """Tokens that samples drew; what was drawn for one that had ended by then is not among them."""
    work_items: int = 0
    shared_items: int = 0
    folded_segments: int = 0
    kv_tokens_read: int = 0
    kv_tokens_read_flat: int = 0
    plan_seconds: float = 0.0
    schedule_seconds: float = 0.0
    """Deciding the step, the plan among it, and folding its tokens back."""
    hidden_seconds: float = 0.0
    """Of `schedule_seconds`, those in which the device worked on another step."""
    model_seconds: float = 0.0
    """From its launch to its tokens; or, if the step before was read later than that, from then."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one sample of a stream has grown by."""

    path: tuple[int, ...]
    """Of a tree: the index of the branch at each level; () is the trunk itself."""
    sample_index: int
    text: str
    """Complete characters only, and none that a stop string may still take back."""
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One for each of token_ids, if asked for."""
    finish_reason: FinishReason | None = None
    """None while the sample goes on; set on its last delta."""


@dataclass(frozen=True, slots=True)
class Finished:
    """All samples of one prompt of a stream have ended."""

    path: tuple[int, ...]
    usage: Usage

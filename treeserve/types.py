"""What callers ask for and what they get: parameters, results and usage, free of tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from treeserve.step_numbers import StepNumbers as StepNumbers


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    """As the model's own chat template knows it: mostly "system", "user" or "assistant"."""
    content: str
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else the template reads of it: tool_calls, tool_call_id, name."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat that the model's own chat template turns into a prompt for its next turn."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the model may call, as templates that know of them take them."""


Prompt: TypeAlias = str | Sequence[int] | Chat
"""Text, token ids, or a chat."""

GuidanceKind: TypeAlias = Literal["json_schema", "regex", "choice", "grammar"]

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
    """Somebody asked for its end, or the server is shutting down."""
    ERROR = "error"
    """The step that computed it failed."""
    DEADLINE = "deadline"
    """The call's deadline passed."""
    TIME_LIMIT = "time_limit"
    """The time limit of its parameters passed."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """What a sample's text has to be: tokens that cannot lead there are never drawn."""

    kind: GuidanceKind
    source: str | tuple[str, ...]
    """A JSON schema, a regular expression or a Lark grammar as text; of "choice", the choices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How samples are drawn and when they end. Checked by `treeserve.request_checks`, not here.

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
    repetition_penalty: float = 1.0
    """Logits of tokens that the prompt or the sample has are divided by it where they are above 0,
    else multiplied; 1 changes nothing."""
    presence_penalty: float = 0.0
    """Taken off the logits of tokens that the sample has drawn."""
    frequency_penalty: float = 0.0
    """Taken off the logits of tokens once for each time that the sample has drawn them."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens, after the penalties."""
    seed: int | None = None
    """None: a fresh random one for each request."""
    n: int = 1
    """Samples per prompt."""
    max_tokens: int = DEFAULT_MAX_TOKENS
    """Tokens of each sample, at most."""
    stop: tuple[str, ...] = ()
    """A sample ends with the first of these strings."""
    include_stop: bool = False
    """Whether the stop string that ended a sample is part of its text."""
    min_tokens: int = 0
    """Until a sample has so many, no token ends it, and no stop string may begin."""
    time_limit_seconds: float | None = None
    """From the request's arrival; what is not finished by then ends. None: no limit."""
    stop_token_ids: tuple[int, ...] = ()
    """A sample ends when it draws one of these, beside the model's own end-of-text tokens."""
    ignore_eos: bool = False
    """Go on past the model's own end-of-text tokens."""
    logprobs: int | None = None
    """None: no log-probabilities. k: of each drawn token, and of the k likeliest beside it."""
    prompt_logprobs: int | None = None
    """The same of each prompt token but the first, before any is drawn. What is cached of the
    prompt is computed once more for that. A fork without parameters does not inherit it."""
    guidance: Guidance | None = None
    """None: any text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """What a stream tells of a prompt beside text; log-probabilities are a matter of drawing."""

    token_ids: bool = True
    usage: bool = True
    echo: bool = False
    """The prompt itself, first."""
    progress: bool = False
    """How much of the prompt is computed, until the first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """Who asks and how urgent it is; for all prompts of a tree alike."""

    request_id: str | None = None
    """1 to 64 letters, digits, ".", "_" or "-", not in use in the namespace. None: a fresh one."""
    priority: int = 0
    """-100 to 100; higher goes sooner."""
    public_trunk: bool = False
    """Of a tree: whether every namespace may share the tokens of its trunk. Its owner says so."""
    group: str = ""
    """A label of the caller's, at most 64 characters; it is shown and decides nothing."""
    arrived_at: float | None = None
    """When the request came, on the monotonic clock, in seconds. None: now."""
    deadline: float | None = None
    """On the same clock; what is not finished by then ends."""
    namespace: str = ""
    """Prompts share, and ids are known, only within it. From the caller's identity, never from what
    it says."""
    tenant: str = ""
    """Whom the work is charged to."""


@dataclass(frozen=True, slots=True)
class SampleName:
    """Names a sample of any request of the namespace."""

    request_id: str
    path: tuple[int, ...] = ()
    """Of a tree: the index of the branch at each level; () is the trunk itself."""
    sample_index: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of one token, before penalties, temperature and truncation."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability) of the likeliest tokens, likeliest first."""
    rank: int = 0
    """1 + the number of likelier tokens; 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one prompt and its samples.

    prompt_tokens = module_tokens + cached_tokens + shared_tokens + computed_tokens.
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
    recomputed_tokens: int = 0
    """Computed once more, prompt or drawn, since samples had to give up their memory."""
    module_tokens: int = 0
    """Of imported modules: each was encoded alone, so what they are is approximate."""
    encoded_tokens: int = 0
    """Of modules, encoded while this prompt waited for them."""


@dataclass(frozen=True, slots=True)
class SampleTimings:
    """When a sample waited and grew, by the engine's clock, in seconds."""

    queue_seconds: float
    """From the request's arrival until it was admitted."""
    first_token_seconds: float
    """From the request's arrival to the sample's first token; to its end where it drew none."""
    total_seconds: float
    """From the request's arrival to the sample's end."""
    seconds_per_token: float
    """Mean, after the first; 0 where there is none."""


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
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """One for each prompt token but the first, if asked for."""


@dataclass(frozen=True, slots=True)
class PromptTree:
    """Shared text and what grows from it: a node of a tree of prompts.

    The prompt of a node is the texts from the trunk down to it, joined as they are and tokenised
    whole, so that sharing never changes tokenisation. Token ids and messages are joined likewise.
    """

    text: str = ""
    branches: tuple["PromptTree", ...] = ()
    n: int | None = None
    """Samples drawn after this node's text. None: one for a leaf, none for a node with branches."""
    params: SamplingParams | None = None
    """None: the parent's; for the trunk, the defaults. Its own n is not read: the node's is."""
    token_ids: tuple[int, ...] = ()
    """In place of a text, where every node from the trunk down has token ids."""
    messages: tuple[Message, ...] = ()
    """In place of a text, where every node from the trunk down has messages: the chat so far."""
    output: OutputOptions | None = None
    """None: the parent's; for the trunk, the defaults."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of a prompt, or of all prompts of a tree that have samples."""

    num_tokens: int
    """What several prompts begin with is counted once."""
    num_unshared_tokens: int
    """Every sample's prompt counted by itself; sharing saves the difference."""
    num_prompt_tokens: dict[tuple[int, ...], int]
    """Of each prompt, by its path."""
    num_module_tokens: int = 0
    """Of num_tokens, those of imported modules, which are approximate."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """What sharing saved, over some stretch of work."""

    prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    kv_tokens_read: int = 0
    kv_tokens_read_flat: int = 0
    """What ordinary attention, every sample alone, would have read."""


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
    stop_match: str | int | None = None
    """The stop string or the token id that ended the sample, if one did."""
    num_tokens: int = 0
    """That the sample has drawn, these among them."""
    timings: SampleTimings | None = None
    """Set on its last delta."""


@dataclass(frozen=True, slots=True)
class Finished:
    """All samples of one prompt of a stream have ended."""

    path: tuple[int, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Started:
    """A prompt was taken: the first that a stream tells of it."""

    path: tuple[int, ...]
    request_id: str
    seed: int
    """That its samples are drawn with."""
    num_prompt_tokens: int
    output: OutputOptions
    echo: "Echo | None" = None
    """If asked for."""


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as it was read."""

    text: str
    """Without special tokens."""
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a prompt is computed, by whomever."""

    path: tuple[int, ...]
    num_computed_tokens: int
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """How likely the next tokens of a prompt are; its second token is the first that is told of."""

    path: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class TreeFinished:
    """All samples of a tree have ended."""

    usage: Usage
    """Each of its tokens counted once, however many of its prompts begin with it."""


StreamEvent: TypeAlias = Started | Progress | PromptLogprobs | Delta | Finished | TreeFinished
"""What a server's stream tells: Started, Progress, Deltas, Finished for each prompt."""

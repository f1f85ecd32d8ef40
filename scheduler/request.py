"""What the scheduler is asked for and what it reports, in token ids and numbers."""

from dataclasses import dataclass

from treeserve.scheduler.modules import ModuleSet
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
    num_public_tokens: int = 0
    """The prompt's first tokens that every namespace may share, because their owner says so."""
    tenant: str = ""
    """Whom the work is charged to; under load tenants get shares by their weights."""
    priority: int = 0
    """Higher goes sooner."""
    deadline: float | None = None
    """On the scheduler's clock, in seconds; what is not finished by then is ended."""
    prompt_logprobs: int | None = None
    """k: before the first token is drawn it is told how likely each prompt token is, and the k
    likeliest beside it. Rows whose tokens are cached are computed once more for that."""
    modules: ModuleSet | None = None
    """What the prompt imports; `prompt` then holds its own tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class ScheduledFork:
    """A request whose prompt is another sample's prompt and the first tokens that it drew.

    The other sample is alive, or ended not long ago.
    """

    request_id: str
    parent_request_id: str
    parent_sample_index: int
    num_tokens: int
    """Tokens that the parent drew before the branch; 0 branches at the end of its prompt."""
    num_samples: int
    max_tokens: int
    """Of each branch, after the branching point."""
    stop_token_ids: frozenset[int] = frozenset()
    priority: int = 0
    deadline: float | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class PromptUsage:
    """Where a prompt's tokens came from: prompt = module + cached + shared + computed.

    The last three are exact: a token's KV is that of all before it. A module's is not.
    """

    prompt_tokens: int
    cached_tokens: int
    """Computed before the request came."""
    shared_tokens: int
    """Computed by another request while this one was in flight."""
    computed_tokens: int
    """Computed by this request."""
    recomputed_tokens: int = 0
    """Computed once more, prompt or drawn, since samples had to give up their memory."""
    module_tokens: int = 0
    """Of imported modules, whoever encoded them."""
    encoded_tokens: int = 0
    """Of modules, encoded while this request waited for them; those of `module_tokens` among it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A sample drew its last token."""

    request_id: str
    sample_index: int
    draw_index: int
    """Of that token, among the step's draws."""
    reason: str
    """ "stop" or "length"."""

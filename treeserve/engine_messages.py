"""What the engine is asked for and what it tells, in token ids."""

from dataclasses import dataclass

import numpy as np

from treeserve.errors import InvalidRequest
from treeserve.logit_rules import RuleSet
from treeserve.scheduler.modules import ModuleSet, check_module_set
from treeserve.scheduler.request import PromptUsage, ScheduledFork, ScheduledRequest
from treeserve.types import FinishReason, SamplingParams, TokenLogprob


@dataclass(frozen=True, slots=True)
class Branch:
    """A token of another sample."""

    request_id: str
    sample_index: int
    num_tokens: int
    """That the other sample drew before the branch."""


@dataclass(frozen=True, slots=True, eq=False)
class EngineRequest:
    """One prompt in token ids. `params.seed` is set; stop strings are not the engine's business."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    end_token_ids: frozenset[int] = frozenset()
    """The model's own end-of-text tokens and the caller's stop token ids."""
    namespace: str = ""
    num_public_tokens: int = 0
    """The prompt's first tokens that every namespace may share."""
    tenant: str = ""
    """Whom the work is charged to."""
    priority: int = 0
    """Higher goes sooner."""
    deadline: float | None = None
    """On the monotonic clock, in seconds; what is not finished by then is ended."""
    rules: RuleSet | None = None
    """What changes the logits of its samples."""
    reports_progress: bool = False
    """Whether to tell how much of the prompt is computed."""
    modules: ModuleSet | None = None
    """What the prompt imports; `prompt_token_ids` are then its own tokens."""
    branch: Branch | None = None
    """Where the prompt ends, if that is another sample's token: while that sample runs, its memory
    is shared up to there."""


@dataclass(frozen=True, slots=True, eq=False)
class EngineFork:
    """Samples that go on from a token of another sample. `params.seed` is set."""

    request_id: str
    parent_request_id: str
    parent_sample_index: int
    num_tokens: int
    """Tokens that the parent drew before the branch."""
    params: SamplingParams
    end_token_ids: frozenset[int] = frozenset()
    priority: int = 0
    deadline: float | None = None
    rules: RuleSet | None = None
    reports_progress: bool = False


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One sample drew one token."""

    request_id: str
    sample_index: int
    token_id: int
    logprob: TokenLogprob | None
    finish_reason: FinishReason | None
    at: float = 0.0
    """On the monotonic clock, in seconds."""
    admitted_at: float | None = None
    """When its request waited no longer, on the same clock; None if it still does."""


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """More of a prompt is computed, by whomever."""

    request_id: str
    num_computed_tokens: int


@dataclass(frozen=True, slots=True)
class PromptScored:
    """How likely the next tokens of a prompt are, from its second one on; before the first draw."""

    request_id: str
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """The last event of a request, after all its samples ended."""

    request_id: str
    usage: PromptUsage
    reason: FinishReason = FinishReason.ABORT
    """Why samples that had not finished were ended."""
    error: str | None = None
    """What went wrong, if something did."""
    at: float = 0.0
    """On the monotonic clock, in seconds."""
    admitted_at: float | None = None
    """When its request waited no longer, on the same clock; None if it still does."""


EngineEvent = TokenEvent | PromptProgress | PromptScored | RequestEnded


def as_fork(request: EngineRequest, branch: Branch) -> EngineFork:
    """The same request in terms of the sample that it branches."""
    return EngineFork(
        request_id=request.request_id,
        parent_request_id=branch.request_id,
        parent_sample_index=branch.sample_index,
        num_tokens=branch.num_tokens,
        params=request.params,
        end_token_ids=request.end_token_ids,
        priority=request.priority,
        deadline=request.deadline,
        rules=request.rules,
        reports_progress=request.reports_progress,
    )


def as_scheduled(request: EngineRequest) -> ScheduledRequest:
    """The request in terms of the scheduler."""
    params = request.params
    return ScheduledRequest(
        request_id=request.request_id,
        prompt=np.array(request.prompt_token_ids, dtype=np.int32),
        num_samples=params.n,
        max_tokens=params.max_tokens,
        stop_token_ids=request.end_token_ids,
        namespace=request.namespace,
        num_public_tokens=request.num_public_tokens,
        tenant=request.tenant,
        priority=request.priority,
        deadline=request.deadline,
        prompt_logprobs=params.prompt_logprobs,
        modules=request.modules,
    )


def as_scheduled_fork(fork: EngineFork) -> ScheduledFork:
    """The branch in terms of the scheduler."""
    params = fork.params
    return ScheduledFork(
        request_id=fork.request_id,
        parent_request_id=fork.parent_request_id,
        parent_sample_index=fork.parent_sample_index,
        num_tokens=fork.num_tokens,
        num_samples=params.n,
        max_tokens=params.max_tokens,
        stop_token_ids=fork.end_token_ids,
        priority=fork.priority,
        deadline=fork.deadline,
        prompt_logprobs=params.prompt_logprobs,
    )


def check_request(request: EngineRequest, vocabulary_size: int, max_positions: int) -> None:
    """Raise InvalidRequest if the model can never serve the request."""
    prompt = request.prompt_token_ids
    if not prompt:
        raise InvalidRequest("prompt", "must not be empty")
    for index, token_id in enumerate(prompt):
        if not 0 <= token_id < vocabulary_size:
            raise InvalidRequest(
                f"prompt[{index}]",
                f"token id {token_id} is outside the vocabulary of {vocabulary_size}",
            )
    if request.modules is None:
        check_length(len(prompt), max_positions)
    else:
        _check_modules(request.modules, len(prompt), vocabulary_size, max_positions)


def check_length(num_tokens: int, max_positions: int) -> None:
    """Raise InvalidRequest for a prompt that leaves no room for a token."""
    if num_tokens >= max_positions:
        raise InvalidRequest(
            "prompt",
            f"has {num_tokens} tokens; the model takes at most {max_positions - 1} and one more",
        )


def all_tokens(
    modules: ModuleSet | None, own_token_ids: tuple[int, ...]
) -> tuple[tuple[int, ...], int]:
    """A prompt's tokens, those of modules first, and the position that the next one will have."""
    if modules is None:
        return own_token_ids, len(own_token_ids)
    imported = [token for module in modules.modules for token in module.token_ids.tolist()]
    return (*imported, *own_token_ids), modules.shift + len(own_token_ids)


def _check_modules(
    modules: ModuleSet, num_own_tokens: int, vocabulary_size: int, max_positions: int
) -> None:
    check_module_set(modules, num_own_tokens)
    for index, module in enumerate(modules.modules):
        outside = (module.token_ids < 0) | (module.token_ids >= vocabulary_size)
        if outside.any():
            raise InvalidRequest(
                f"modules[{index}].token_ids[{int(outside.argmax())}]",
                f"is outside the vocabulary of {vocabulary_size}",
            )
    last = max(modules.max_position, modules.shift + num_own_tokens)
    if last >= max_positions:
        raise InvalidRequest(
            "modules",
            f"reach position {last} with the prompt's own tokens and one more; the model's last "
            f"position is {max_positions - 1}",
        )

"""Checks what callers ask for and turns it into token ids; turns drawn tokens back into text."""

import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from treeserve.config import RequestLimits
from treeserve.engine import EngineRequest, RequestEnded, TokenEvent, check_request
from treeserve.errors import InvalidRequest
from treeserve.scheduler.request import PromptUsage
from treeserve.tokenizer import TextDecoder, Tokenizer
from treeserve.types import (
    DEFAULT_MAX_TOKENS,
    Delta,
    Finished,
    FinishReason,
    Prompt,
    PromptTree,
    SamplingParams,
    TokenLogprob,
    Usage,
)

MAX_LOGPROBS = 20
MAX_STOP_LENGTH = 256
MAX_STOP_TOKEN_IDS = 256
MAX_SEED = (1 << 64) - 1
_NO_LIMITS = RequestLimits()


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPrompt:
    """A checked prompt in token ids, and where in a tree it belongs."""

    path: tuple[int, ...]
    request: EngineRequest


class Prompter:
    """Knows the model's limits and its tokenizer; keeps nothing from one prompt to the next.

    Args:
        tokenizer: The model's.
        vocabulary_size: Token ids are below this.
        max_positions: Prompt and completion together have at most this many tokens.
        end_token_ids: The model's own end-of-text tokens.
        limits: How much one prompt or tree may ask for.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocabulary_size: int,
        max_positions: int,
        end_token_ids: frozenset[int],
        limits: RequestLimits = _NO_LIMITS,
    ) -> None:
        self.limits = limits
        self.tokenizer = tokenizer
        self.vocabulary_size = vocabulary_size
        self.max_positions = max_positions
        self.end_token_ids = end_token_ids

    def encode(
        self, prompt: Prompt, params: SamplingParams | None = None, path: tuple[int, ...] = ()
    ) -> EncodedPrompt:
        """Check and tokenise one prompt.

        Raises:
            InvalidRequest: Names the field and the limit.
        """
        params = params or SamplingParams()
        self.check_params(params)
        token_ids = self._token_ids(prompt)
        request = EngineRequest(
            request_id=uuid4().hex,
            prompt_token_ids=token_ids,
            params=self._resolved(params, len(token_ids)),
            end_token_ids=self._end_token_ids(params),
        )
        check_request(request, self.vocabulary_size, self.max_positions)
        most = self.limits.max_prompt_tokens
        if most is not None and len(token_ids) > most:
            raise InvalidRequest(
                "prompt", f"has {len(token_ids)} tokens; this server takes at most {most}"
            )
        encoded = EncodedPrompt(path, request)
        self._check_drawn("max_tokens", [encoded])
        return encoded

    def encode_tree(self, tree: PromptTree) -> list[EncodedPrompt]:
        """Check and tokenise every prompt of a tree that has samples, depth first.

        Raises:
            InvalidRequest: Names the node, the field and the limit.
        """
        nodes = list(_walk(tree, self.limits))
        encoded = [self._encode_node(node) for node in nodes if node.num_samples > 0]
        if not encoded:
            raise InvalidRequest("tree", "no node asks for a sample; give at least one node n >= 1")
        self._check_drawn("tree", encoded)
        return encoded

    def check_params(self, params: SamplingParams) -> None:
        """Raise InvalidRequest for the first parameter that is out of range.

        The default of max_tokens is in range for every model: it is cut to what there is room for.
        """
        _check_float("temperature", params.temperature, 0.0, 100.0)
        _check_int("top_k", params.top_k, 0, self.vocabulary_size)
        _check_float("top_p", params.top_p, 0.0, 1.0)
        if params.top_p == 0:
            raise InvalidRequest("top_p", "must be above 0 and at most 1, got 0")
        _check_float("min_p", params.min_p, 0.0, 1.0)
        if params.seed is not None:
            _check_int("seed", params.seed, 0, MAX_SEED)
        _check_int("n", params.n, 1, self.limits.max_n)
        most = max(self.max_positions, DEFAULT_MAX_TOKENS)
        _check_int("max_tokens", params.max_tokens, 1, most)
        if params.logprobs is not None:
            _check_int("logprobs", params.logprobs, 0, min(MAX_LOGPROBS, self.vocabulary_size))
        _check_stop(params.stop, self.limits.max_stop_strings)
        if len(params.stop_token_ids) > MAX_STOP_TOKEN_IDS:
            raise InvalidRequest(
                "stop_token_ids", f"at most {MAX_STOP_TOKEN_IDS}, got {len(params.stop_token_ids)}"
            )
        for index, token_id in enumerate(params.stop_token_ids):
            _check_int(f"stop_token_ids[{index}]", token_id, 0, self.vocabulary_size - 1)

    def _check_drawn(self, field: str, prompts: Sequence[EncodedPrompt]) -> None:
        most = self.limits.max_drawn_tokens
        params = [encoded.request.params for encoded in prompts]
        asked = sum(entry.n * entry.max_tokens for entry in params)
        if most is not None and asked > most:
            raise InvalidRequest(
                field, f"asks for {asked} tokens, n × max_tokens; this server draws at most {most}"
            )

    def _encode_node(self, node: "_TreeNode") -> EncodedPrompt:
        params = replace(node.params, n=node.num_samples)
        try:
            return self.encode(node.text, params, node.path)
        except InvalidRequest as error:
            name = _node_name(node.path)
            raise InvalidRequest(f"{name}.{error.field}", error.description) from None

    def _token_ids(self, prompt: Prompt) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            for index, token_id in enumerate(prompt):
                _check_int(f"prompt[{index}]", token_id, 0, self.vocabulary_size - 1)
            return tuple(prompt)
        if not prompt:
            raise InvalidRequest("prompt", "must not be empty")
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                "prompt", f"is not valid Unicode text: character {error.start} is half a character"
            ) from None
        return tuple(self.tokenizer.encode(prompt))

    def _resolved(self, params: SamplingParams, prompt_length: int) -> SamplingParams:
        """With a seed, and max_tokens no larger than what the model has room for."""
        room = max(1, self.max_positions - prompt_length)
        seed = secrets.randbits(63) if params.seed is None else params.seed
        return replace(params, seed=seed, max_tokens=min(params.max_tokens, room))

    def _end_token_ids(self, params: SamplingParams) -> frozenset[int]:
        own = frozenset() if params.ignore_eos else self.end_token_ids
        return own | frozenset(params.stop_token_ids)


class TextStream:
    """Turns one request's engine events into deltas of text.

    Args:
        encoded: The request.
        tokenizer: The model's.
    """

    def __init__(self, encoded: EncodedPrompt, tokenizer: Tokenizer) -> None:
        self._path = encoded.path
        self.request_id = encoded.request.request_id
        params = encoded.request.params
        hidden = encoded.request.end_token_ids
        self._samples = [_SampleText(tokenizer, params, hidden) for _ in range(params.n)]
        self._completion_tokens = 0

    def push(self, event: TokenEvent) -> Delta | None:
        """Fold one token in; None where nothing can be released yet.

        When the delta's finish_reason is set and the event's was not, a stop string ended the
        sample, and the engine is still to be told (abort of that sample).
        """
        sample = self._samples[event.sample_index]
        if sample.ended:
            return None
        self._completion_tokens += 1
        return sample.push(event, self._path)

    def finish(self, event: RequestEnded) -> list[Delta | Finished]:
        """The request's last items: of samples that an error or abort cut short, and its usage."""
        return [*self._close(event.reason), Finished(self._path, self._usage(event.usage))]

    def _close(self, reason: FinishReason) -> list[Delta]:
        return [
            sample.close(index, self._path, reason)
            for index, sample in enumerate(self._samples)
            if not sample.ended
        ]

    def _usage(self, usage: PromptUsage) -> Usage:
        return Usage(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            shared_tokens=usage.shared_tokens,
            computed_tokens=usage.computed_tokens,
            completion_tokens=self._completion_tokens,
        )


class _SampleText:
    """One sample's text: held back while a character is incomplete or a stop string may begin."""

    def __init__(
        self, tokenizer: Tokenizer, params: SamplingParams, end_token_ids: frozenset[int]
    ) -> None:
        self._decoder = TextDecoder(tokenizer)
        self._stop = params.stop
        self._end_token_ids = end_token_ids
        self._wants_logprobs = params.logprobs is not None
        self._held = ""
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self.ended = False

    def push(self, event: TokenEvent, path: tuple[int, ...]) -> Delta | None:
        self._token_ids.append(event.token_id)
        if event.logprob is not None:
            self._logprobs.append(event.logprob)
        if event.token_id not in self._end_token_ids:
            self._held += self._decoder.push(event.token_id)
        if event.finish_reason is not None:
            self._held += self._decoder.flush()
        found = _first_stop(self._held, self._stop)
        if found is not None:
            self._held = self._held[:found]
            return self._delta(event.sample_index, path, FinishReason.STOP)
        if event.finish_reason is not None:
            return self._delta(event.sample_index, path, event.finish_reason)
        return self._partial(event.sample_index, path)

    def close(self, index: int, path: tuple[int, ...], reason: FinishReason) -> Delta:
        self._held += self._decoder.flush()
        return self._delta(index, path, reason)

    def _partial(self, index: int, path: tuple[int, ...]) -> Delta | None:
        length = len(self._held) - _stop_overlap(self._held, self._stop)
        if length == 0:
            return None
        rest, self._held = self._held[length:], self._held[:length]
        delta = self._delta(index, path, None)
        self._held = rest
        return delta

    def _delta(self, index: int, path: tuple[int, ...], reason: FinishReason | None) -> Delta:
        delta = Delta(
            path=path,
            sample_index=index,
            text=self._held,
            token_ids=tuple(self._token_ids),
            logprobs=tuple(self._logprobs) if self._wants_logprobs else None,
            finish_reason=reason,
        )
        self._held = ""
        self._token_ids.clear()
        self._logprobs.clear()
        self.ended = reason is not None
        return delta


@dataclass(frozen=True, slots=True)
class _TreeNode:
    path: tuple[int, ...]
    text: str
    params: SamplingParams
    num_samples: int


def _walk(tree: PromptTree, limits: RequestLimits) -> Iterator[_TreeNode]:
    """Nodes depth first, each with its whole text and the parameters it inherits."""
    stack: list[tuple[PromptTree, tuple[int, ...], str, SamplingParams]]
    stack = [(tree, (), "", SamplingParams())]
    num_nodes = 0
    while stack:
        node, path, prefix, inherited = stack.pop()
        num_nodes += 1
        if num_nodes > limits.max_tree_nodes:
            raise InvalidRequest("tree", f"has more than {limits.max_tree_nodes} nodes")
        if len(path) > limits.max_tree_depth:
            raise InvalidRequest("tree", f"is deeper than {limits.max_tree_depth} levels")
        params = node.params or inherited
        text = prefix + node.text
        yield _TreeNode(path, text, params, _num_samples(node, path, limits.max_n))
        children = enumerate(node.branches)
        stack.extend(reversed([(child, (*path, i), text, params) for i, child in children]))


def _num_samples(node: PromptTree, path: tuple[int, ...], most: int) -> int:
    if node.n is None:
        return 0 if node.branches else 1
    _check_int(f"{_node_name(path)}.n", node.n, 0, most)
    return node.n


def _node_name(path: tuple[int, ...]) -> str:
    return "tree" + "".join(f".branches[{index}]" for index in path)


def _check_float(field: str, value: float, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise InvalidRequest(field, f"must be a number, got {value!r}")
    if not least <= value <= most:
        raise InvalidRequest(field, f"must be between {least:g} and {most:g}, got {value:g}")


def _check_int(field: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(field, f"must be a whole number, got {value!r}")
    if not least <= value <= most:
        raise InvalidRequest(field, f"must be between {least} and {most}, got {value}")


def _check_stop(stop: Sequence[str], most: int) -> None:
    if isinstance(stop, str):
        raise InvalidRequest("stop", "must be a list of strings, not one string")
    if len(stop) > most:
        raise InvalidRequest("stop", f"at most {most} strings, got {len(stop)}")
    for index, text in enumerate(stop):
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_STOP_LENGTH:
            raise InvalidRequest(
                f"stop[{index}]", f"must be a string of 1 to {MAX_STOP_LENGTH} characters"
            )


def _first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the earliest stop string begins, if one is there."""
    found = [index for index in (text.find(string) for string in stop) if index >= 0]
    return min(found, default=None)


def _stop_overlap(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of the text that a stop string begins with."""
    longest = min(len(text), max((len(string) - 1 for string in stop), default=0))
    for length in range(longest, 0, -1):
        if any(string.startswith(text[-length:]) for string in stop):
            return length
    return 0

"""Checks what callers ask for: ranges and limits, with errors that name the field."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from treeserve.config import RequestLimits
from treeserve.errors import InvalidRequest
from treeserve.types import (
    DEFAULT_MAX_TOKENS,
    Chat,
    Guidance,
    OutputOptions,
    RequestOptions,
    SamplingParams,
)

MAX_LOGPROBS = 20
MAX_STOP_LENGTH = 256
MAX_STOP_TOKEN_IDS = 256
MAX_SEED = (1 << 64) - 1
MAX_PENALTY = 2.0
MAX_LOGIT_BIASES = 1024
MAX_LOGIT_BIAS = 100.0
MAX_TIME_LIMIT_SECONDS = 86_400.0
MAX_GUIDANCE_LENGTH = 65_536
MAX_CHOICES = 1024
MAX_PRIORITY = 100
MAX_GROUP_LENGTH = 64
MAX_MESSAGES = 4096
_GUIDANCE_KINDS = ("json_schema", "regex", "choice", "grammar")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What a model's requests are measured against."""

    vocabulary_size: int
    """Token ids are below this."""
    max_positions: int
    """Prompt and completion together have at most this many tokens."""


def check_params(params: SamplingParams, model: ModelLimits, host: RequestLimits) -> None:
    """Raise InvalidRequest for the first parameter that is out of range.

    The default of max_tokens is in range for every model: it is cut to what there is room for.

    Args:
        params: To be checked.
        model: What the model takes.
        host: What whoever runs the server allows.
    """
    check_int("n", params.n, 1, host.max_n)
    _check_sampling(params, model.vocabulary_size)
    _check_penalties(params, model.vocabulary_size)
    _check_stopping(params, model, host.max_stop_strings)
    for name in ("logprobs", "prompt_logprobs"):
        num_top = getattr(params, name)
        if num_top is not None:
            check_int(name, num_top, 0, min(MAX_LOGPROBS, model.vocabulary_size))
    if params.guidance is not None:
        _check_guidance(params.guidance)
        if params.ignore_eos:
            raise InvalidRequest(
                "ignore_eos", "must be false with guidance: a guided text ends when it is complete"
            )


def check_prompt_length(num_tokens: int, host: RequestLimits) -> None:
    """Raise InvalidRequest for a prompt that is longer than the host allows."""
    most = host.max_prompt_tokens
    if most is not None and num_tokens > most:
        raise InvalidRequest("prompt", f"has {num_tokens} tokens; this server takes at most {most}")


def check_drawn(field: str, num_tokens: int, host: RequestLimits) -> None:
    """Raise InvalidRequest for more than the host lets one call draw."""
    most = host.max_drawn_tokens
    if most is not None and num_tokens > most:
        raise InvalidRequest(
            field, f"asks for {num_tokens} tokens, n × max_tokens; this server draws at most {most}"
        )


def check_options(options: RequestOptions) -> None:
    """Raise InvalidRequest for the first option that is out of range."""
    if options.request_id is not None and not _REQUEST_ID.fullmatch(options.request_id):
        raise InvalidRequest(
            "options.request_id", 'must be 1 to 64 of letters, digits, ".", "_" and "-"'
        )
    check_int("options.priority", options.priority, -MAX_PRIORITY, MAX_PRIORITY)
    if len(options.group) > MAX_GROUP_LENGTH:
        raise InvalidRequest("options.group", f"must have at most {MAX_GROUP_LENGTH} characters")


def check_output(output: OutputOptions) -> None:
    """Raise InvalidRequest for the first option that is not true or false."""
    for name in ("token_ids", "usage", "echo", "progress"):
        _check_bool(name, getattr(output, name))


def check_token_ids(field: str, token_ids: Iterable[int], vocabulary_size: int) -> None:
    """Raise InvalidRequest for the first that is not in the vocabulary."""
    for index, token_id in enumerate(token_ids):
        check_int(f"{field}[{index}]", token_id, 0, vocabulary_size - 1)


def check_text(field: str, text: str) -> None:
    """Raise InvalidRequest unless it is Unicode text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            field, f"is not valid Unicode text: character {error.start} is half a character"
        ) from None


def check_chat(chat: Chat, special_tokens: Sequence[str]) -> None:
    """Raise InvalidRequest for the first message that no template can take.

    Special tokens in a message would begin another turn, in another role.
    """
    if not 1 <= len(chat.messages) <= MAX_MESSAGES:
        raise InvalidRequest("messages", f"must be 1 to {MAX_MESSAGES}, got {len(chat.messages)}")
    for index, message in enumerate(chat.messages):
        if not message.role:
            raise InvalidRequest(f"messages[{index}].role", "must not be empty")
        for name in ("role", "content"):
            _check_said(f"messages[{index}].{name}", getattr(message, name), special_tokens)
        for name, value in message.more.items():
            _check_all_said(f"messages[{index}].{name}", value, special_tokens)
    for index, tool in enumerate(chat.tools):
        _check_all_said(f"tools[{index}]", tool, special_tokens)


def _check_said(field: str, text: str, special_tokens: Sequence[str]) -> None:
    check_text(field, text)
    special = next((token for token in special_tokens if token in text), None)
    if special is not None:
        raise InvalidRequest(field, f"must not contain the special token {special!r}")


def _check_all_said(field: str, value: Any, special_tokens: Sequence[str]) -> None:
    """Every text in JSON, however deep: a template may show any of it."""
    left = [value]
    while left:
        match left.pop():
            case str(text):
                _check_said(field, text, special_tokens)
            case Mapping() as record:
                left += [*record.keys(), *record.values()]
            case list(entries) | tuple(entries):
                left += entries


def check_float(field: str, value: float, least: float, most: float) -> None:
    """Raise InvalidRequest unless it is a number of the range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise InvalidRequest(field, f"must be a number, got {value!r}")
    if not least <= value <= most:
        raise InvalidRequest(field, f"must be between {least:g} and {most:g}, got {value:g}")


def check_int(field: str, value: int, least: int, most: int) -> None:
    """Raise InvalidRequest unless it is a whole number of the range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(field, f"must be a whole number, got {value!r}")
    if not least <= value <= most:
        raise InvalidRequest(field, f"must be between {least} and {most}, got {value}")


def _check_sampling(params: SamplingParams, vocabulary_size: int) -> None:
    check_float("temperature", params.temperature, 0.0, 100.0)
    check_int("top_k", params.top_k, 0, vocabulary_size)
    check_float("top_p", params.top_p, 0.0, 1.0)
    if params.top_p == 0:
        raise InvalidRequest("top_p", "must be above 0 and at most 1, got 0")
    check_float("min_p", params.min_p, 0.0, 1.0)
    if params.seed is not None:
        check_int("seed", params.seed, 0, MAX_SEED)


def _check_penalties(params: SamplingParams, vocabulary_size: int) -> None:
    check_float("repetition_penalty", params.repetition_penalty, 0.01, 100.0)
    check_float("presence_penalty", params.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
    check_float("frequency_penalty", params.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
    if not isinstance(params.logit_bias, Mapping):
        raise InvalidRequest("logit_bias", "must be a mapping from token ids to numbers")
    if len(params.logit_bias) > MAX_LOGIT_BIASES:
        raise InvalidRequest(
            "logit_bias", f"at most {MAX_LOGIT_BIASES} tokens, got {len(params.logit_bias)}"
        )
    for token_id, bias in params.logit_bias.items():
        check_int("logit_bias", token_id, 0, vocabulary_size - 1)
        check_float(f"logit_bias[{token_id}]", bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)


def _check_stopping(params: SamplingParams, model: ModelLimits, max_strings: int) -> None:
    most = max(model.max_positions, DEFAULT_MAX_TOKENS)
    check_int("max_tokens", params.max_tokens, 1, most)
    check_int("min_tokens", params.min_tokens, 0, params.max_tokens)
    _check_stop(params.stop, max_strings)
    _check_bool("include_stop", params.include_stop)
    _check_bool("ignore_eos", params.ignore_eos)
    if len(params.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(
            "stop_token_ids", f"at most {MAX_STOP_TOKEN_IDS}, got {len(params.stop_token_ids)}"
        )
    check_token_ids("stop_token_ids", params.stop_token_ids, model.vocabulary_size)
    if params.time_limit_seconds is not None:
        check_float("time_limit_seconds", params.time_limit_seconds, 0.0, MAX_TIME_LIMIT_SECONDS)
        if params.time_limit_seconds == 0:
            raise InvalidRequest("time_limit_seconds", "must be above 0, got 0")


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


def _check_guidance(guidance: Guidance) -> None:
    if guidance.kind not in _GUIDANCE_KINDS:
        kinds = ", ".join(_GUIDANCE_KINDS)
        raise InvalidRequest("guidance.kind", f"must be one of {kinds}, got {guidance.kind!r}")
    field = f"guidance.{guidance.kind}"
    if guidance.kind == "choice":
        _check_choices(field, guidance.source)
        return
    if not isinstance(guidance.source, str) or not guidance.source:
        raise InvalidRequest(field, "must be text, and not empty")
    check_text(field, guidance.source)
    if len(guidance.source) > MAX_GUIDANCE_LENGTH:
        raise InvalidRequest(field, f"must have at most {MAX_GUIDANCE_LENGTH} characters")


def _check_choices(field: str, choices: str | tuple[str, ...]) -> None:
    if isinstance(choices, str) or not 1 <= len(choices) <= MAX_CHOICES:
        raise InvalidRequest(field, f"must be a list of 1 to {MAX_CHOICES} strings")
    for index, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice:
            raise InvalidRequest(f"{field}[{index}]", "must be text, and not empty")
        check_text(f"{field}[{index}]", choice)
    if sum(map(len, choices)) > MAX_GUIDANCE_LENGTH:
        raise InvalidRequest(field, f"must have at most {MAX_GUIDANCE_LENGTH} characters in all")


def _check_bool(field: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(field, f"must be true or false, got {value!r}")

"""Turns what a request says of drawing into sampling parameters, and names fields as it did."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from treeserve.errors import InvalidRequest
from treeserve.server.openai.schemas import Drawing, ResponseFormat
from treeserve.types import Guidance, SamplingParams

_SAME = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "min_tokens",
    "ignore_eos",
    "time_limit_seconds",
)
_ANY_OBJECT = json.dumps({"type": "object"})


@dataclass(frozen=True, slots=True)
class Guided:
    """What a text has to be, and the field that says so; None and empty: anything."""

    guidance: Guidance | None = None
    field: str = ""


NOT_GUIDED = Guided()


def read_params(
    body: Drawing, *, n: int | None, max_tokens: int, logprobs: int | None, guided: Guided
) -> SamplingParams:
    """Sampling parameters; ranges are checked later.

    Args:
        body: What is asked for.
        n: None: one sample.
        max_tokens: Where the body does not say.
        logprobs: None: none.
        guided: As read_guided() found it, or something else.

    Raises:
        InvalidRequest: Names the field as the body does.
    """
    given = {name: value for name in _SAME if (value := getattr(body, name)) is not None}
    return SamplingParams(
        **given,
        n=1 if n is None else n,
        max_tokens=max_tokens if body.max_tokens is None else body.max_tokens,
        top_k=0 if body.top_k in (None, -1) else body.top_k or 0,
        stop=_read_stop(body.stop),
        include_stop=bool(body.include_stop_str_in_output),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logit_bias=_read_logit_bias(body.logit_bias or {}),
        logprobs=logprobs,
        guidance=guided.guidance,
    )


def read_guided(body: Drawing) -> Guided:
    """The one way in which a body says what its text has to be.

    Raises:
        InvalidRequest: There are two.
    """
    found = list(_guides(body))
    if len(found) > 1:
        raise InvalidRequest(found[1].field, f"must not be given together with {found[0].field}")
    return found[0] if found else NOT_GUIDED


def schema_guide(schema: dict[str, Any], field: str) -> Guided:
    """A text that is a value of a schema."""
    try:
        return Guided(Guidance("json_schema", json.dumps(schema, allow_nan=False)), field)
    except ValueError:
        raise InvalidRequest(field, "must be JSON, without NaN or infinity") from None


def read_format(asked: ResponseFormat, field: str = "response_format") -> Guided:
    """What a response format asks for."""
    if asked.type == "text":
        return NOT_GUIDED
    if asked.type == "json_object":
        return Guided(Guidance("json_schema", _ANY_OBJECT), field)
    if asked.json_schema is None:
        raise InvalidRequest(f"{field}.json_schema", "must be given where the type is json_schema")
    return schema_guide(asked.json_schema.schema_, field)


def _guides(body: Drawing) -> Iterator[Guided]:
    if body.response_format is not None and body.response_format.type != "text":
        yield read_format(body.response_format)
    outputs = body.structured_outputs
    if outputs is not None:
        name = "structured_outputs"
        yield from _kinds(f"{name}.", outputs.json_, outputs.regex, outputs.choice, outputs.grammar)
        if outputs.json_object:
            yield Guided(Guidance("json_schema", _ANY_OBJECT), f"{name}.json_object")
    yield from _kinds(
        "guided_", body.guided_json, body.guided_regex, body.guided_choice, body.guided_grammar
    )


def _kinds(
    prefix: str,
    schema: str | None,
    regex: str | None,
    choice: list[str] | None,
    grammar: str | None,
) -> Iterator[Guided]:
    if schema is not None:
        yield Guided(Guidance("json_schema", schema), f"{prefix}json")
    if regex is not None:
        yield Guided(Guidance("regex", regex), f"{prefix}regex")
    if choice is not None:
        yield Guided(Guidance("choice", tuple(choice)), f"{prefix}choice")
    if grammar is not None:
        yield Guided(Guidance("grammar", grammar), f"{prefix}grammar")


def _read_stop(stop: Any) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _read_logit_bias(biases: dict[str, float]) -> dict[int, float]:
    read = {}
    for key, bias in biases.items():
        if not (key.isascii() and key.isdigit() and len(key) < 20):
            raise InvalidRequest("logit_bias", f"must be by token ids, got {key[:40]!r}")
        read[int(key)] = bias
    return read

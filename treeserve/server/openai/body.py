"""What all request bodies have in common, and fields that may have more than one type."""

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema

from treeserve.errors import InvalidRequest

BodyT = TypeVar("BodyT", bound="Body")

_TEXT = {"type": "string"}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}


class Body(BaseModel):
    """A JSON object; what it does not know is refused, not passed over."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


def read_body(schema: type[BodyT], data: bytes) -> BodyT:
    """Read a JSON object.

    Raises:
        InvalidRequest: It is no JSON, or has another shape; names the first field that is wrong.
    """
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        raise _first_of(error) from None


def _first_of(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = _path(first["loc"]) or "body"
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        text = "is not a field that this server knows"
    elif first["type"] == "missing":
        text = "must be given"
    return InvalidRequest(field, text[:1].lower() + text[1:])


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _check_prompt(value: Any) -> Any:
    if isinstance(value, str) or _is_ids(value):
        return value
    if _is_list(value) and (all(isinstance(v, str) for v in value) or all(map(_is_ids, value))):
        return value
    raise ValueError("must be text, token ids, or a list of either, and not empty")


def _check_stop(value: Any) -> Any:
    if isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    ):
        return value
    raise ValueError("must be text, or a list of texts")


def _check_content(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("must be text, or a list of text parts")
    for index, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") not in _PARTS:
            raise ValueError(f"part {index} must be of the type text; no other is served")
        if not isinstance(part.get("text"), str):
            raise ValueError(f"part {index} must have a text")
    return "".join(part["text"] for part in value)


def _check_object_or_text(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, str):
        return value
    raise ValueError("must be a JSON schema, as an object or as text")


def _check_tool_choice(value: Any) -> Any:
    match value:
        case "none" | "auto" | "required":
            return value
        case {"type": "function", "function": {"name": str(name)}}:
            return {"name": name}
    raise ValueError('must be "none", "auto", "required" or a function by its name')


def _as_turns(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _is_ids(value: Any) -> bool:
    return _is_list(value) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0


_PARTS = ("text", "input_text", "output_text")

PromptField = Annotated[
    Any,
    BeforeValidator(_check_prompt),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {**_IDS, "minItems": 1},
                {"type": "array", "items": _TEXT, "minItems": 1},
                {"type": "array", "items": {**_IDS, "minItems": 1}, "minItems": 1},
            ]
        }
    ),
]
"""A prompt, or several."""

StopField = Annotated[
    Any,
    BeforeValidator(_check_stop),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}),
]

ContentField = Annotated[
    str,
    BeforeValidator(_check_content),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"type": {"enum": list(_PARTS)}, "text": _TEXT},
                        "required": ["type", "text"],
                    },
                },
            ]
        }
    ),
]
"""Text, or text in parts, which are joined."""

SchemaField = Annotated[
    str,
    BeforeValidator(_check_object_or_text),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "object"}]}),
]
"""A JSON schema, as text."""

ToolChoiceField = Annotated[
    Any,
    BeforeValidator(_check_tool_choice),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["none", "auto", "required"]},
                {
                    "type": "object",
                    "properties": {
                        "type": {"enum": ["function"]},
                        "function": {
                            "type": "object",
                            "properties": {"name": _TEXT},
                            "required": ["name"],
                        },
                    },
                    "required": ["type", "function"],
                },
            ]
        }
    ),
]
"""A word, or {"name": …} of the function that must be called."""

TextAsTurns = BeforeValidator(_as_turns)
"""Text stands for one turn of the user."""

"""Functions that a model may call: what its template is told of them, and calls found in texts."""

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from treeserve.errors import InvalidRequest
from treeserve.server.openai.answers import Json
from treeserve.server.openai.read_drawing import NOT_GUIDED, Guided, schema_guide
from treeserve.server.openai.schemas import CalledFunction, Tool

_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The functions of one request."""

    functions: tuple[Json, ...] = ()
    """As templates take them."""
    guided: Guided = NOT_GUIDED
    """Where a function has to be called: what the text has to be."""

    @property
    def is_on(self) -> bool:
        return bool(self.functions)

    @property
    def names(self) -> set[str]:
        return {function["function"]["name"] for function in self.functions}


@dataclass(frozen=True, slots=True)
class Split:
    """A text taken apart."""

    text: str
    calls: list[Json]


def read_tools(tools: Sequence[Tool] | None, choice: Any) -> ToolUse:
    """What may be called, and what must.

    Args:
        tools: As the request has them.
        choice: None, "none", "auto", "required", or {"name": …}.

    Raises:
        InvalidRequest: A function must be called that is not there.
    """
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("tool_choice", "must not be given without tools")
        return ToolUse()
    if choice == "none":
        return ToolUse()
    functions = tuple(tool.model_dump(exclude_none=True) for tool in tools)
    if choice in (None, "auto"):
        return ToolUse(functions)
    wanted = functions
    if choice != "required":
        wanted = tuple(f for f in functions if f["function"]["name"] == choice["name"])
        if not wanted:
            raise InvalidRequest(
                "tool_choice", f"names {choice['name']!r}, which tools do not have"
            )
    schema = {"anyOf": [_schema_of(function["function"]) for function in wanted]}
    return ToolUse(functions, schema_guide(schema, "tool_choice"))


def read_called(function: CalledFunction) -> Json:
    """A call of an earlier turn; templates take its arguments as an object."""
    try:
        arguments = json.loads(function.arguments)
    except (ValueError, RecursionError):
        arguments = function.arguments
    return {"name": function.name, "arguments": arguments}


def split_calls(text: str, tools: ToolUse) -> Split:
    """Calls in a text, as <tool_call>JSON</tool_call> or where all of it is JSON.

    What names a function that there is not is text.
    """
    tagged = list(_TAGGED.finditer(text))
    sources = [found[1] for found in tagged] if tagged else [text]
    calls = [call for source in sources for call in _calls(source, tools)]
    if not calls:
        return Split(text, [])
    return Split(_TAGGED.sub("", text).strip() if tagged else "", calls)


def _schema_of(function: Json) -> Json:
    return {
        "type": "object",
        "properties": {
            "name": {"const": function["name"]},
            "arguments": function.get("parameters") or {"type": "object"},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _calls(source: str, tools: ToolUse) -> Iterator[Json]:
    try:
        read = json.loads(source)
    except (ValueError, RecursionError):
        return
    for entry in read if isinstance(read, list) else [read]:
        match entry:
            case {"name": str(name), "arguments": dict(arguments)} if name in tools.names:
                yield _call(name, arguments)
            case {"name": str(name), "parameters": dict(arguments)} if name in tools.names:
                yield _call(name, arguments)


def _call(name: str, arguments: Json) -> Json:
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
    }

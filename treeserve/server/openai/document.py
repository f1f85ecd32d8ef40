"""The OpenAPI document, made from the schemas that requests are checked by."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic.json_schema import models_json_schema

from treeserve.server.openai.body import Body
from treeserve.server.openai.exchange import DEADLINE_HEADER

_PLACE = "#/components/schemas/{model}"
_FAILURES = {
    "400": "The request can never be served as it stands; `param` names the field.",
    "401": "A valid API key is needed.",
    "403": "The key lacks a permission.",
    "404": "The model, or what the request names, is not there.",
    "408": "The body did not come to its end.",
    "409": "The request id is in use.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "More than the server or the key takes at once; see Retry-After.",
    "503": "The server is loading or draining.",
    "504": "The deadline passed before all samples had ended.",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_DEADLINE = {
    "name": DEADLINE_HEADER,
    "in": "header",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 86400},
    "description": "Seconds until the work ends, wherever it is.",
}


class Described(NamedTuple):
    """A path that takes a body."""

    name: str
    schema: type[Body]
    is_drawn: bool
    """Whether it draws samples, which may be streamed."""


def make_document(paths: Mapping[str, Described]) -> dict[str, Any]:
    """OpenAPI 3.1.

    Args:
        paths: Those that take a body; the paths of models are added.
    """
    wanted = [(described.schema, "validation") for described in paths.values()]
    names, definitions = models_json_schema(wanted, ref_template=_PLACE)  # type: ignore[arg-type]
    schemas = {**definitions["$defs"], "Error": _ERROR, **_answers()}
    operations: dict[str, Any] = {
        path: {"post": _post(described, names[described.schema, "validation"])}
        for path, described in paths.items()
    }
    operations["/v1/models"] = {"get": _get("Models", "ModelList", [])}
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    operations["/v1/models/{model}"] = {"get": _get("Model", "Model", [model])}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "treeserve",
            "version": "1",
            "description": "OpenAI's API over one tree of prefixes, with trees and forks beside.",
        },
        "paths": operations,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _post(described: Described, body: Any) -> dict[str, Any]:
    answer = f"{described.name.removeprefix('Http')}Answer"
    content: dict[str, Any] = {"application/json": {"schema": _ref(answer)}}
    if described.is_drawn:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "operationId": described.name,
        "summary": (described.schema.__doc__ or "").strip().splitlines()[0],
        "parameters": [_DEADLINE],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "The answer.", "content": content}, **_failures()},
    }


def _get(name: str, answer: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(answer)}}
    return {
        "operationId": name,
        "parameters": parameters,
        "responses": {"200": {"description": "The answer.", "content": content}, **_failures()},
    }


def _failures() -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Error")}}
    return {code: {"description": text, "content": content} for code, text in _FAILURES.items()}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _PLACE.format(model=name)}


def _answers() -> dict[str, Any]:
    text, number, count = {"type": "string"}, {"type": "number"}, {"type": "integer"}
    maybe = {"type": ["string", "null"]}
    details = _record(
        cached_tokens=count,
        shared_in_flight_tokens=count,
        computed_tokens=count,
        module_tokens=count,
        encoded_tokens=count,
    )
    usage = _record(
        prompt_tokens=count,
        completion_tokens=count,
        total_tokens=count,
        prompt_tokens_details=details,
    )
    ends = {"index": count, "finish_reason": maybe, "logprobs": {"type": ["object", "null"]}}
    top = {"id": text, "object": text, "created": count, "model": text}
    sample = _record(**ends, text=text)
    message = _record(role=text, content=maybe)
    model = _record(id=text, object=text, created=count, owned_by=text, max_model_len=count)
    node = _record(path=_list(count), choices=_list(sample), usage=usage)
    completion = _record(**top, choices=_list(sample), usage=usage)
    return {
        "CompletionsAnswer": completion,
        "ForksAnswer": completion,
        "ChatCompletionsAnswer": _record(
            **top, choices=_list(_record(**ends, message=message)), usage=usage
        ),
        "ResponsesAnswer": _record(
            id=text, object=text, created_at=number, status=text, output=_list({"type": "object"})
        ),
        "TreesAnswer": _record(**top, nodes=_list(node), tree_usage=usage),
        "TokenizeAnswer": _record(count=count, max_model_len=count, tokens=_list(count)),
        "DetokenizeAnswer": _record(prompt=text),
        "Model": model,
        "ModelList": _record(object=text, data=_list(model)),
    }


def _record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}

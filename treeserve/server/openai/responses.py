"""Responses: their requests read, their answers written; text alone, and nothing is stored."""

import time
from collections.abc import Iterator
from typing import Any

from treeserve.errors import InvalidRequest
from treeserve.server.batching import PromptEvents
from treeserve.server.contract import ServedModel
from treeserve.server.convert import GenerateCall
from treeserve.server.openai.answers import Chunk, Collected, Drawn, Head, Json, TokenText
from treeserve.server.openai.asked import Asked, Naming, check_model, head_of, read_options
from treeserve.server.openai.more_schemas import ResponseRequest, TextFormat
from treeserve.server.openai.read_drawing import Guided, read_format, read_params, schema_guide
from treeserve.server.openai.schemas import Delivery, Drawing, ResponseFormat
from treeserve.types import Chat, FinishReason, Message, OutputOptions, Usage

_FORMAT = "text.format"


def read_response(body: ResponseRequest, served: ServedModel, text_of: TokenText) -> Asked:
    """What a responses request asks for; raises InvalidRequest with its own field names."""
    check_model(body.model, served)
    if body.top_logprobs:
        raise InvalidRequest("top_logprobs", "is not served; leave it unset")
    drawing = Drawing(
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
    )
    guided = _guided(None if body.text is None else body.text.format)
    params = read_params(
        drawing, n=1, max_tokens=served.max_positions, logprobs=None, guided=guided
    )
    delivery = Delivery(
        stream=body.stream, stream_options=body.stream_options, priority=body.priority
    )
    options = read_options(delivery, "resp")
    system = () if body.instructions is None else (Message("system", body.instructions),)
    turns = tuple(
        Message("system" if item.role == "developer" else item.role, item.content)
        for item in body.input
    )
    chat = Chat((*system, *turns))
    renamed = {"max_tokens": "max_output_tokens", "prompt": "input", "messages": "input"}
    return Asked(
        GenerateCall(chat, params, OutputOptions(), options),
        ResponseAnswer(head_of(delivery, options, served), body),
        bool(body.stream),
        Naming(guided.field, renamed),
        chat if body.prompt_cache_retention == "24h" else None,
    )


class ResponseAnswer:
    """Writes a response with one message of one text.

    Args:
        head: What all of it has in common.
        body: What was asked; it is told back.
    """

    def __init__(self, head: Head, body: ResponseRequest) -> None:
        self._head = head
        self._body = body
        self._item_id = f"msg-{head.answer_id}"
        self._drawn = Drawn((), 0)
        self._collected = Collected()
        self._num_chunks = 0

    def chunks(self, events: PromptEvents) -> Iterator[Chunk]:
        if self._num_chunks == 0:
            yield from self._begin()
        for drawn in self._collected.add(events):
            self._drawn.text += drawn.text
            self._drawn.finish_reason = drawn.finish_reason
            if drawn.text:
                yield self._event("response.output_text.delta", delta=drawn.text, **self._place())

    def last(self) -> Iterator[Chunk]:
        text, usage = self._drawn.text, self._collected.usages.get(())
        part = _part(text)
        yield self._event("response.output_text.done", text=text, **self._place())
        yield self._event("response.content_part.done", part=part, **self._place(logprobs=False))
        item = self._item(text, self._status())
        yield self._event("response.output_item.done", output_index=0, item=item)
        kind = "response.completed" if self._status() == "completed" else "response.incomplete"
        yield self._event(kind, response=self._response(self._status(), [item], usage))

    def whole(self, collected: Collected) -> Json:
        [self._drawn] = collected.in_order()
        item = self._item(self._drawn.text, self._status())
        return self._response(self._status(), [item], collected.usages.get(()))

    def _begin(self) -> Iterator[Chunk]:
        response = self._response("in_progress", [], None)
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)
        item = {**self._item("", "in_progress"), "content": []}
        yield self._event("response.output_item.added", output_index=0, item=item)
        place = self._place(logprobs=False)
        yield self._event("response.content_part.added", part=_part(""), **place)

    def _event(self, kind: str, **fields: Any) -> Chunk:
        number = self._num_chunks
        self._num_chunks += 1
        return Chunk({"type": kind, "sequence_number": number, **fields}, kind)

    def _place(self, *, logprobs: bool = True) -> Json:
        place: Json = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        return {**place, "logprobs": []} if logprobs else place

    def _status(self) -> str:
        return "completed" if self._drawn.finish_reason is FinishReason.STOP else "incomplete"

    def _item(self, text: str, status: str) -> Json:
        return {
            "type": "message",
            "id": self._item_id,
            "status": status,
            "role": "assistant",
            "content": [_part(text)],
        }

    def _response(self, status: str, output: list[Json], usage: Usage | None) -> Json:
        body, reason = self._body, self._drawn.finish_reason
        details = None
        if status == "incomplete" and reason is not None:
            is_length = reason is FinishReason.LENGTH
            details = {"reason": "max_output_tokens" if is_length else reason.value}
        return {
            "id": self._head.answer_id,
            "object": "response",
            "created_at": self._head.created,
            "completed_at": int(time.time()) if usage is not None else None,
            "status": status,
            "error": None,
            "incomplete_details": details,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._head.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": _told_format(body)},
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else _write_usage(usage),
        }


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _write_usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "shared_in_flight_tokens": usage.shared_tokens,
            "computed_tokens": usage.computed_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _told_format(body: ResponseRequest) -> Json:
    if body.text is None or body.text.format is None:
        return {"type": "text"}
    return body.text.format.model_dump(by_alias=True, exclude_none=True)


def _guided(asked: TextFormat | None) -> Guided:
    if asked is None:
        return Guided()
    if asked.type != "json_schema":
        return read_format(ResponseFormat(type=asked.type), _FORMAT)
    if asked.schema_ is None:
        raise InvalidRequest(f"{_FORMAT}.schema", "must be given where the type is json_schema")
    return schema_guide(asked.schema_, _FORMAT)

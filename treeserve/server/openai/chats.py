"""Chat completions: their requests read, their answers written."""

from collections.abc import Iterator, Sequence
from typing import Any

from treeserve.errors import InvalidRequest
from treeserve.server.batching import PromptEvents
from treeserve.server.contract import ServedModel
from treeserve.server.convert import GenerateCall
from treeserve.server.openai.answers import (
    Chunk,
    Collected,
    Drawn,
    Head,
    Json,
    Path,
    TokenText,
    write_chat_logprobs,
    write_end,
    write_usage,
)
from treeserve.server.openai.asked import Asked, Naming, check_model, head_of, read_options
from treeserve.server.openai.read_drawing import Guided, read_guided, read_params
from treeserve.server.openai.schemas import ChatMessage, ChatRequest
from treeserve.server.openai.tools import ToolUse, read_called, read_tools, split_calls
from treeserve.types import Chat, Message, OutputOptions

_ROLES = {"developer": "system"}
"""Roles that templates know by an older name."""


def read_chat(body: ChatRequest, served: ServedModel, text_of: TokenText) -> Asked:
    """What a chat completions request asks for; raises InvalidRequest with its own field names."""
    check_model(body.model, served)
    _check(body)
    tools = read_tools(body.tools, body.tool_choice)
    guided = _guided(body, tools)
    options = read_options(body, "chatcmpl")
    limit = "max_completion_tokens"
    if body.max_completion_tokens is None:
        limit = "max_tokens"
    else:
        body.max_tokens = body.max_completion_tokens
    params = read_params(
        body,
        n=body.n,
        max_tokens=served.max_positions,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        guided=guided,
    )
    naming = Naming(
        guided.field, {"max_tokens": limit, "logprobs": "top_logprobs", "prompt": "messages"}
    )
    chat = Chat(read_messages(body.messages), tools.functions)
    answer = ChatAnswer(
        head_of(body, options, served), text_of, tells_logprobs=bool(body.logprobs), tools=tools
    )
    return Asked(
        GenerateCall(chat, params, OutputOptions(), options),
        answer,
        bool(body.stream),
        naming,
        chat if body.prompt_cache_retention == "24h" else None,
    )


def read_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The turns of a chat."""
    return tuple(_read_message(message, index) for index, message in enumerate(messages))


class ChatAnswer:
    """Writes chat completions.

    Args:
        head: What all of it has in common.
        text_of: The text of a token.
        tells_logprobs: Whether log-probabilities are told.
        tools: With tools in use, a sample's text is told at its end: it may be a call.
    """

    def __init__(
        self, head: Head, text_of: TokenText, *, tells_logprobs: bool, tools: ToolUse
    ) -> None:
        self._head = head
        self._text_of = text_of
        self._tells_logprobs = tells_logprobs
        self._tells_tokens = tells_logprobs or head.tells_token_ids
        self._tools = tools
        self._collected = Collected()
        self._begun: set[tuple[Path, int]] = set()

    def chunks(self, events: PromptEvents) -> Iterator[Chunk]:
        for drawn in self._collected.add(events):
            told = self._held(drawn) if self._tools.is_on else drawn
            if told is not None and (told.text or told.finish_reason or self._tells_tokens):
                yield self._chunk([self._delta(told)])
        if self._tools.is_on:
            self._hold(events)

    def last(self) -> Iterator[Chunk]:
        if self._head.tells_usage:
            yield self._chunk([], write_usage(self._collected.usages.values()))

    def whole(self, collected: Collected) -> Json:
        choices = [self._choice(drawn) for drawn in collected.in_order()]
        usage = write_usage(collected.usages.values())
        return {**self._top("chat.completion"), "choices": choices, "usage": usage}

    def _held(self, drawn: Drawn) -> Drawn | None:
        """All of a sample, once it has ended; None before."""
        if drawn.finish_reason is None:
            return None
        before = self._collected.samples.pop((drawn.path, drawn.index), None)
        if before is not None:
            drawn.text = before.text + drawn.text
            drawn.token_ids = before.token_ids + drawn.token_ids
            drawn.logprobs = before.logprobs + drawn.logprobs
        return drawn

    def _hold(self, events: PromptEvents) -> None:
        growing = [delta for delta in events.deltas if delta.finish_reason is None]
        ended = {delta.sample_index for delta in events.deltas if delta.finish_reason is not None}
        left = [delta for delta in growing if delta.sample_index not in ended]
        self._collected.keep(PromptEvents(events.path, left))

    def _chunk(self, choices: list[Json], usage: Json | None = None) -> Chunk:
        more = {"usage": usage} if self._head.tells_usage else {}
        return Chunk({**self._top("chat.completion.chunk"), "choices": choices, **more})

    def _top(self, kind: str) -> Json:
        return {
            "id": self._head.answer_id,
            "object": kind,
            "created": self._head.created,
            "model": self._head.model,
        }

    def _delta(self, drawn: Drawn) -> Json:
        key = (drawn.path, drawn.index)
        role = {} if key in self._begun else {"role": "assistant"}
        self._begun.add(key)
        message = self._message(drawn)
        calls = message.get("tool_calls")
        if calls is not None:
            message["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        return {"index": drawn.index, "delta": {**role, **message}, **self._end(drawn, calls)}

    def _choice(self, drawn: Drawn) -> Json:
        message = self._message(drawn)
        whole = {"role": "assistant", "content": None, "refusal": None, **message}
        end = self._end(drawn, message.get("tool_calls"))
        return {"index": drawn.index, "message": whole, **end}

    def _message(self, drawn: Drawn) -> Json:
        if self._tools.is_on:
            found = split_calls(drawn.text, self._tools)
            if found.calls:
                content = {"content": found.text} if found.text else {}
                return {**content, "tool_calls": found.calls}
        return {"content": drawn.text}

    def _end(self, drawn: Drawn, calls: Any) -> Json:
        end = write_end(drawn)
        if calls and end["finish_reason"] == "stop":
            end["finish_reason"] = "tool_calls"
        tells = self._tells_logprobs and drawn.logprobs
        end["logprobs"] = write_chat_logprobs(drawn.logprobs, self._text_of) if tells else None
        if self._head.tells_token_ids:
            end["token_ids"] = drawn.token_ids
        return end


def _check(body: ChatRequest) -> None:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs", "must not be given without logprobs")
    if body.max_completion_tokens is not None and body.max_tokens is not None:
        raise InvalidRequest("max_tokens", "must not be given together with max_completion_tokens")


def _guided(body: ChatRequest, tools: ToolUse) -> Guided:
    guided = read_guided(body)
    if tools.guided.guidance is None:
        return guided
    if guided.guidance is not None:
        raise InvalidRequest(guided.field, f"must not be given together with {tools.guided.field}")
    return tools.guided


def _read_message(message: ChatMessage, index: int) -> Message:
    calls = [
        {"id": call.id, "type": "function", "function": read_called(call.function)}
        for call in message.tool_calls or ()
    ]
    more: dict[str, Any] = {
        "name": message.name,
        "tool_calls": calls or None,
        "tool_call_id": message.tool_call_id,
    }
    if message.content is None and not calls:
        raise InvalidRequest(f"messages[{index}].content", "must be given")
    return Message(
        role=_ROLES.get(message.role, message.role),
        content=message.content or "",
        more={name: value for name, value in more.items() if value is not None},
    )

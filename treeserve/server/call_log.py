"""What is known of one call, for the line in the log at its end."""

import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from treeserve.server.engine_watch import QueueTime
from treeserve.server.identity import ANYBODY, Identity
from treeserve.types import Chat, Delta, Finished, Message, Prompt, PromptTree

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_TRACE_HEADERS = ("traceparent", "tracestate")
_NO_TRACE = "0" * 32


@dataclass(slots=True)
class CallRecord:
    """Grows while the call runs."""

    service: str
    """In full."""
    method: str
    request_id: str
    trace_id: str
    trace_headers: dict[str, str] = field(default_factory=dict)
    """traceparent and tracestate, as they came."""
    system: str = "grpc"
    """The door that it came through: "grpc" or "http"."""
    clock: Callable[[], float] = time.monotonic
    identity: Identity = ANYBODY
    prompt: Any = None
    """Only where prompts are logged."""
    queue_time: QueueTime | None = None
    """Of its first prompt; None: nothing of it has reached the engine."""
    first_token_seconds: float | None = None
    num_prompts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    shared_tokens: int = 0
    computed_tokens: int = 0
    drawn_tokens: int = 0
    started: float = field(init=False)
    started_ns: int = field(init=False)
    """On the wall's clock."""

    def __post_init__(self) -> None:
        self.started = self.clock()
        self.started_ns = time.time_ns()

    @property
    def queue_seconds(self) -> float | None:
        """From the call to the end of the step that took in its first prompt; else until now.

        0: it did not wait for a step to end. None: nothing of it has reached the engine.
        """
        if self.queue_time is None:
            return None
        if not self.queue_time.has_waited:
            return 0.0
        left = self.queue_time.left
        seconds = (self.clock() if left is None else left) - self.started
        first = self.first_token_seconds
        return seconds if first is None else min(seconds, first)

    @property
    def has_left_queue(self) -> bool:
        return self.queue_time is not None and self.queue_time.left is not None

    def see(self, event: Delta | Finished) -> None:
        """Count what a stream brought."""
        if isinstance(event, Delta):
            self.drawn_tokens += len(event.token_ids)
            if self.first_token_seconds is None:
                self.first_token_seconds = self.clock() - self.started
        else:
            usage = event.usage
            self.add_prompt(
                usage.prompt_tokens, usage.cached_tokens, usage.shared_tokens, usage.computed_tokens
            )

    def fields(self, code: str) -> dict[str, Any]:
        """All of it, by name, for the log."""
        known = {
            "request_id": self.request_id,
            "trace_id": self.trace_id or None,
            "tenant": self.identity.tenant or None,
            "key": self.identity.key_name or self.identity.key_id or None,
            "method": self.method,
            "code": code,
            "prompts": self.num_prompts,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "shared_tokens": self.shared_tokens,
            "computed_tokens": self.computed_tokens,
            "drawn_tokens": self.drawn_tokens,
            "queue_seconds": _rounded(self.queue_seconds),
            "first_token_seconds": _rounded(self.first_token_seconds),
            "total_seconds": round(self.clock() - self.started, 6),
            "prompt": self.prompt,
        }
        return {name: value for name, value in known.items() if value is not None}

    def add_prompt(self, tokens: int, cached: int = 0, shared: int = 0, computed: int = 0) -> None:
        """Count a prompt's tokens, by where they came from."""
        self.num_prompts += 1
        self.prompt_tokens += tokens
        self.cached_tokens += cached
        self.shared_tokens += shared
        self.computed_tokens += computed


def open_record(
    method: str,
    metadata: Iterable[tuple[str, str | bytes]] | None,
    service: str = "treeserve.v1.GenerationService",
    system: str = "grpc",
) -> CallRecord:
    """A record with the ids that the caller gave; a request id that is missing or odd is made."""
    given = {key: value for key, value in metadata or () if isinstance(value, str)}
    request_id = given.get(REQUEST_ID, "")
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = secrets.token_hex(16)
    trace = _TRACE_PARENT.fullmatch(given.get("traceparent", ""))
    trace_id = trace[1] if trace and trace[1] != _NO_TRACE else ""
    headers = {name: given[name] for name in _TRACE_HEADERS if name in given}
    return CallRecord(service, method, request_id, trace_id, headers, system)


def write_record(record: CallRecord, code: str) -> None:
    """One line, at the level INFO."""
    fields = record.fields(code)
    text = " ".join(f"{name}={_plain(value)}" for name, value in fields.items())
    logger.info("call %s", text, extra={"call": fields})


def text_of(prompt: Prompt | PromptTree) -> Any:
    """A prompt as the log shows it, where it may."""
    match prompt:
        case PromptTree():
            return _node_of(prompt)
        case Chat():
            return _turns_of(prompt.messages)
        case str():
            return prompt
    return list(prompt)


def _node_of(node: PromptTree) -> dict[str, Any]:
    branches = [_node_of(branch) for branch in node.branches]
    known = {
        "text": node.text,
        "token_ids": list(node.token_ids),
        "messages": _turns_of(node.messages),
        "branches": branches,
    }
    return {name: value for name, value in known.items() if value}


def _turns_of(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _plain(value: object) -> str:
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)

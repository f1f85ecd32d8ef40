"""Traces: requests with their arrival times, one JSON object a line, as Mooncake publishes them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from treeserve.errors import ConfigError
from treeserve.scheduler.step import Int32Array

DEFAULT_BLOCK_SIZE = 512
"""Tokens of a block in Mooncake's published traces."""
FIRST_DRAWN_TOKEN = 1 << 30
"""Tokens of prompts are below it, tokens that a sample draws are not."""

_FIELDS = (
    "timestamp",
    "input_length",
    "output_length",
    "hash_ids",
    "block_size",
    "num_samples",
    "max_tokens",
    "tenant",
    "priority",
    "deadline",
    "id",
    "parent",
    "parent_sample",
)


class TraceError(ConfigError):
    """A trace that cannot be read; names the file, the line and the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """One line of a trace.

    A request with a parent continues it: its prompt is the parent's whole prompt, all that one of
    the parent's samples drew, and then its own `input_length` tokens.
    """

    request_id: str
    """The line's "id", or else its number."""
    arrival_seconds: float
    """From the trace's start; with a parent, from the parent's end."""
    input_length: int
    block_ids: tuple[int, ...]
    """Equal ids are equal tokens; the last block may be cut short by `input_length`."""
    block_size: int = DEFAULT_BLOCK_SIZE
    output_lengths: tuple[int, ...]
    """Of each sample."""
    max_tokens: int
    """What the user asked for: a sample that is shorter ends with a stop token."""
    tenant: str = ""
    priority: int = 0
    """Higher is sooner."""
    deadline_seconds: float | None = None
    """After the arrival."""
    parent: str | None = None
    parent_sample: int = 0

    @property
    def num_samples(self) -> int:
        return len(self.output_lengths)

    def own_tokens(self) -> Int32Array:
        """[input_length]: token ids of the blocks.

        Two blocks differ in every place, and none of their tokens is one that a sample draws.
        """
        blocks = np.array(self.block_ids, dtype=np.uint64)[:, None] * np.uint64(0x9E3779B1)
        offsets = np.arange(self.block_size, dtype=np.uint64) * np.uint64(0x85EBCA77)
        tokens = (blocks + offsets) % np.uint64(FIRST_DRAWN_TOKEN)
        return tokens.reshape(-1)[: self.input_length].astype(np.int32)


def read_trace(path: Path) -> list[TraceRequest]:
    """The requests of a file, in its order.

    A line has Mooncake's fields, `timestamp` (milliseconds), `input_length`, `output_length` and
    `hash_ids` (ids of the prompt's blocks), and may have more: `block_size` (512), `num_samples`
    (1; `output_length` may then be a list), `max_tokens` (the longest output), `tenant`,
    `priority`, `deadline` (milliseconds after the arrival), `id`, `parent` (the id of an earlier
    line that this one continues; `timestamp` is then the time since the parent's end), and
    `parent_sample`.

    Raises:
        TraceError: Of the first line that is not like that.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not valid UTF-8 at byte {error.start}") from error
    requests: dict[str, TraceRequest] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        request = _parse(line, where, str(number))
        _require_relations(request, requests, where)
        requests[request.request_id] = request
    if not requests:
        raise TraceError(f"{path}: has no requests")
    return list(requests.values())


def write_trace(path: Path, requests: Iterable[TraceRequest]) -> None:
    """Writes a file that `read_trace` reads, with one line each; what is default is left out."""
    path.write_text("".join(to_line(request) + "\n" for request in requests), encoding="utf-8")


def to_line(request: TraceRequest) -> str:
    """The request as a line of a trace. Its id is written only where it is not a number."""
    lengths = request.output_lengths
    alike = len(set(lengths)) == 1
    fields: dict[str, Any] = {
        "timestamp": round(request.arrival_seconds * 1e3),
        "input_length": request.input_length,
        "output_length": lengths[0] if alike else list(lengths),
        "hash_ids": list(request.block_ids),
        "block_size": request.block_size,
        "num_samples": request.num_samples,
        "max_tokens": request.max_tokens,
        "tenant": request.tenant,
        "priority": request.priority,
        "id": None if request.request_id.isdigit() else request.request_id,
        "parent": request.parent,
        "parent_sample": request.parent_sample,
    }
    if request.deadline_seconds is not None:
        fields["deadline"] = round(request.deadline_seconds * 1e3)
    defaults = {
        "block_size": DEFAULT_BLOCK_SIZE,
        "num_samples": 1,
        "max_tokens": max(lengths),
        "tenant": "",
        "priority": 0,
        "id": None,
        "parent": None,
        "parent_sample": 0,
    }
    told = {k: v for k, v in fields.items() if k not in defaults or v != defaults[k]}
    return json.dumps(told, separators=(",", ":"))


def _parse(line: str, where: str, default_id: str) -> TraceRequest:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise TraceError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise TraceError(f"{where}: must be a JSON object")
    for name in value:
        if name not in _FIELDS:
            raise TraceError(f"{where}: {name}: unknown; fields are {', '.join(_FIELDS)}")
    fields = _Fields(value, where)
    num_samples = fields.integer("num_samples", least=1, default=1)
    output_lengths = fields.output_lengths(num_samples)
    input_length = fields.integer("input_length", least=1)
    block_size = fields.integer("block_size", least=1, default=DEFAULT_BLOCK_SIZE)
    deadline = fields.milliseconds("deadline") if "deadline" in value else None
    return TraceRequest(
        request_id=fields.text("id", default_id) or default_id,
        arrival_seconds=fields.milliseconds("timestamp"),
        input_length=input_length,
        block_ids=fields.block_ids(-(-input_length // block_size)),
        block_size=block_size,
        output_lengths=output_lengths,
        max_tokens=fields.integer(
            "max_tokens", least=max(output_lengths), default=max(output_lengths)
        ),
        tenant=fields.text("tenant", "") or "",
        priority=fields.integer("priority", least=-(1 << 31), default=0),
        deadline_seconds=deadline,
        parent=fields.text("parent", None),
        parent_sample=fields.integer("parent_sample", least=0, default=0),
    )


def _require_relations(request: TraceRequest, earlier: dict[str, TraceRequest], where: str) -> None:
    if request.request_id in earlier:
        raise TraceError(f"{where}: id: {request.request_id!r} is an earlier line's")
    if request.parent is None:
        return
    parent = earlier.get(request.parent)
    if parent is None:
        raise TraceError(f"{where}: parent: no earlier line has the id {request.parent!r}")
    if request.parent_sample >= parent.num_samples:
        raise TraceError(
            f"{where}: parent_sample: {request.parent_sample}, and the parent has "
            f"{parent.num_samples} samples"
        )
    if request.tenant != parent.tenant:
        raise TraceError(f"{where}: tenant: {request.tenant!r}, and the parent's {parent.tenant!r}")


@dataclass(frozen=True, slots=True)
class _Fields:
    """A line's object; what is read from it has the right type, or an error says where not."""

    values: dict[str, Any]
    where: str

    def integer(self, name: str, *, least: int, default: int | None = None) -> int:
        value = self._get(name, default)
        if not _is_integer(value) or value < least:
            raise self._error(name, f"must be an integer of at least {least}", value)
        return int(value)

    def milliseconds(self, name: str) -> float:
        """In seconds."""
        value = self._get(name, None)
        is_number = _is_integer(value) or isinstance(value, float)
        if not is_number or not 0 <= value < float("inf"):
            raise self._error(name, "must be a number of milliseconds, at least 0", value)
        return float(value) / 1e3

    def text(self, name: str, default: str | None) -> str | None:
        if name not in self.values:
            return default
        value = self.values[name]
        if not isinstance(value, str):
            raise self._error(name, "must be a string", value)
        return value

    def output_lengths(self, num_samples: int) -> tuple[int, ...]:
        value = self._get("output_length", None)
        lengths = value if isinstance(value, list) else [value] * num_samples
        if len(lengths) != num_samples or not all(_is_integer(x) and x >= 1 for x in lengths):
            what = f"must be an integer of at least 1, or a list of {num_samples} of them"
            raise self._error("output_length", what, value)
        return tuple(lengths)

    def block_ids(self, num_blocks: int) -> tuple[int, ...]:
        value = self._get("hash_ids", None)
        is_list = isinstance(value, list)
        if not is_list or not all(_is_integer(x) and 0 <= x < FIRST_DRAWN_TOKEN for x in value):
            raise self._error("hash_ids", "must be a list of integers from 0 to 2^30 - 1", value)
        if len(value) != num_blocks:
            raise TraceError(
                f"{self.where}: hash_ids: {len(value)} blocks, and input_length needs {num_blocks}"
            )
        return tuple(value)

    def _get(self, name: str, default: Any) -> Any:
        if name not in self.values and default is None:
            raise TraceError(f"{self.where}: {name}: missing")
        return self.values.get(name, default)

    def _error(self, name: str, what: str, value: Any) -> TraceError:
        shown = json.dumps(value)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        return TraceError(f"{self.where}: {name}: {what}, got {shown}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

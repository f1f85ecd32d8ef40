"""The calls of AdminService, and what they return."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from treeserve.client.call import Call
from treeserve.client.write import write_fields
from treeserve.errors import InvalidRequest
from treeserve.pb import admin_pb2 as pb

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

_LEVELS: dict[str, pb.LogLevel] = {
    "debug": pb.LOG_LEVEL_DEBUG,
    "info": pb.LOG_LEVEL_INFO,
    "warning": pb.LOG_LEVEL_WARNING,
    "error": pb.LOG_LEVEL_ERROR,
}
_NAMES = {value: name for name, value in _LEVELS.items()}


@dataclass(frozen=True, slots=True)
class Drained:
    """How a drain ended."""

    all_ended: bool
    """Whether every call ended within the server's grace."""
    num_running_calls: int
    """That still ran."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What attention costs on the server's device, as it measured; it plans by that from now on."""

    token_seconds: float
    """Reading one token's K and V in one layer."""
    item_seconds: float
    """One more work item."""
    state_seconds: float
    """One more state of a row."""
    sharing_seconds: float
    """Merging states at all."""
    median_error: float
    """By which half of the predictions on held-out trees miss, as a fraction."""
    is_stored: bool
    """Whether later starts know of it."""
    stored_reason: str
    """Why they do not; empty where they do."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What runs, how it was started, and how much there is of everything; all by name."""

    phase: str
    """loading, ready, draining or stopped."""
    versions: Mapping[str, str]
    options: Mapping[str, str]
    counts: Mapping[str, int]


def drain() -> Call[Drained]:
    """Refuse new calls, for good, and wait for the running ones."""
    return Call(
        "admin",
        "Drain",
        pb.DrainRequest(),
        lambda response: Drained(response.all_ended, response.running_calls),
    )


def clear_cache() -> Call[int]:
    """The number of tokens that left the tree."""
    return Call(
        "admin", "ClearCache", pb.ClearCacheRequest(), lambda response: response.evicted_tokens
    )


def set_log_level(level: LogLevel) -> Call[str | None]:
    """The level before; None where it was none of these."""
    if level not in _LEVELS:
        raise InvalidRequest("level", f"must be one of {', '.join(_LEVELS)}, got {level!r}")
    request = pb.SetLogLevelRequest(level=_LEVELS[level])
    # Made again it would tell of its own change.
    return Call(
        "admin",
        "SetLogLevel",
        request,
        lambda response: _NAMES.get(response.previous),
        repeats_lost=False,
    )


def calibrate(seconds: float | None) -> Call[Costs]:
    """Measure for about so many seconds."""
    request = pb.CalibrateRequest()
    write_fields(request, seconds=seconds)
    # Nothing else is computed meanwhile, so nobody measures twice unasked.
    return Call("admin", "Calibrate", request, _read_costs, repeats_lost=False)


def status() -> Call[ServerStatus]:
    """Now."""
    return Call("admin", "GetStatus", pb.GetStatusRequest(), _read_status)


def _read_costs(response: pb.CalibrateResponse) -> Costs:
    return Costs(
        token_seconds=response.token_seconds,
        item_seconds=response.item_seconds,
        state_seconds=response.state_seconds,
        sharing_seconds=response.sharing_seconds,
        median_error=response.median_error,
        is_stored=response.is_stored,
        stored_reason=response.stored_reason,
    )


def _read_status(response: pb.GetStatusResponse) -> ServerStatus:
    return ServerStatus(
        phase=response.phase,
        versions=dict(response.versions),
        options=dict(response.options),
        counts=dict(response.counts),
    )

"""The methods of AdminService: drain, clear, log level, calibration and status."""

import logging

import grpc
from google.protobuf.message import Message

from treeserve.errors import InvalidRequest, NotPossible
from treeserve.pb import admin_pb2 as pb
from treeserve.server.doors import Call, Doors
from treeserve.server.endings import Endings
from treeserve.server.identity import Permission
from treeserve.server.methods import Methods
from treeserve.server.side_contract import Administers, Host
from treeserve.server.wire import parse

logger = logging.getLogger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AdminService"].full_name
DEFAULT_CALIBRATION_SECONDS = 8.0

_LEVELS = {
    pb.LOG_LEVEL_DEBUG: logging.DEBUG,
    pb.LOG_LEVEL_INFO: logging.INFO,
    pb.LOG_LEVEL_WARNING: logging.WARNING,
    pb.LOG_LEVEL_ERROR: logging.ERROR,
}
_LEVELS_BACK = {level: name for name, level in _LEVELS.items()}


class AdminService:
    """Drain, log level and status are answered in every phase, the rest once the model is loaded.

    Args:
        doors: Decide whether a call may run.
        endings: Tell of every call.
        host: Is drained, and logs.
    """

    def __init__(self, doors: Doors, endings: Endings, host: Host) -> None:
        self.administration: Administers | None = None
        self._calls = doors.calls
        self._host = host
        self._methods = Methods(SERVICE_NAME, doors, endings)
        self._methods.always("Drain", Permission.ADMIN, self._drain)
        self._methods.always("ClearCache", Permission.ADMIN, self._clear_cache)
        self._methods.always("SetLogLevel", Permission.ADMIN, self._set_log_level)
        self._methods.always("Calibrate", Permission.ADMIN, self._calibrate)
        self._methods.always("GetStatus", Permission.ADMIN, self._get_status)

    def handler(self) -> "grpc.GenericRpcHandler[bytes, Message]":
        """To be added to a grpc.aio server of its own."""
        return self._methods.handler()

    async def _drain(self, data: bytes, call: Call) -> Message:
        parse(pb.DrainRequest, data)
        self._require_loaded()
        logger.info("asked to drain %d calls", self._calls.num_running)
        num_running = await self._host.drain()
        return pb.DrainResponse(all_ended=not num_running, running_calls=num_running)

    async def _clear_cache(self, data: bytes, call: Call) -> Message:
        parse(pb.ClearCacheRequest, data)
        num_tokens = await self._require_loaded().clear_cache()
        logger.info("asked to clear the cache: %d tokens left it", num_tokens)
        return pb.ClearCacheResponse(evicted_tokens=num_tokens)

    async def _set_log_level(self, data: bytes, call: Call) -> Message:
        level = _LEVELS.get(parse(pb.SetLogLevelRequest, data).level)
        if level is None:
            raise InvalidRequest("level", "must be LOG_LEVEL_DEBUG, _INFO, _WARNING or _ERROR")
        previous = await self._host.set_log_level(level)
        return pb.SetLogLevelResponse(previous=_LEVELS_BACK.get(previous, pb.LOG_LEVEL_UNSPECIFIED))

    async def _calibrate(self, data: bytes, call: Call) -> Message:
        request = parse(pb.CalibrateRequest, data)
        seconds = request.seconds if request.HasField("seconds") else DEFAULT_CALIBRATION_SECONDS
        measured = await self._require_loaded().calibrate(seconds)
        constants = measured.calibration.constants
        return pb.CalibrateResponse(
            token_seconds=constants.token_cost,
            item_seconds=constants.item_cost,
            state_seconds=constants.state_cost,
            sharing_seconds=constants.sharing_cost,
            median_error=measured.calibration.quality.median_error,
            is_stored=measured.unstored_reason is None,
            stored_reason=measured.unstored_reason or "",
        )

    async def _get_status(self, data: bytes, call: Call) -> Message:
        parse(pb.GetStatusRequest, data)
        counts = {"running_calls": self._calls.num_running}
        phase = self._calls.phase.value
        if self.administration is None:
            return pb.GetStatusResponse(phase=phase, counts=counts)
        status = await self.administration.status()
        return pb.GetStatusResponse(
            phase=phase,
            versions=status.versions,
            options=status.options,
            counts=counts | dict(status.counts),
        )

    def _require_loaded(self) -> Administers:
        if self.administration is None:
            raise NotPossible("the model is still being loaded")
        return self.administration


def set_own_log_level(level: int) -> int:
    """Of this process; returns what it was."""
    root = logging.getLogger()
    previous = root.level
    root.setLevel(level)
    return previous

"""Turns errors into gRPC statuses with google.rpc details."""

import logging
import math

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from treeserve.errors import (
    AlreadyExists,
    BeyondDrawn,
    Damaged,
    EngineStopped,
    InvalidRequest,
    NoRoom,
    NotFound,
    NotPossible,
)
from treeserve.server.convert import proto_path
from treeserve.server.refusals import (
    DeadlinePassed,
    Forbidden,
    Overloaded,
    ReaderTooSlow,
    Unauthenticated,
)

logger = logging.getLogger(__name__)

_CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    BeyondDrawn: grpc.StatusCode.OUT_OF_RANGE,
    EngineStopped: grpc.StatusCode.UNAVAILABLE,
    DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ReaderTooSlow: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NoRoom: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    NotPossible: grpc.StatusCode.FAILED_PRECONDITION,
    Damaged: grpc.StatusCode.DATA_LOSS,
}


def code_of(error: Exception) -> grpc.StatusCode:
    """The code that an error ends its call with."""
    kinds = (kind for kind in type(error).__mro__ if kind in _CODES)
    kind = next(kinds, None)
    return grpc.StatusCode.INTERNAL if kind is None else _CODES[kind]


def status_of(error: Exception) -> grpc.Status:
    """The status that tells a caller of an error; an unexpected one is logged, not told."""
    code = code_of(error)
    if code is grpc.StatusCode.INTERNAL:
        logger.error("a call failed", exc_info=error)
        return _status(code, "internal error; the server's log has the details")
    if isinstance(error, InvalidRequest):
        return _invalid(code, error)
    if isinstance(error, Overloaded) and error.retry_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(math.ceil(error.retry_seconds * 1000))
        return _status(code, str(error), error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(code, str(error))


def _invalid(code: grpc.StatusCode, error: InvalidRequest) -> grpc.Status:
    field = proto_path(error.field)
    violation = error_details_pb2.BadRequest.FieldViolation(
        field=field, description=error.description
    )
    return _status(
        code,
        f"{field}: {error.description}",
        error_details_pb2.BadRequest(field_violations=[violation]),
    )


def _status(code: grpc.StatusCode, text: str, *details: Message) -> grpc.Status:
    packed = []
    for detail in details:
        entry = any_pb2.Any()
        entry.Pack(detail)
        packed.append(entry)
    number = code_pb2.Code.Value(code.name)
    status: grpc.Status = rpc_status.to_status(
        status_pb2.Status(code=number, message=text, details=packed)
    )
    return status

"""Turns errors into HTTP statuses, with OpenAI's bodies."""

import logging
import math
from dataclasses import dataclass, field
from typing import Any

import grpc

from treeserve.errors import InvalidRequest
from treeserve.server.openai.asked import UnknownModel
from treeserve.server.refusals import Overloaded, Unauthenticated
from treeserve.server.status import code_of

logger = logging.getLogger(__name__)

_Code = grpc.StatusCode
_STATUSES: dict[grpc.StatusCode, tuple[int, str, str | None]] = {
    _Code.INVALID_ARGUMENT: (400, "invalid_request_error", None),
    _Code.OUT_OF_RANGE: (400, "invalid_request_error", None),
    _Code.FAILED_PRECONDITION: (400, "invalid_request_error", "not_possible"),
    _Code.UNIMPLEMENTED: (400, "invalid_request_error", "not_implemented"),
    _Code.UNAUTHENTICATED: (401, "invalid_request_error", "invalid_api_key"),
    _Code.PERMISSION_DENIED: (403, "permission_error", "permission_denied"),
    _Code.NOT_FOUND: (404, "invalid_request_error", "not_found"),
    _Code.ALREADY_EXISTS: (409, "invalid_request_error", "already_exists"),
    _Code.RESOURCE_EXHAUSTED: (429, "rate_limit_error", "rate_limit_exceeded"),
    _Code.UNAVAILABLE: (503, "server_error", "unavailable"),
    _Code.DEADLINE_EXCEEDED: (504, "server_error", "deadline_exceeded"),
}
_INTERNAL = (500, "server_error", None)


class BodyTooLarge(InvalidRequest):
    """A request body with more bytes than the server takes."""


class NotJson(InvalidRequest):
    """A request body that does not say that it is JSON: a web page may not send that unasked."""


class BodyTooSlow(InvalidRequest):
    """A request body that does not come to its end."""


_OWN_STATUSES: dict[type[InvalidRequest], int] = {
    BodyTooLarge: 413,
    NotJson: 415,
    BodyTooSlow: 408,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """How a caller is told of an error."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def failure_of(error: Exception) -> Failure:
    """How a caller is told; an unexpected error is logged, not told."""
    status, kind, code = _STATUSES.get(code_of(error), _INTERNAL)
    text = str(error)
    if status == 500:
        logger.error("a call failed", exc_info=error)
        text = "internal error; the server's log has the details"
    param = None
    if isinstance(error, InvalidRequest):
        param = error.field
        status = _OWN_STATUSES.get(type(error), status)
    elif isinstance(error, UnknownModel):
        param, code = "model", "model_not_found"
    elif code in ("not_possible", "not_implemented"):
        # They begin with the field that they are about, where there is one.
        head, colon, _ = text.partition(": ")
        param = head if colon and head.isidentifier() else None
    body = {"error": {"message": text, "type": kind, "param": param, "code": code}}
    return Failure(status, body, _headers_of(error))


def _headers_of(error: Exception) -> dict[str, str]:
    if isinstance(error, Unauthenticated):
        return {"www-authenticate": "Bearer"}
    if isinstance(error, Overloaded):
        if error.retry_seconds is None:
            return {"x-should-retry": "false"}
        return {
            "retry-after": str(math.ceil(error.retry_seconds)),
            "retry-after-ms": str(math.ceil(error.retry_seconds * 1000)),
        }
    return {}

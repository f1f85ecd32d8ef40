"""What went wrong with a call, read from its gRPC status into errors of the Python API."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from treeserve.client.sections import SECTIONS
from treeserve.errors import InvalidRequest, TreeserveError

_STATUS_DETAILS = "grpc-status-details-bin"
_DetailT = TypeVar("_DetailT", bound=Message)


class RemoteError(TreeserveError):
    """A call that failed at the server, or never reached it.

    Attributes:
        code: Name of the gRPC status, such as "UNAVAILABLE".
        details: What the server said.
        retry_seconds: After how many seconds the server said to try again; None: it did not say.
    """

    def __init__(self, code: str, details: str, retry_seconds: float | None = None) -> None:
        TreeserveError.__init__(self, f"{code}: {details}")
        self.code = code
        self.details = details
        self.retry_seconds = retry_seconds


class RejectedRequest(RemoteError, InvalidRequest):
    """A call that the server can never serve as it stands; caught as InvalidRequest too.

    Attributes:
        field: Name of the offending field in the Python API.
        description: What would be right.
    """

    def __init__(self, code: str, field: str, description: str) -> None:
        RemoteError.__init__(self, code, description)
        self.args = (f"{field}: {description}",)
        self.field = field
        self.description = description


def read_error(
    code: grpc.StatusCode, details: str | None, metadata: Iterable[Any] | None
) -> RemoteError:
    """The error that a call's final status stands for."""
    status = _status(metadata)
    bad_request = next(_details(status, error_details_pb2.BadRequest), None)
    if bad_request is not None and bad_request.field_violations:
        violation = bad_request.field_violations[0]
        return RejectedRequest(code.name, _field_name(violation.field), violation.description)
    retry = next(_details(status, error_details_pb2.RetryInfo), None)
    retry_seconds = None if retry is None else retry.retry_delay.ToNanoseconds() / 1e9
    return RemoteError(code.name, details or "no details", retry_seconds)


def _status(metadata: Iterable[Any] | None) -> status_pb2.Status:
    """Empty where there is none, or where it is no treeserve that answered."""
    status = status_pb2.Status()
    for key, value in metadata or ():
        if key == _STATUS_DETAILS:
            try:
                status.MergeFromString(value)
            except DecodeError:
                return status_pb2.Status()
    return status


def _details(status: status_pb2.Status, kind: type[_DetailT]) -> Iterator[_DetailT]:
    for entry in status.details:
        detail = kind()
        if entry.Unpack(detail):
            yield detail


def _field_name(path: str) -> str:
    """The name in the Python API of a field of the messages."""
    for section in SECTIONS:
        path = path.replace(f"params.{section}.", "")
    path = path.replace("params.guidance.", "guidance.").replace("chat.messages[", "messages[")
    path = path.replace("choice.choices[", "choice[")
    if path == "parent.num_tokens":
        return "at"
    if path.startswith("tree") and path.endswith(".text"):
        return f"{path.removesuffix('.text')}.prompt"
    return path

"""Parses request bytes, so that a malformed message is an error that names its field."""

from functools import cache
from typing import TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from treeserve.errors import InvalidRequest

MessageT = TypeVar("MessageT", bound=Message)


def parse(message_class: type[MessageT], data: bytes) -> MessageT:
    """Parse a request.

    gRPC would answer bytes that do not parse with INTERNAL and no word of the cause.

    Raises:
        InvalidRequest: With the path of the string that is not UTF-8, or "request".
    """
    try:
        return message_class.FromString(data)
    except DecodeError:
        raise _cause(message_class, data) from None


def _cause(message_class: type[Message], data: bytes) -> InvalidRequest:
    descriptor = message_class.DESCRIPTOR
    twin = _bytes_twin(descriptor.file.serialized_pb, descriptor.full_name)
    try:
        message = twin.FromString(data)
    except DecodeError:
        return InvalidRequest("request", f"not a {descriptor.full_name}, or nested too deeply")
    field, offset = _find_invalid_text(message, "") or ("request", 0)
    return InvalidRequest(field, f"must be valid UTF-8; byte {offset} is not")


@cache
def _bytes_twin(serialized_file: bytes, full_name: str) -> type[Message]:
    """The same message with every string as bytes, which any input fits."""
    file = descriptor_pb2.FileDescriptorProto.FromString(serialized_file)
    for message_type in file.message_type:
        for field in message_type.field:
            if field.type == descriptor_pb2.FieldDescriptorProto.TYPE_STRING:
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name))


def _find_invalid_text(message: Message, prefix: str) -> tuple[str, int] | None:
    """Path of the first string that is not UTF-8, and the offset of its first such byte."""
    for field, value in message.ListFields():
        entries = list(value) if field.is_repeated else [value]
        for index, entry in enumerate(entries):
            path = f"{prefix}{field.name}" + (f"[{index}]" if field.is_repeated else "")
            found = _check_entry(field, entry, path)
            if found is not None:
                return found
    return None


def _check_entry(field: FieldDescriptor, entry: object, path: str) -> tuple[str, int] | None:
    if isinstance(entry, Message):
        return _find_invalid_text(entry, f"{path}.")
    if field.type == FieldDescriptor.TYPE_BYTES and isinstance(entry, bytes):
        try:
            entry.decode()
        except UnicodeDecodeError as error:
            return path, error.start
    return None

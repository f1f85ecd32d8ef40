from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Prefix(_message.Message):
    __slots__ = ("text", "token_ids")
    class TokenIds(_message.Message):
        __slots__ = ("ids",)
        IDS_FIELD_NUMBER: _ClassVar[int]
        ids: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    text: str
    token_ids: Prefix.TokenIds
    def __init__(self, text: _Optional[str] = ..., token_ids: _Optional[_Union[Prefix.TokenIds, _Mapping]] = ...) -> None: ...

class WarmRequest(_message.Message):
    __slots__ = ("prefix",)
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    prefix: Prefix
    def __init__(self, prefix: _Optional[_Union[Prefix, _Mapping]] = ...) -> None: ...

class WarmResponse(_message.Message):
    __slots__ = ("tokens", "cached_tokens", "shared_in_flight_tokens", "computed_tokens")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SHARED_IN_FLIGHT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    cached_tokens: int
    shared_in_flight_tokens: int
    computed_tokens: int
    def __init__(self, tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., shared_in_flight_tokens: _Optional[int] = ..., computed_tokens: _Optional[int] = ...) -> None: ...

class RetainRequest(_message.Message):
    __slots__ = ("prefix", "weight", "ttl_seconds")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    prefix: Prefix
    weight: float
    ttl_seconds: float
    def __init__(self, prefix: _Optional[_Union[Prefix, _Mapping]] = ..., weight: _Optional[float] = ..., ttl_seconds: _Optional[float] = ...) -> None: ...

class RetainResponse(_message.Message):
    __slots__ = ("retained", "budget_left_tokens")
    RETAINED_FIELD_NUMBER: _ClassVar[int]
    BUDGET_LEFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    retained: RetainedPrefix
    budget_left_tokens: int
    def __init__(self, retained: _Optional[_Union[RetainedPrefix, _Mapping]] = ..., budget_left_tokens: _Optional[int] = ...) -> None: ...

class RetainedPrefix(_message.Message):
    __slots__ = ("id", "tokens", "held_tokens", "weight", "seconds_left")
    ID_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    HELD_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    id: int
    tokens: int
    held_tokens: int
    weight: float
    seconds_left: float
    def __init__(self, id: _Optional[int] = ..., tokens: _Optional[int] = ..., held_tokens: _Optional[int] = ..., weight: _Optional[float] = ..., seconds_left: _Optional[float] = ...) -> None: ...

class ListRetainedRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRetainedResponse(_message.Message):
    __slots__ = ("retained", "budget_left_tokens")
    RETAINED_FIELD_NUMBER: _ClassVar[int]
    BUDGET_LEFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    retained: _containers.RepeatedCompositeFieldContainer[RetainedPrefix]
    budget_left_tokens: int
    def __init__(self, retained: _Optional[_Iterable[_Union[RetainedPrefix, _Mapping]]] = ..., budget_left_tokens: _Optional[int] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SaveRequest(_message.Message):
    __slots__ = ("name", "prefix", "overwrite")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    name: str
    prefix: Prefix
    overwrite: bool
    def __init__(self, name: _Optional[str] = ..., prefix: _Optional[_Union[Prefix, _Mapping]] = ..., overwrite: _Optional[bool] = ...) -> None: ...

class SaveResponse(_message.Message):
    __slots__ = ("saved", "computed_tokens")
    SAVED_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    saved: SavedPrefix
    computed_tokens: int
    def __init__(self, saved: _Optional[_Union[SavedPrefix, _Mapping]] = ..., computed_tokens: _Optional[int] = ...) -> None: ...

class SavedPrefix(_message.Message):
    __slots__ = ("name", "bytes", "saved_at_seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SAVED_AT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    bytes: int
    saved_at_seconds: float
    def __init__(self, name: _Optional[str] = ..., bytes: _Optional[int] = ..., saved_at_seconds: _Optional[float] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ("tokens", "restored_tokens")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESTORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    restored_tokens: int
    def __init__(self, tokens: _Optional[int] = ..., restored_tokens: _Optional[int] = ...) -> None: ...

class ListSavedRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSavedResponse(_message.Message):
    __slots__ = ("saved", "bytes_left")
    SAVED_FIELD_NUMBER: _ClassVar[int]
    BYTES_LEFT_FIELD_NUMBER: _ClassVar[int]
    saved: _containers.RepeatedCompositeFieldContainer[SavedPrefix]
    bytes_left: int
    def __init__(self, saved: _Optional[_Iterable[_Union[SavedPrefix, _Mapping]]] = ..., bytes_left: _Optional[int] = ...) -> None: ...

class DeleteSavedRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteSavedResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

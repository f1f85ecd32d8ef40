from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PutSchemaRequest(_message.Message):
    __slots__ = ("pml", "overwrite")
    PML_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    pml: str
    overwrite: bool
    def __init__(self, pml: _Optional[str] = ..., overwrite: _Optional[bool] = ...) -> None: ...

class PutSchemaResponse(_message.Message):
    __slots__ = ("schema", "existed")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    schema: SchemaSummary
    existed: bool
    def __init__(self, schema: _Optional[_Union[SchemaSummary, _Mapping]] = ..., existed: _Optional[bool] = ...) -> None: ...

class SchemaSummary(_message.Message):
    __slots__ = ("name", "schema_id", "module_tokens", "positions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_ID_FIELD_NUMBER: _ClassVar[int]
    MODULE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    schema_id: str
    module_tokens: int
    positions: int
    def __init__(self, name: _Optional[str] = ..., schema_id: _Optional[str] = ..., module_tokens: _Optional[int] = ..., positions: _Optional[int] = ...) -> None: ...

class ListSchemasRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSchemasResponse(_message.Message):
    __slots__ = ("schemas",)
    SCHEMAS_FIELD_NUMBER: _ClassVar[int]
    schemas: _containers.RepeatedCompositeFieldContainer[SchemaSummary]
    def __init__(self, schemas: _Optional[_Iterable[_Union[SchemaSummary, _Mapping]]] = ...) -> None: ...

class ShowSchemaRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ShowSchemaResponse(_message.Message):
    __slots__ = ("schema", "modules")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    MODULES_FIELD_NUMBER: _ClassVar[int]
    schema: SchemaSummary
    modules: _containers.RepeatedCompositeFieldContainer[ModuleLayout]
    def __init__(self, schema: _Optional[_Union[SchemaSummary, _Mapping]] = ..., modules: _Optional[_Iterable[_Union[ModuleLayout, _Mapping]]] = ...) -> None: ...

class ModuleLayout(_message.Message):
    __slots__ = ("name", "tokens", "first_position", "last_position", "members")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    LAST_POSITION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    tokens: int
    first_position: int
    last_position: int
    members: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., tokens: _Optional[int] = ..., first_position: _Optional[int] = ..., last_position: _Optional[int] = ..., members: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteSchemaRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteSchemaResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WarmSchemaRequest(_message.Message):
    __slots__ = ("name", "modules")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODULES_FIELD_NUMBER: _ClassVar[int]
    name: str
    modules: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., modules: _Optional[_Iterable[str]] = ...) -> None: ...

class WarmSchemaResponse(_message.Message):
    __slots__ = ("tokens", "encoded_tokens", "cached_tokens")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ENCODED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    encoded_tokens: int
    cached_tokens: int
    def __init__(self, tokens: _Optional[int] = ..., encoded_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ...) -> None: ...

class SaveSchemaRequest(_message.Message):
    __slots__ = ("name", "overwrite")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    name: str
    overwrite: bool
    def __init__(self, name: _Optional[str] = ..., overwrite: _Optional[bool] = ...) -> None: ...

class SaveSchemaResponse(_message.Message):
    __slots__ = ("saved", "tokens", "encoded_tokens")
    SAVED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ENCODED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    saved: SavedSchema
    tokens: int
    encoded_tokens: int
    def __init__(self, saved: _Optional[_Union[SavedSchema, _Mapping]] = ..., tokens: _Optional[int] = ..., encoded_tokens: _Optional[int] = ...) -> None: ...

class SavedSchema(_message.Message):
    __slots__ = ("name", "bytes", "saved_at_seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SAVED_AT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    bytes: int
    saved_at_seconds: float
    def __init__(self, name: _Optional[str] = ..., bytes: _Optional[int] = ..., saved_at_seconds: _Optional[float] = ...) -> None: ...

class RestoreSchemaRequest(_message.Message):
    __slots__ = ("name", "overwrite")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    name: str
    overwrite: bool
    def __init__(self, name: _Optional[str] = ..., overwrite: _Optional[bool] = ...) -> None: ...

class RestoreSchemaResponse(_message.Message):
    __slots__ = ("schema", "tokens", "restored_tokens")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESTORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    schema: SchemaSummary
    tokens: int
    restored_tokens: int
    def __init__(self, schema: _Optional[_Union[SchemaSummary, _Mapping]] = ..., tokens: _Optional[int] = ..., restored_tokens: _Optional[int] = ...) -> None: ...

class ListSavedSchemasRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSavedSchemasResponse(_message.Message):
    __slots__ = ("saved", "bytes_left")
    SAVED_FIELD_NUMBER: _ClassVar[int]
    BYTES_LEFT_FIELD_NUMBER: _ClassVar[int]
    saved: _containers.RepeatedCompositeFieldContainer[SavedSchema]
    bytes_left: int
    def __init__(self, saved: _Optional[_Iterable[_Union[SavedSchema, _Mapping]]] = ..., bytes_left: _Optional[int] = ...) -> None: ...

class DeleteSavedSchemaRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteSavedSchemaResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

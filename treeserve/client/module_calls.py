"""The calls of ModuleService, what they return, and prompts that import modules as messages."""

from collections.abc import Sequence
from dataclasses import dataclass

from treeserve.client.call import Call
from treeserve.client.write import write_fields
from treeserve.errors import InvalidRequest
from treeserve.module_prompt import ImportingPrompt, ModuleFields, ModuleImport
from treeserve.pb import generation_pb2
from treeserve.pb import module_pb2 as pb


@dataclass(frozen=True, slots=True)
class SchemaSummary:
    """A schema that the server keeps."""

    name: str
    schema_id: str
    """SHA-256 of what it says, the tokenizer and the model."""
    num_module_tokens: int
    """Of all modules together."""
    num_positions: int
    """That it takes."""


@dataclass(frozen=True, slots=True)
class PutSchema:
    """What was put."""

    schema: SchemaSummary
    existed: bool
    """Whether the caller had this very schema before."""


@dataclass(frozen=True, slots=True)
class ModuleLayout:
    """Where a module or a scaffold stands."""

    name: str
    """Empty: the text of the schema itself."""
    num_tokens: int
    first_position: int
    last_position: int
    members: tuple[str, ...] = ()
    """Of a scaffold."""


@dataclass(frozen=True, slots=True)
class SchemaLayout:
    """A schema and what is in it, in order."""

    schema: SchemaSummary
    modules: tuple[ModuleLayout, ...]


@dataclass(frozen=True, slots=True)
class WarmedSchema:
    """num_tokens = num_encoded_tokens + num_cached_tokens."""

    num_tokens: int
    num_encoded_tokens: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class SavedSchema:
    """A schema and its modules on the server's disk."""

    name: str
    num_bytes: int
    saved_at: float
    """Seconds since 1970-01-01 UTC."""
    num_tokens: int | None = None
    """Of save(): of all modules together."""
    num_encoded_tokens: int | None = None
    """Of save(): that had to be encoded for it."""


@dataclass(frozen=True, slots=True)
class SavedSchemas:
    """Saved schemas of the caller's, by name, and what is left for more."""

    schemas: tuple[SavedSchema, ...]
    num_bytes_left: int
    """In all namespaces together, for prefixes too."""


@dataclass(frozen=True, slots=True)
class RestoredSchema:
    """A schema that is put again, with its modules."""

    schema: SchemaSummary
    num_tokens: int
    num_restored_tokens: int
    """Of these, the ones that the server did not hold."""


def put_schema(pml: str, overwrite: bool) -> Call[PutSchema]:
    """Keep a schema; made twice, the second finds it."""
    request = pb.PutSchemaRequest(overwrite=overwrite)
    write_fields(request, pml=pml)
    return Call(
        "module",
        "PutSchema",
        request,
        lambda response: PutSchema(_read_summary(response.schema), response.existed),
    )


def list_schemas() -> Call[tuple[SchemaSummary, ...]]:
    """The caller's schemas."""
    return Call(
        "module",
        "ListSchemas",
        pb.ListSchemasRequest(),
        lambda response: tuple(_read_summary(entry) for entry in response.schemas),
    )


def show_schema(name: str) -> Call[SchemaLayout]:
    """A schema's layout."""
    request = pb.ShowSchemaRequest()
    write_fields(request, name=name)
    return Call("module", "ShowSchema", request, _read_layout)


def delete_schema(name: str) -> Call[None]:
    """Delete a schema; made twice, the second would find none."""
    request = pb.DeleteSchemaRequest()
    write_fields(request, name=name)
    return Call("module", "DeleteSchema", request, lambda response: None, repeats_lost=False)


def warm_schema(name: str, modules: Sequence[str]) -> Call[WarmedSchema]:
    """Encode modules now."""
    request = pb.WarmSchemaRequest(modules=modules)
    write_fields(request, name=name)
    return Call(
        "module",
        "WarmSchema",
        request,
        lambda response: WarmedSchema(
            response.tokens, response.encoded_tokens, response.cached_tokens
        ),
    )


def save_schema(name: str, overwrite: bool) -> Call[SavedSchema]:
    """Write a schema to the server's disk; without `overwrite`, the second of two would fail."""
    request = pb.SaveSchemaRequest(overwrite=overwrite)
    write_fields(request, name=name)
    return Call(
        "module",
        "SaveSchema",
        request,
        lambda response: _read_saved(response.saved, response.tokens, response.encoded_tokens),
        repeats_lost=overwrite,
    )


def restore_schema(name: str, overwrite: bool) -> Call[RestoredSchema]:
    """Put a saved schema and its modules; made twice, the second finds them."""
    request = pb.RestoreSchemaRequest(overwrite=overwrite)
    write_fields(request, name=name)
    return Call(
        "module",
        "RestoreSchema",
        request,
        lambda response: RestoredSchema(
            _read_summary(response.schema), response.tokens, response.restored_tokens
        ),
    )


def list_saved_schemas() -> Call[SavedSchemas]:
    """The caller's saved schemas."""
    return Call(
        "module",
        "ListSavedSchemas",
        pb.ListSavedSchemasRequest(),
        lambda response: SavedSchemas(
            tuple(_read_saved(entry) for entry in response.saved), response.bytes_left
        ),
    )


def delete_saved_schema(name: str) -> Call[None]:
    """Delete a saved schema; made twice, the second would find none."""
    request = pb.DeleteSavedSchemaRequest()
    write_fields(request, name=name)
    return Call("module", "DeleteSavedSchema", request, lambda response: None, repeats_lost=False)


def write_importing(message: generation_pb2.ModulePrompt, asked: ImportingPrompt) -> None:
    """Fill a message with a prompt.

    Raises:
        InvalidRequest: A text is not valid Unicode.
    """
    try:
        message.exact = asked.exact
        if isinstance(asked.prompt, str):
            message.pml = asked.prompt
        else:
            _write_fields(message.fields, asked.prompt)
    except (TypeError, ValueError) as error:
        raise InvalidRequest("modules", f"cannot be sent: {error}") from None


def _write_fields(message: generation_pb2.ModuleFields, fields: ModuleFields) -> None:
    message.schema = fields.schema
    message.arguments.update(fields.arguments)
    message.imports.extend(_import(entry) for entry in fields.imports)
    for turn in fields.messages:
        message.chat.messages.add(role=turn.role, content=turn.content)
    if fields.text:
        message.text = fields.text


def _import(entry: ModuleImport) -> generation_pb2.ModuleImport:
    return generation_pb2.ModuleImport(
        name=entry.name,
        arguments=dict(entry.arguments),
        imports=[_import(inner) for inner in entry.imports],
    )


def _read_summary(entry: pb.SchemaSummary) -> SchemaSummary:
    return SchemaSummary(entry.name, entry.schema_id, entry.module_tokens, entry.positions)


def _read_saved(
    entry: pb.SavedSchema, num_tokens: int | None = None, num_encoded_tokens: int | None = None
) -> SavedSchema:
    return SavedSchema(
        entry.name, entry.bytes, entry.saved_at_seconds, num_tokens, num_encoded_tokens
    )


def _read_layout(response: pb.ShowSchemaResponse) -> SchemaLayout:
    return SchemaLayout(
        _read_summary(response.schema),
        tuple(
            ModuleLayout(
                entry.name,
                entry.tokens,
                entry.first_position,
                entry.last_position,
                tuple(entry.members),
            )
            for entry in response.modules
        ),
    )

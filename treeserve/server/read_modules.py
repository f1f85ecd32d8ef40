"""Reads prompts that import modules from their messages."""

from treeserve.errors import InvalidRequest
from treeserve.module_prompt import ImportingPrompt, ModuleFields, ModuleImport
from treeserve.pb import generation_pb2 as pb
from treeserve.types import Message

MOST_LEVELS = 32
"""Of imports within imports, as of tags in PML."""


def read_importing(message: pb.ModulePrompt) -> ImportingPrompt:
    """The prompt, as PML or in fields; it has not met its schema.

    Raises:
        InvalidRequest: There is neither, or imports are nested too deep.
    """
    match message.WhichOneof("prompt"):
        case "pml":
            return ImportingPrompt(message.pml, message.exact)
        case "fields":
            return ImportingPrompt(_read_fields(message.fields), message.exact)
    raise InvalidRequest("modules", "must be given, as pml or as fields")


def _read_fields(fields: pb.ModuleFields) -> ModuleFields:
    if not fields.schema:
        raise InvalidRequest("modules.fields.schema", "must be given, a schema's name")
    return ModuleFields(
        schema=fields.schema,
        imports=tuple(_read_import(entry, 1) for entry in fields.imports),
        text=fields.text,
        messages=tuple(Message(turn.role, turn.content) for turn in fields.chat.messages),
        arguments=dict(fields.arguments),
    )


def _read_import(entry: pb.ModuleImport, depth: int) -> ModuleImport:
    if depth > MOST_LEVELS:
        raise InvalidRequest(
            "modules.fields.imports", f"are nested deeper than {MOST_LEVELS} levels"
        )
    nested = tuple(_read_import(inner, depth + 1) for inner in entry.imports)
    return ModuleImport(entry.name, dict(entry.arguments), nested)

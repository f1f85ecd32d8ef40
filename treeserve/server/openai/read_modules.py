"""Prompts that import modules, read from the bodies of requests."""

from treeserve.errors import InvalidRequest
from treeserve.module_prompt import ImportingPrompt, ModuleFields, ModuleImport
from treeserve.server.openai.schemas import Import, ImportedModules
from treeserve.server.read_modules import MOST_LEVELS
from treeserve.types import Message

_FIELDS = ("imports", "arguments", "text", "messages")
"""What PML says itself, beside the schema."""


def read_modules(body: ImportedModules) -> ImportingPrompt:
    """The prompt, as PML or in fields; it has not met its schema.

    Raises:
        InvalidRequest: There is neither, or both; names the field.
    """
    exact = bool(body.exact)
    if body.pml is not None:
        given = [name for name in _FIELDS if getattr(body, name) is not None]
        if body.schema_ is not None:
            given.insert(0, "schema")
        if given:
            raise InvalidRequest(f"modules.{given[0]}", "must not be given with pml, which says it")
        return ImportingPrompt(body.pml, exact)
    if not body.schema_:
        raise InvalidRequest("modules.schema", "must be given, a schema's name; or pml")
    if body.text is not None and body.messages is not None:
        raise InvalidRequest("modules.text", "must not be given together with messages")
    fields = ModuleFields(
        schema=body.schema_,
        imports=_read_imports(body.imports, 1),
        text=body.text or "",
        messages=tuple(Message(turn.role, turn.content) for turn in body.messages or ()),
        arguments=body.arguments or {},
    )
    return ImportingPrompt(fields, exact)


def _read_imports(entries: list[Import] | None, depth: int) -> tuple[ModuleImport, ...]:
    if entries and depth > MOST_LEVELS:
        raise InvalidRequest("modules.imports", f"are nested deeper than {MOST_LEVELS} levels")
    return tuple(
        ModuleImport(entry.name, entry.arguments or {}, _read_imports(entry.imports, depth + 1))
        for entry in entries or ()
    )

"""The prompt that imports modules, as callers ask for it: by PML or in fields."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from treeserve.types import Message


@dataclass(frozen=True, slots=True)
class ModuleImport:
    """A module that a prompt imports."""

    name: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Of the module's own parameters, all of them."""
    imports: tuple["ModuleImport", ...] = ()
    """Of modules that lie in it."""


@dataclass(frozen=True, slots=True)
class ModuleFields:
    """What a `<prompt>` says, in fields."""

    schema: str
    """The schema's name."""
    imports: tuple[ModuleImport, ...] = ()
    text: str = ""
    """The prompt's own, after the imports."""
    messages: tuple[Message, ...] = ()
    """In place of a text, where the schema has turns."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Of parameters that lie in no module."""


@dataclass(frozen=True, slots=True)
class ImportingPrompt:
    """A prompt whose schema is known by name."""

    prompt: str | ModuleFields
    """A `<prompt>` in PML, or the same in fields."""
    exact: bool = False
    """Compute the same text as one plain prompt, without approximation."""

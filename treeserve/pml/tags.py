"""The syntax tree of PML: what schemas and prompts say, without how it is written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from treeserve.pml.place import NOWHERE, Place

ROLES = ("system", "user", "assistant")
RESERVED_NAMES = frozenset({"schema", "module", "union", "parameter", "scaffold", "prompt", *ROLES})
"""No module is called so, for a prompt imports a module by a tag of its name."""
RESERVED_ARGUMENTS = frozenset({"schema", "max_tokens"})
"""No parameter is called so: they are attributes of a prompt."""


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text; nothing in it stands for anything else than itself."""

    text: str
    place: Place = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ParameterTag:
    """Room for an argument."""

    name: str
    length: int
    """Positions, and so tokens of an argument, at most."""
    place: Place = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ModuleTag:
    """A piece of text that prompts import by name."""

    name: str
    content: tuple["Node", ...]
    cache: bool = True
    """Whether its own text is encoded alone and kept, or belongs to each prompt's own tokens."""
    max_tokens: int | None = None
    """Its own text may have at most so many; None is no limit."""
    place: Place = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class UnionTag:
    """Modules of which a prompt imports at most one; they start at the same position."""

    members: tuple[ModuleTag, ...]
    place: Place = field(default=NOWHERE, compare=False, repr=False)


Node: TypeAlias = Text | ParameterTag | ModuleTag | UnionTag


@dataclass(frozen=True, slots=True)
class TurnTag:
    """A turn of a chat, which the model's own template renders."""

    role: str
    """One of ROLES."""
    content: tuple[Node, ...]
    place: Place = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ScaffoldTag:
    """Modules that are encoded together too, for prompts that import all of them."""

    name: str
    modules: tuple[str, ...]
    place: Place = field(default=NOWHERE, compare=False, repr=False)


SchemaNode: TypeAlias = Node | TurnTag | ScaffoldTag


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema: what prompts may import, in the order of its positions.

    Two are equal where they say the same, wherever that is written.
    """

    name: str
    content: tuple[SchemaNode, ...]
    place: Place = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ImportTag:
    """A module that a prompt imports."""

    name: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Of the module's own parameters, all of them."""
    imports: tuple["ImportTag", ...] = ()
    """Of modules that lie in it."""
    place: Place = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class PromptTag:
    """A prompt: imports first, then text of its own."""

    schema: str
    """The schema's name."""
    imports: tuple[ImportTag, ...] = ()
    content: tuple[Text | TurnTag, ...] = ()
    """Texts, or turns where the schema has turns."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Of parameters that lie in no module."""
    max_tokens: int | None = None
    """Tokens to draw, at most; None leaves it to whoever asks."""
    place: Place = field(default=NOWHERE, compare=False, repr=False)


def join_texts(nodes: Iterable[SchemaNode]) -> tuple[SchemaNode, ...]:
    """With neighbouring texts as one, and without empty ones."""
    joined: list[SchemaNode] = []
    for node in nodes:
        last = joined[-1] if joined else None
        if isinstance(node, Text) and isinstance(last, Text):
            joined[-1] = Text(last.text + node.text, last.place)
        elif not isinstance(node, Text) or node.text:
            joined.append(node)
    return tuple(joined)


def is_space(node: SchemaNode) -> bool:
    """Whether it is text without a visible character."""
    return isinstance(node, Text) and not node.text.strip()


def without_space_beside_turns(nodes: list[SchemaNode]) -> list[SchemaNode]:
    """Where there are turns, white space between them means nothing."""
    if not any(isinstance(node, TurnTag) for node in nodes):
        return nodes
    return [node for node in nodes if not is_space(node)]

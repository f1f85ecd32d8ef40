"""Builds schemas piece by piece, for programs that generate them."""

from collections.abc import Sequence

from treeserve.pml.check import check_schema
from treeserve.pml.tags import (
    ModuleTag,
    Node,
    ParameterTag,
    ScaffoldTag,
    Schema,
    SchemaNode,
    Text,
    TurnTag,
    UnionTag,
    join_texts,
)


class ContentBuilder:
    """Builds what stands in a schema, a module or a turn, in order.

    text() and parameter() return the builder itself, so that calls can be chained.
    """

    def __init__(self) -> None:
        self._parts: list[Text | ParameterTag | ModuleBuilder | UnionBuilder] = []

    def text(self, text: str) -> "ContentBuilder":
        """Add text, kept as it is; line ends become \\n, as in every file."""
        self._parts.append(Text(text.replace("\r\n", "\n").replace("\r", "\n")))
        return self

    def parameter(self, name: str, length: int) -> "ContentBuilder":
        """Add room for an argument of at most `length` tokens."""
        self._parts.append(ParameterTag(name, length))
        return self

    def module(
        self, name: str, *, cache: bool = True, max_tokens: int | None = None
    ) -> "ModuleBuilder":
        """Add a module; returns the builder of its content."""
        module = ModuleBuilder(name, cache=cache, max_tokens=max_tokens)
        self._parts.append(module)
        return module

    def union(self) -> "UnionBuilder":
        """Add a union; returns the builder of its members."""
        union = UnionBuilder()
        self._parts.append(union)
        return union

    def content(self) -> tuple[Node, ...]:
        """What has been added so far."""
        nodes = [part if isinstance(part, _TAGS) else part.build() for part in self._parts]
        joined = join_texts(nodes)
        return tuple(node for node in joined if not isinstance(node, TurnTag | ScaffoldTag))


class ModuleBuilder(ContentBuilder):
    """Builds a module."""

    def __init__(self, name: str, *, cache: bool = True, max_tokens: int | None = None) -> None:
        super().__init__()
        self._name = name
        self._cache = cache
        self._max_tokens = max_tokens

    def build(self) -> ModuleTag:
        """The module as it is so far."""
        return ModuleTag(self._name, self.content(), self._cache, self._max_tokens)


class UnionBuilder:
    """Builds a union."""

    def __init__(self) -> None:
        self._members: list[ModuleBuilder] = []

    def module(
        self, name: str, *, cache: bool = True, max_tokens: int | None = None
    ) -> ModuleBuilder:
        """Add a member; returns the builder of its content."""
        member = ModuleBuilder(name, cache=cache, max_tokens=max_tokens)
        self._members.append(member)
        return member

    def build(self) -> UnionTag:
        """The union as it is so far."""
        return UnionTag(tuple(member.build() for member in self._members))


class SchemaBuilder(ContentBuilder):
    """Builds a schema.

    Turns and scaffolds belong to the schema itself; a schema with turns has everything else in
    them.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._turns: list[tuple[str, ContentBuilder]] = []
        self._scaffolds: list[ScaffoldTag] = []

    def turn(self, role: str) -> ContentBuilder:
        """Add a turn of a chat, "system", "user" or "assistant"; returns its content's builder."""
        content = ContentBuilder()
        self._turns.append((role, content))
        return content

    def scaffold(self, name: str, modules: Sequence[str]) -> "SchemaBuilder":
        """Encode these modules together too, for prompts that import all of them."""
        self._scaffolds.append(ScaffoldTag(name, tuple(modules)))
        return self

    def build(self) -> Schema:
        """The schema.

        Raises:
            PmlError: Says what is wrong with it.
        """
        turns = [TurnTag(role, content.content()) for role, content in self._turns]
        nodes: list[SchemaNode] = [*self.content(), *turns, *self._scaffolds]
        schema = Schema(self._name, tuple(nodes))
        check_schema(schema)
        return schema


_TAGS = (Text, ParameterTag)

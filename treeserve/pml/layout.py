"""The layout of a schema: which tokens and parameters stand at which positions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from treeserve.pml.place import Place, PmlError
from treeserve.pml.tags import ModuleTag, Node, ParameterTag, Text, UnionTag
from treeserve.pml.turns import TemplateText

LaidOutNode: TypeAlias = Node | TemplateText
Encoder: TypeAlias = Callable[[Text | TemplateText], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Run:
    """Text between tags, tokenised by itself."""

    start: int
    token_ids: tuple[int, ...]
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class PlacedParameter:
    """Positions that an argument's tokens may take; nothing stands there until it comes."""

    name: str
    start: int
    length: int
    place: Place

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class PlacedModule:
    """A module from its first position to behind its last, with all that lies in it."""

    name: str
    """Empty: what belongs to no module, which every prompt imports."""
    start: int
    end: int
    cache: bool
    content: tuple["PlacedNode", ...]
    place: Place

    @property
    def runs(self) -> list[Run]:
        """Its own text, in order."""
        return [node for node in self.content if isinstance(node, Run)]

    @property
    def parameters(self) -> list[PlacedParameter]:
        """Its own."""
        return [node for node in self.content if isinstance(node, PlacedParameter)]

    @property
    def num_tokens(self) -> int:
        """Of its own text."""
        return sum(len(run.token_ids) for run in self.runs)


@dataclass(frozen=True, slots=True)
class PlacedUnion:
    """Modules with the same start; as long as the longest."""

    start: int
    end: int
    members: tuple[PlacedModule, ...]
    place: Place


PlacedNode: TypeAlias = Run | PlacedParameter | PlacedModule | PlacedUnion


def lay_out(
    content: Sequence[LaidOutNode], beginning: Sequence[int], encode: Encoder, place: Place
) -> PlacedModule:
    """Give every token and every parameter its positions, from 0 on.

    Args:
        content: Of the schema.
        beginning: Tokens before all text, such as the model's begin-of-text token.
        encode: Token ids of one text by itself.
        place: Of the schema.

    Raises:
        PmlError: A module has more tokens than its max_tokens; or what `encode` raises.
    """
    first = [Run(0, tuple(beginning), "")] if beginning else []
    placed = _place_nodes(content, len(beginning), encode)
    return _placed_module("", [*first, *placed], 0, cache=True, place=place)


def modules_within(module: PlacedModule) -> Iterator[PlacedModule]:
    """The modules that lie right in it, those of its unions among them, in schema order."""
    for node in module.content:
        if isinstance(node, PlacedModule):
            yield node
        elif isinstance(node, PlacedUnion):
            yield from node.members


def walk_modules(root: PlacedModule) -> Iterator[PlacedModule]:
    """The root and all modules beneath it, in schema order."""
    yield root
    for module in modules_within(root):
        yield from walk_modules(module)


def _place_nodes(content: Sequence[LaidOutNode], start: int, encode: Encoder) -> list[PlacedNode]:
    placed: list[PlacedNode] = []
    for node in content:
        node_placed = _place_node(node, start, encode)
        if node_placed is not None:
            placed.append(node_placed)
            start = node_placed.end
    return placed


def _place_node(node: LaidOutNode, start: int, encode: Encoder) -> PlacedNode | None:
    match node:
        case Text() | TemplateText():
            token_ids = tuple(encode(node))
            return Run(start, token_ids, node.text) if token_ids else None
        case ParameterTag():
            return PlacedParameter(node.name, start, node.length, node.place)
        case ModuleTag():
            return _place_module(node, start, encode)
        case UnionTag():
            members = tuple(_place_module(member, start, encode) for member in node.members)
            return PlacedUnion(start, max(m.end for m in members), members, node.place)


def _place_module(module: ModuleTag, start: int, encode: Encoder) -> PlacedModule:
    content = _place_nodes(module.content, start, encode)
    placed = _placed_module(module.name, content, start, cache=module.cache, place=module.place)
    if module.max_tokens is not None and placed.num_tokens > module.max_tokens:
        raise PmlError(
            module.place,
            f"module {module.name!r} has {placed.num_tokens} tokens of its own; expected at most "
            f"{module.max_tokens}, its max_tokens",
        )
    return placed


def _placed_module(
    name: str, content: list[PlacedNode], start: int, *, cache: bool, place: Place
) -> PlacedModule:
    end = content[-1].end if content else start
    return PlacedModule(name, start, end, cache, tuple(content), place)

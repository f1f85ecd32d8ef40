"""Checks what a schema says, wherever it comes from: names, lengths, unions, turns, scaffolds."""

import re
from collections.abc import Iterable, Sequence

from treeserve.pml.place import Place, PmlError
from treeserve.pml.tags import (
    RESERVED_ARGUMENTS,
    RESERVED_NAMES,
    ROLES,
    ModuleTag,
    Node,
    ParameterTag,
    ScaffoldTag,
    Schema,
    SchemaNode,
    Text,
    TurnTag,
    UnionTag,
)
from treeserve.pml.xml_reader import MAX_BYTES, MAX_DEPTH

MAX_NAME_LENGTH = 64
MAX_LENGTH = 999_999_999
"""Of a parameter, in tokens; what the model has room for is checked when a schema is compiled."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
# Everything that XML 1.0 cannot say, and the carriage return, which it reads as a line feed.
_FORBIDDEN = re.compile("[^\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Branch = tuple[tuple[int, int], ...]
"""The unions in which a module lies, each with the number of the member."""


def check_schema(schema: Schema) -> None:
    """Raise PmlError for the first thing that cannot be.

    Raises:
        PmlError: Names the place of the tag and what was expected.
    """
    check_name("schema", schema.name, schema.place)
    _Checker().check(schema)


def check_name(what: str, name: str, place: Place) -> None:
    """Raise PmlError unless it can be the name of a tag or an attribute."""
    if not (isinstance(name, str) and _NAME.fullmatch(name)) or len(name) > MAX_NAME_LENGTH:
        raise PmlError(
            place,
            f"{what} name {name!r}; expected 1 to {MAX_NAME_LENGTH} of letters, digits, "
            '"_", "-" and ".", not begun with a digit, "-" or "."',
        )


def check_plain_text(text: str, place: Place) -> None:
    """Raise PmlError for a character that PML cannot hold."""
    found = _FORBIDDEN.search(text) if isinstance(text, str) else None
    if not isinstance(text, str) or found is not None:
        what = type(text).__name__ if found is None else f"character {found.group()!r}"
        raise PmlError(place, f"{what} in text; expected characters of XML, with \\n as line end")


class _Checker:
    """What one schema has named so far."""

    def __init__(self) -> None:
        self._modules: dict[str, tuple[ModuleTag, Branch]] = {}
        self._num_unions = 0
        self._num_bytes = 0

    def check(self, schema: Schema) -> None:
        turns = [node for node in schema.content if isinstance(node, TurnTag)]
        scaffolds = [node for node in schema.content if isinstance(node, ScaffoldTag)]
        nodes = [n for n in schema.content if not isinstance(n, TurnTag | ScaffoldTag)]
        if not turns and not nodes:
            raise PmlError(schema.place, "an empty <schema>; expected text or tags in it")
        if turns and nodes:
            raise PmlError(
                nodes[0].place,
                f"{_called(nodes[0])} beside turns; expected it inside "
                "<system>, <user> or <assistant>, as this schema has turns",
            )
        self._check_turns(turns)
        inside = [node for turn in turns for node in turn.content]
        self._nodes([*nodes, *inside], (), 2 if turns else 1)
        self._check_scaffolds(scaffolds)

    def _check_turns(self, turns: Iterable[TurnTag]) -> None:
        for turn in turns:
            if turn.role not in ROLES:
                raise PmlError(
                    turn.place, f"turn of role {turn.role!r}; expected one of {', '.join(ROLES)}"
                )
            if not turn.content:
                raise PmlError(turn.place, f"an empty <{turn.role}>; expected text or tags in it")

    def _nodes(self, nodes: Sequence[SchemaNode], branch: Branch, depth: int) -> None:
        parameters: set[str] = set()
        for node in nodes:
            match node:
                case Text():
                    self._text(node)
                case ParameterTag():
                    _check_parameter(node, parameters)
                case ModuleTag():
                    self._module(node, branch, depth)
                case UnionTag():
                    self._union(node, branch, depth)
                case _:
                    raise PmlError(node.place, f"{_called(node)} inside a module or a turn")

    def _text(self, node: Text) -> None:
        check_plain_text(node.text, node.place)
        self._num_bytes += len(node.text.encode())
        if self._num_bytes > MAX_BYTES:
            raise PmlError(
                node.place, f"the schema's text exceeds {MAX_BYTES} bytes (MAX_BYTES), the most"
            )

    def _module(self, module: ModuleTag, branch: Branch, depth: int) -> None:
        check_name("module", module.name, module.place)
        # The schema's tag is above it, and a parameter may be beneath.
        if depth > MAX_DEPTH - 2:
            raise PmlError(
                module.place, f"module {module.name!r} is nested deeper than {MAX_DEPTH} tags"
            )
        if module.name in RESERVED_NAMES:
            raise PmlError(
                module.place, f"module name {module.name!r}; expected one that is no tag of PML"
            )
        if module.name in self._modules:
            first = self._modules[module.name][0].place
            raise PmlError(
                module.place,
                f"module name {module.name!r} is taken ({first}); expected one of its own",
            )
        self._modules[module.name] = (module, branch)
        if not module.content:
            raise PmlError(
                module.place, f"module {module.name!r} is empty; expected text, tags or a src"
            )
        if module.max_tokens is not None:
            _check_whole_number("max_tokens", module.max_tokens, module.place)
        self._nodes(module.content, branch, depth + 1)

    def _union(self, union: UnionTag, branch: Branch, depth: int) -> None:
        if not union.members:
            raise PmlError(union.place, "an empty <union>; expected <module> in it")
        number = self._num_unions
        self._num_unions += 1
        for index, member in enumerate(union.members):
            self._module(member, (*branch, (number, index)), depth + 1)

    def _check_scaffolds(self, scaffolds: Iterable[ScaffoldTag]) -> None:
        names: set[str] = set()
        for scaffold in scaffolds:
            check_name("scaffold", scaffold.name, scaffold.place)
            if scaffold.name in names or scaffold.name in self._modules:
                raise PmlError(
                    scaffold.place,
                    f"scaffold name {scaffold.name!r} is taken; expected one of its own",
                )
            names.add(scaffold.name)
            self._check_scaffold(scaffold)

    def _check_scaffold(self, scaffold: ScaffoldTag) -> None:
        place, name = scaffold.place, scaffold.name
        if len(scaffold.modules) < 2 or len(set(scaffold.modules)) < len(scaffold.modules):
            raise PmlError(
                place, f'scaffold {name!r}; expected modules="…" with two or more different names'
            )
        taken: dict[int, tuple[int, str]] = {}
        for member in scaffold.modules:
            if member not in self._modules:
                raise PmlError(
                    place, f"scaffold {name!r} has no module {member!r}; expected one of the schema"
                )
            module, branch = self._modules[member]
            if not module.cache:
                raise PmlError(
                    place,
                    f'scaffold {name!r} has module {member!r}, which has cache="false"; '
                    "expected modules that are cached",
                )
            for union, index in branch:
                other = taken.setdefault(union, (index, member))
                if other[0] != index:
                    raise PmlError(
                        place,
                        f"scaffold {name!r} has {other[1]!r} and {member!r} of one union; "
                        "expected modules that one prompt can import",
                    )


def _check_parameter(parameter: ParameterTag, names: set[str]) -> None:
    check_name("parameter", parameter.name, parameter.place)
    if parameter.name in RESERVED_ARGUMENTS:
        raise PmlError(
            parameter.place,
            f"parameter name {parameter.name!r}; expected another, as <prompt> has that attribute",
        )
    if parameter.name in names:
        raise PmlError(
            parameter.place,
            f"parameter name {parameter.name!r} is taken in this module; expected one of its own",
        )
    names.add(parameter.name)
    _check_whole_number("length", parameter.length, parameter.place)


def _check_whole_number(name: str, value: int, place: Place) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not 1 <= value <= MAX_LENGTH:
        raise PmlError(place, f"{name}={value!r}; expected a whole number from 1 to {MAX_LENGTH}")


def _called(node: Node | SchemaNode) -> str:
    match node:
        case Text():
            return "text"
        case ParameterTag():
            return "<parameter>"
        case ModuleTag():
            return f"module {node.name!r}"
        case UnionTag():
            return "<union>"
        case TurnTag():
            return f"<{node.role}>"
    return "<scaffold>"

"""Reads elements into the syntax tree: known tags and attributes alone, each of its form."""

from collections.abc import Iterator, Sequence

from treeserve.pml.place import PmlError
from treeserve.pml.sources import Sources
from treeserve.pml.tags import (
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
    join_texts,
    without_space_beside_turns,
)
from treeserve.pml.whitespace import BLANKS, space_between, text_between, without_last_break
from treeserve.pml.xml_reader import Chars, Element

_NODES = ("module", "union", "parameter")
_SCHEMA_NODES = (*_NODES, "scaffold", *ROLES)


class TagReader:
    """Reads one schema; modules with a src are read through `sources`."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def schema(self, element: Element) -> Schema:
        if element.tag != "schema":
            raise PmlError(element.place, f"<{element.tag}>; expected <schema>")
        check_attributes(element, ("name",), ())
        content = without_space_beside_turns(self._content(element, _SCHEMA_NODES))
        return Schema(element.attributes["name"], join_texts(content), element.place)

    def _content(self, element: Element, tags: Sequence[str]) -> list[SchemaNode]:
        parts = texts_in(element)
        return [p if isinstance(p, Text) else self._tag(p, element, tags) for p in parts]

    def _tag(self, element: Element, parent: Element, tags: Sequence[str]) -> SchemaNode:
        if element.tag not in tags:
            raise _unexpected(element, parent, tags)
        match element.tag:
            case "module":
                return self._module(element)
            case "union":
                return self._union(element)
            case "parameter":
                return _parameter(element)
            case "scaffold":
                return _scaffold(element)
        check_attributes(element, (), ())
        return TurnTag(element.tag, self._nodes(element, ends_turn=True), element.place)

    def _nodes(self, element: Element, *, ends_turn: bool = False) -> tuple[Node, ...]:
        content = self._content(element, _NODES)
        if ends_turn:
            drop_last_break(element, content)
        # Only tags of _NODES have been let in, and none of them is a turn or a scaffold.
        return tuple(n for n in join_texts(content) if not isinstance(n, TurnTag | ScaffoldTag))

    def _module(self, element: Element) -> ModuleTag:
        check_attributes(element, ("name",), ("cache", "src", "max_tokens"))
        attributes = element.attributes
        content = self._nodes(element)
        if "src" in attributes:
            if content:
                raise PmlError(
                    element.place,
                    "a module with a src is empty itself; expected <module … src=…/>",
                )
            content = self._from_source(element)
        max_tokens = attributes.get("max_tokens")
        return ModuleTag(
            name=attributes["name"],
            content=content,
            cache=_true_or_false(element, "cache"),
            max_tokens=None if max_tokens is None else whole_number(element, "max_tokens"),
            place=element.place,
        )

    def _from_source(self, element: Element) -> tuple[Node, ...]:
        """What a src holds: text as it is, or the content of a PML file's one module."""
        with self._sources.opened(element.attributes["src"], element.place) as source:
            if isinstance(source, Text):
                nodes: list[Node] = [source] if source.text else []
                return tuple(nodes)
            if source.tag != "module":
                raise PmlError(source.place, f"<{source.tag}>; expected <module> in a src file")
            check_attributes(source, (), ("name",))
            name = source.attributes.get("name", element.attributes["name"])
            if name != element.attributes["name"]:
                raise PmlError(
                    source.place,
                    f"module {name!r}; expected {element.attributes['name']!r}, as in the "
                    f"tag that names this file ({element.place})",
                )
            return self._nodes(source)

    def _union(self, element: Element) -> UnionTag:
        check_attributes(element, (), ())
        members = []
        for part in element.content:
            if isinstance(part, Chars):
                check_no_text(part, "in a <union>; expected <module> alone")
            elif part.tag == "module":
                members.append(self._module(part))
            else:
                raise _unexpected(part, element, ("module",), text="")
        return UnionTag(tuple(members), element.place)


def texts_in(element: Element) -> Iterator[Element | Text]:
    """What is in an element, with its characters as the text that they mean."""
    parts = [None, *element.content, None]
    for before, part, after in zip(parts, parts[1:], parts[2:], strict=False):
        if isinstance(part, Chars):
            yield Text(_meant(part, before, after), part.visible_place)
        elif part is not None:
            yield part


def _meant(chars: Chars, before: Element | Chars | None, after: Element | Chars | None) -> str:
    if chars.is_verbatim:
        return chars.text
    if not chars.text.strip(BLANKS):
        return space_between(chars.text, follows_parameter=_is_parameter(before))
    return text_between(
        chars.text,
        follows_inline=isinstance(before, Chars) or _is_parameter(before),
        precedes_inline=isinstance(after, Chars) or _is_parameter(after),
    )


def _is_parameter(part: Element | Chars | None) -> bool:
    return isinstance(part, Element) and part.tag == "parameter"


def drop_last_break(element: Element, content: list[SchemaNode]) -> None:
    """Of an element's text, unless CDATA holds it."""
    last = element.content[-1] if element.content else None
    text = content[-1] if content else None
    if isinstance(last, Chars) and not last.is_verbatim and isinstance(text, Text):
        content[-1] = Text(without_last_break(text.text), text.place)


def check_attributes(element: Element, required: Sequence[str], optional: Sequence[str]) -> None:
    """Raise PmlError for an attribute that is unknown or missing."""
    known = (*required, *optional)
    for name in element.attributes:
        if name not in known:
            raise PmlError(
                element.place,
                f"unknown attribute {name!r} of <{element.tag}>; "
                f"expected {', '.join(known) or 'none'}",
            )
    for name in required:
        if name not in element.attributes:
            raise PmlError(
                element.place, f'<{element.tag}> has no {name}; expected <{element.tag} {name}="…">'
            )


def check_no_text(chars: Chars, where: str) -> None:
    """Raise PmlError for text where only white space may be."""
    stripped = chars.text.strip(BLANKS)
    if stripped:
        start = stripped.split("\n")[0][:24]
        raise PmlError(chars.visible_place, f"text {start!r} {where}")


def whole_number(element: Element, name: str) -> int:
    """An attribute's value, at least 1."""
    text = element.attributes[name]
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= 1):
        raise PmlError(
            element.place, f"{name}={text!r}; expected a whole number from 1 to 999999999"
        )
    return int(text)


def _true_or_false(element: Element, name: str) -> bool:
    text = element.attributes.get(name, "true")
    if text not in {"true", "false"}:
        raise PmlError(element.place, f'{name}={text!r}; expected "true" or "false"')
    return text == "true"


def _parameter(element: Element) -> ParameterTag:
    check_attributes(element, ("name", "length"), ())
    _check_empty(element)
    return ParameterTag(element.attributes["name"], whole_number(element, "length"), element.place)


def _scaffold(element: Element) -> ScaffoldTag:
    check_attributes(element, ("name", "modules"), ())
    _check_empty(element)
    names = tuple(element.attributes["modules"].split())
    return ScaffoldTag(element.attributes["name"], names, element.place)


def _check_empty(element: Element) -> None:
    for part in element.content:
        if isinstance(part, Element):
            raise PmlError(part.place, f"<{part.tag}> in a <{element.tag}>; expected nothing in it")
        check_no_text(part, f"in a <{element.tag}>; expected nothing in it")


def _unexpected(
    element: Element, parent: Element, tags: Sequence[str], text: str = "text, "
) -> PmlError:
    """Tags that are known elsewhere are misplaced, others unknown."""
    word = "misplaced" if element.tag in {"schema", "prompt", *_SCHEMA_NODES} else "unknown"
    listed = ", ".join(f"<{tag}>" for tag in tags)
    return PmlError(
        element.place,
        f"{word} tag <{element.tag}> in <{parent.tag}>; expected {text}{listed}",
    )

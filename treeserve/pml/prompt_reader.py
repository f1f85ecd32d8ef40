"""Reads a prompt's elements into the syntax tree: imports first, then its own text."""

from treeserve.pml.place import PmlError
from treeserve.pml.tag_reader import (
    check_attributes,
    check_no_text,
    drop_last_break,
    texts_in,
    whole_number,
)
from treeserve.pml.tags import (
    RESERVED_NAMES,
    ROLES,
    ImportTag,
    PromptTag,
    SchemaNode,
    Text,
    TurnTag,
    is_space,
    join_texts,
    without_space_beside_turns,
)
from treeserve.pml.xml_reader import Chars, Element

_OWN_ATTRIBUTES = ("schema", "max_tokens")


def read_prompt_element(element: Element) -> PromptTag:
    """The prompt that an element says.

    Raises:
        PmlError: It has another form than <prompt schema="…"> imports, text </prompt>.
    """
    if element.tag != "prompt":
        raise PmlError(element.place, f"<{element.tag}>; expected <prompt>")
    check_attributes(element, ("schema",), tuple(element.attributes))
    has_limit = "max_tokens" in element.attributes
    return PromptTag(
        schema=element.attributes["schema"],
        imports=_imports(element),
        content=_own(element),
        arguments={
            name: value for name, value in element.attributes.items() if name not in _OWN_ATTRIBUTES
        },
        max_tokens=whole_number(element, "max_tokens") if has_limit else None,
        place=element.place,
    )


def _imports(prompt: Element) -> tuple[ImportTag, ...]:
    tags = [part for part in prompt.content if isinstance(part, Element) and part.tag not in ROLES]
    return tuple(_import(tag) for tag in tags)


def _import(element: Element) -> ImportTag:
    if element.tag in RESERVED_NAMES:
        raise PmlError(
            element.place,
            f"misplaced tag <{element.tag}> in a prompt; expected tags named as modules are",
        )
    nested = []
    for part in element.content:
        if isinstance(part, Chars):
            check_no_text(part, f"in <{element.tag}>; expected it after all imports")
        else:
            nested.append(_import(part))
    return ImportTag(element.tag, dict(element.attributes), tuple(nested), element.place)


def _own(prompt: Element) -> tuple[Text | TurnTag, ...]:
    content: list[SchemaNode] = []
    for part in texts_in(prompt):
        if isinstance(part, Text):
            content.append(part)
        elif part.tag in ROLES:
            content.append(_turn(part))
        elif not all(is_space(node) for node in content):
            raise PmlError(
                part.place, f"<{part.tag}> after text; expected imports before the prompt's text"
            )
        else:
            content.clear()
    drop_last_break(prompt, content)
    return _texts_and_turns(without_space_beside_turns(content))


def _turn(element: Element) -> TurnTag:
    check_attributes(element, (), ())
    content: list[SchemaNode] = []
    for part in texts_in(element):
        if isinstance(part, Element):
            raise PmlError(
                part.place, f"<{part.tag}> in <{element.tag}>; expected text alone in a turn"
            )
        content.append(part)
    drop_last_break(element, content)
    texts = tuple(node for node in join_texts(content) if isinstance(node, Text))
    return TurnTag(element.tag, texts, element.place)


def _texts_and_turns(content: list[SchemaNode]) -> tuple[Text | TurnTag, ...]:
    return tuple(node for node in join_texts(content) if isinstance(node, Text | TurnTag))

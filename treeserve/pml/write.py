"""Writes schemas and prompts as PML, which is read back as the very same."""

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from treeserve.pml.tags import (
    ImportTag,
    ModuleTag,
    ParameterTag,
    PromptTag,
    ScaffoldTag,
    Schema,
    SchemaNode,
    Text,
    TurnTag,
    UnionTag,
)

_INDENTATION = "  "


def write_schema(schema: Schema) -> str:
    """The schema as PML, with the texts of its src files in it."""
    return _element("schema", {"name": schema.name}, schema.content, 0) + "\n"


def write_prompt(prompt: PromptTag) -> str:
    """The prompt as PML."""
    attributes = {"schema": prompt.schema, **prompt.arguments}
    if prompt.max_tokens is not None:
        attributes["max_tokens"] = str(prompt.max_tokens)
    parts = [_import(tag, 1) for tag in prompt.imports]
    # Texts are CDATA, so that line breaks beside them mean nothing.
    parts += [_cdata(n.text) if isinstance(n, Text) else _node(n, 1) for n in prompt.content]
    return _wrapped("prompt", attributes, parts, 0) + "\n"


def _element(
    tag: str, attributes: dict[str, str], content: Sequence[SchemaNode], depth: int
) -> str:
    start = f"<{tag}{_attributes(attributes)}"
    if not content:
        return f"{start}/>"
    written = [f"{start}>"]
    for index, node in enumerate(content):
        before = content[index - 1] if index else None
        written.append(_gap(before, node, depth + 1) + _node(node, depth + 1))
    written.append(_gap(content[-1], None, depth) + f"</{tag}>")
    return "".join(written)


def _gap(before: SchemaNode | None, after: SchemaNode | None, depth: int) -> str:
    """A line break where it means nothing: beside plain text and after parameters it would."""
    is_meant = isinstance(before, ParameterTag) or _is_bare(before) or _is_bare(after)
    return "" if is_meant else "\n" + _INDENTATION * depth


def _node(node: SchemaNode, depth: int) -> str:
    match node:
        case Text():
            return escape(node.text) if _is_bare(node) else _cdata(node.text)
        case ParameterTag():
            attributes = {"name": node.name, "length": str(node.length)}
            return _element("parameter", attributes, (), depth)
        case ModuleTag():
            return _element("module", _module_attributes(node), node.content, depth)
        case UnionTag():
            return _element("union", {}, node.members, depth)
        case TurnTag():
            return _element(node.role, {}, node.content, depth)
        case ScaffoldTag():
            attributes = {"name": node.name, "modules": " ".join(node.modules)}
            return _element("scaffold", attributes, (), depth)


def _is_bare(node: SchemaNode | None) -> bool:
    """Whether it is text that needs no CDATA to keep its white space."""
    return isinstance(node, Text) and "\n" not in node.text


def _cdata(text: str) -> str:
    return "<![CDATA[" + text.replace("]]>", "]]]]><![CDATA[>") + "]]>"


def _module_attributes(module: ModuleTag) -> dict[str, str]:
    attributes = {"name": module.name}
    if not module.cache:
        attributes["cache"] = "false"
    if module.max_tokens is not None:
        attributes["max_tokens"] = str(module.max_tokens)
    return attributes


def _import(tag: ImportTag, depth: int) -> str:
    parts = [_import(nested, depth + 1) for nested in tag.imports]
    return _wrapped(tag.name, dict(tag.arguments), parts, depth)


def _wrapped(tag: str, attributes: dict[str, str], parts: Sequence[str], depth: int) -> str:
    start = f"<{tag}{_attributes(attributes)}"
    if not parts:
        return f"{start}/>"
    lines = "".join("\n" + _INDENTATION * (depth + 1) + part for part in parts)
    return f"{start}>{lines}\n{_INDENTATION * depth}</{tag}>"


def _attributes(attributes: dict[str, str]) -> str:
    return "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())

"""What of the white space around tags belongs to the text: indentation does not."""

from collections.abc import Iterable

BLANKS = " \t\n"


def text_between(chunk: str, *, follows_inline: bool = False, precedes_inline: bool = False) -> str:
    """Text as it is meant between two tags.

    Lines after the first lose the indentation that all of them have; blank lines lose everything.
    Where the text stands in lines of its own, blank lines before it go, and one line break ends it.

    Args:
        chunk: As it is written, with a visible character.
        follows_inline: It goes on the line of a parameter or of CDATA, so that line breaks count.
        precedes_inline: Such a one goes on its line.
    """
    text = _without_indentation(chunk)
    if not follows_inline:
        text = text.lstrip("\n")
    if not precedes_inline and text.endswith("\n"):
        text = text.rstrip("\n") + "\n"
    return text


def space_between(chunk: str, *, follows_parameter: bool) -> str:
    """White space alone: line breaks mean nothing, but after a parameter they are one."""
    if "\n" not in chunk:
        return chunk
    return "\n" if follows_parameter else ""


def without_last_break(text: str) -> str:
    """What ends a turn or a prompt has no line break before its end tag."""
    return text.removesuffix("\n")


def _without_indentation(chunk: str) -> str:
    first, *others = chunk.split("\n")
    indentation = _common(line for line in others if line.strip(BLANKS))
    kept = [line[len(indentation) :] if line.strip(BLANKS) else "" for line in others]
    if others and not first.strip(BLANKS):
        first = ""
    return "\n".join([first, *kept])


def _common(lines: Iterable[str]) -> str:
    common: str | None = None
    for line in lines:
        margin = line[: len(line) - len(line.lstrip(" \t"))]
        common = margin if common is None else _shared(common, margin)
    return common or ""


def _shared(one: str, other: str) -> str:
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return one[:index]
    return min(one, other, key=len)

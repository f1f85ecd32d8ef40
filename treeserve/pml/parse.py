"""Reads schemas from text and files: strictly, with the place of whatever is wrong."""

from pathlib import Path

from treeserve.pml.check import check_schema
from treeserve.pml.place import Place, PmlError
from treeserve.pml.prompt_reader import read_prompt_element
from treeserve.pml.sources import Sources
from treeserve.pml.tag_reader import TagReader
from treeserve.pml.tags import PromptTag, Schema
from treeserve.pml.xml_reader import MAX_BYTES, Element, check_size, read_xml


def parse_schema(text: str | bytes, file: str = "<schema>") -> Schema:
    """Read a schema from text; without a folder, so that no module may have a src.

    Args:
        text: Of at most MAX_BYTES; bytes have to be UTF-8.
        file: Its name, for errors.

    Raises:
        PmlError: Names line, column and what was expected.
    """
    element = read_xml(text, file)
    return _checked(element, Sources(None, None, len(text)))


def parse_prompt(text: str | bytes, file: str = "<prompt>") -> PromptTag:
    """Read a prompt from text; whether it fits its schema is found when the two meet.

    Raises:
        PmlError: As parse_schema().
    """
    return read_prompt_element(read_xml(text, file))


def read_schema(path: Path) -> Schema:
    """Read a schema from a file, and the files beside it that its modules name.

    Raises:
        PmlError: As parse_schema(), of this file or of one that a src names.
    """
    data = _read(path)
    return _checked(read_xml(data, str(path)), Sources(path.parent, path, len(data)))


def read_prompt(path: Path) -> PromptTag:
    """Read a prompt from a file; raises as parse_prompt()."""
    return parse_prompt(_read(path), str(path))


def _checked(element: Element, sources: Sources) -> Schema:
    schema = TagReader(sources).schema(element)
    check_schema(schema)
    return schema


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PmlError(Place(str(path)), f"cannot be read: {error.strerror}") from None
    check_size(len(data), str(path))
    return data

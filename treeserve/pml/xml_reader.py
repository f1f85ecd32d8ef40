"""Reads strict XML into elements with their places; no entities, no DTD, nothing repaired."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn
from xml.parsers import expat

from treeserve.pml.place import Place, PmlError

MAX_BYTES = 4 * 1024 * 1024
"""Of a schema with all its src files, or of a prompt."""
MAX_DEPTH = 32
"""Of tags within tags."""
MAX_TAGS = 16_384
"""Of a document."""
_NAME = re.compile(rb"[^\s<>/&]*")
_ESCAPES = 'expected "&lt;" for "<" and "&amp;" for "&", or <![CDATA[…]]> around code'

_DESCRIPTIONS = {
    expat.errors.XML_ERROR_UNCLOSED_TOKEN: 'what begins here does not end; expected ">"',
    expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION: 'CDATA does not end; expected "]]>"',
    expat.errors.XML_ERROR_JUNK_AFTER_DOC_ELEMENT: "more after the last end tag; expected nothing",
    expat.errors.XML_ERROR_UNDEFINED_ENTITY: f"unknown entity; {_ESCAPES}",
    expat.errors.XML_ERROR_DUPLICATE_ATTRIBUTE: "an attribute is given twice; expected it once",
    expat.errors.XML_ERROR_BAD_CHAR_REF: "a character that XML cannot hold; expected another",
}


@dataclass(slots=True)
class Chars:
    """Text as it is written, up to the next tag or the border of a CDATA section."""

    parts: list[str]
    is_verbatim: bool
    """From a CDATA section."""
    place: Place

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def visible_place(self) -> Place:
        """Of its first character that is no white space; its own where there is none."""
        text = self.text
        stripped = text.lstrip(" \t\n")
        if not stripped:
            return self.place
        space = text[: len(text) - len(stripped)]
        first = 1 if "\n" in space else self.place.column
        column = first + len(space) - (space.rfind("\n") + 1)
        return Place(self.place.file, self.place.line + space.count("\n"), column)


@dataclass(slots=True)
class Element:
    """A tag with what is in it; complete when the document has been read."""

    tag: str
    attributes: dict[str, str]
    place: Place
    content: list["Element | Chars"] = field(default_factory=list)


def read_xml(text: str | bytes, file: str) -> Element:
    """Read a document; returns its root.

    Args:
        text: Of at most MAX_BYTES; bytes have to be UTF-8.
        file: Its name, for errors.

    Raises:
        PmlError: Names line, column and what was expected.
    """
    data = _checked_bytes(text, file)
    return _Reader(data, file).read()


def check_size(num_bytes: int, file: str) -> None:
    """Raise PmlError for more than MAX_BYTES."""
    if num_bytes > MAX_BYTES:
        raise PmlError(Place(file), f"is larger than {MAX_BYTES} bytes (MAX_BYTES), the most")


def decoded(data: bytes, file: str) -> str:
    """UTF-8 as text; raises PmlError where it is not."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        raise PmlError(Place(file, line, column), "not valid UTF-8") from None


def _checked_bytes(text: str | bytes, file: str) -> bytes:
    # A string has at least as many bytes as characters, so a huge one is not encoded first.
    check_size(len(text), file)
    if isinstance(text, bytes):
        text = decoded(text, file)
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PmlError(
            Place(file), f"is not valid Unicode text: character {error.start} is half a character"
        ) from None
    check_size(len(data), file)
    return data


class _Reader:
    """One pass of expat over one document."""

    def __init__(self, data: bytes, file: str) -> None:
        self._data = data
        self._file = file
        self._open: list[Element] = []
        self._root: Element | None = None
        self._num_tags = 0
        self._in_cdata = False
        self._parser = expat.ParserCreate("utf-8")
        self._parser.ordered_attributes = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartCdataSectionHandler = self._start_cdata
        self._parser.EndCdataSectionHandler = self._end_cdata
        self._parser.XmlDeclHandler = self._declaration
        self._parser.StartDoctypeDeclHandler = self._document_type
        self._parser.EntityDeclHandler = self._refuse("an entity declaration")
        self._parser.ExternalEntityRefHandler = self._refuse("an external entity")
        self._parser.ProcessingInstructionHandler = self._refuse("a processing instruction (<?…?>)")

    def read(self) -> Element:
        try:
            self._parser.Parse(self._data, True)
        except expat.ExpatError as error:
            raise PmlError(self._place_of(error), self._explain(error.code)) from None
        assert self._root is not None
        return self._root

    def _here(self) -> Place:
        line, column = self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber
        return Place(self._file, line, column + 1)

    def _start(self, tag: str, listed: list[str]) -> None:
        attributes = dict(zip(listed[::2], listed[1::2], strict=True))
        element = Element(tag, attributes, self._here())
        if self._open:
            self._open[-1].content.append(element)
        else:
            self._root = element
        self._open.append(element)
        if len(self._open) > MAX_DEPTH:
            raise PmlError(element.place, f"<{tag}> is nested deeper than {MAX_DEPTH} tags")
        self._num_tags += 1
        if self._num_tags > MAX_TAGS:
            raise PmlError(element.place, f"more than {MAX_TAGS} tags (MAX_TAGS), the most")

    def _end(self, tag: str) -> None:
        self._open.pop()

    def _characters(self, text: str) -> None:
        content = self._open[-1].content
        last = content[-1] if content else None
        if isinstance(last, Chars) and last.is_verbatim == self._in_cdata:
            last.parts.append(text)
        else:
            content.append(Chars([text], self._in_cdata, self._here()))

    def _start_cdata(self) -> None:
        self._in_cdata = True

    def _end_cdata(self) -> None:
        self._in_cdata = False

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in {"utf-8", "utf8"}:
            raise PmlError(self._here(), f'encoding {encoding!r}; expected "UTF-8"')

    def _document_type(self, *_: object) -> NoReturn:
        # The parser tells of it when it has read its name.
        start = self._data.rfind(b"<!DOCTYPE", 0, self._parser.CurrentByteIndex + 1)
        before = self._data[:start].decode("utf-8", errors="replace")
        column = len(before) - (before.rfind("\n") + 1) + 1
        place = Place(self._file, before.count("\n") + 1, column)
        raise PmlError(place, "<!DOCTYPE> is not allowed in PML; expected tags and text")

    def _refuse(self, what: str) -> Callable[..., Any]:
        def refuse(*_: object) -> NoReturn:
            raise PmlError(self._here(), f"{what} is not allowed in PML; expected tags and text")

        return refuse

    def _place_of(self, error: expat.ExpatError) -> Place:
        """Where it begins; the parser has read "</" when it finds that an end tag does not fit."""
        is_mismatch = error.code == expat.errors.codes[expat.errors.XML_ERROR_TAG_MISMATCH]
        column = error.offset + 1 - (2 if is_mismatch else 0)
        return Place(self._file, error.lineno, column)

    def _explain(self, code: int) -> str:
        """What expat found, in words of what was expected."""
        codes = expat.errors.codes
        if code == codes[expat.errors.XML_ERROR_TAG_MISMATCH]:
            last = self._open[-1]
            found = _NAME.match(self._data, self._parser.ErrorByteIndex)
            name = found.group().decode() if found else ""
            return f"</{name}> closes no open tag; expected </{last.tag}>, {_opened(last)}"
        if code == codes[expat.errors.XML_ERROR_NO_ELEMENTS]:
            if not self._open:
                return "holds no tag; expected <schema> or <prompt>"
            last = self._open[-1]
            return f"the text ends too early; expected </{last.tag}>, {_opened(last)}"
        if code == codes[expat.errors.XML_ERROR_INVALID_TOKEN]:
            return self._explain_token()
        for error, description in _DESCRIPTIONS.items():
            if code == codes[error]:
                return description
        return f"{expat.ErrorString(code)}; expected PML"

    def _explain_token(self) -> str:
        found = self._data[self._parser.ErrorByteIndex : self._parser.ErrorByteIndex + 1]
        if found < b" " and found not in b"\t\r\n":
            return f"control character {found.decode()!r}; expected characters that XML can hold"
        return f"not well-formed; {_ESCAPES}"


def _opened(element: Element) -> str:
    return f"for <{element.tag}> in line {element.place.line}"

"""Takes the text out of a pickle that holds one text and nothing else, without unpickling it."""

import pickletools

_TEXT = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"}
_HARMLESS = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"}


class NotPickledText(ValueError):
    """The bytes are no pickle, or one that holds more than a text."""


def pickled_text(data: bytes) -> str:
    """The text; no opcode is ever executed.

    Raises NotPickledText for anything but a single pickled text.
    """
    found: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _TEXT:
                found.append(str(argument))
            elif opcode.name not in _HARMLESS:
                raise NotPickledText(f"it holds more than a text ({opcode.name})")
    except NotPickledText:
        raise
    except Exception as error:  # pickletools raises whatever its readers raise
        raise NotPickledText(f"it is no pickle: {error}") from None
    if len(found) != 1:
        raise NotPickledText(f"it holds {len(found)} texts, not one")
    return found[0]

"""Places in PML and Python files, and the errors that name them."""

from dataclasses import dataclass

from treeserve.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is written."""

    file: str
    line: int = 0
    """From 1; 0 is the file as a whole."""
    column: int = 0
    """In characters, from 1; 0 is the line as a whole."""

    def __str__(self) -> str:
        numbers = [number for number in (self.line, self.column) if number]
        return ":".join(map(str, [self.file, *numbers]))


NOWHERE = Place("<built>")
"""Of what no file holds."""


class PmlError(InvalidRequest):
    """A schema or a prompt that cannot be used: file:line:column, and what was expected.

    Attributes:
        place: Where.
    """

    def __init__(self, place: Place, description: str) -> None:
        super().__init__(str(place), description)
        self.place = place

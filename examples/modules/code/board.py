"""The board: which fields there are, and which are walls."""


class Board:
    """A rectangle of fields, "." to walk on and "#" for walls."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def is_free(self, row: int, column: int) -> bool:
        """Whether a unit may stand there."""
        inside = 0 <= row < len(self.lines) and 0 <= column < len(self.lines[0])
        return inside and self.lines[row][column] == "."

"""Units: what moves on the map."""

from dataclasses import dataclass


@dataclass
class Unit:
    """A piece with a place and a number of lives."""

    name: str
    row: int
    column: int
    lives: int = 3

    def move(self, rows: int, columns: int) -> None:
        """Move by so many fields."""
        self.row += rows
        self.column += columns

    def hit(self) -> bool:
        """Lose a life; tells whether any is left."""
        self.lives -= 1
        return self.lives > 0

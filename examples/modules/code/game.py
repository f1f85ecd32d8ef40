"""The game: whose turn it is, and when it is over."""

from board import Board
from unit import Unit


class Game:
    """Units that take turns on one board."""

    def __init__(self, board: Board, units: list[Unit]) -> None:
        self.board = board
        self.units = units
        self.turn = 0

    def step(self, rows: int, columns: int) -> bool:
        """Move the unit whose turn it is; tells whether it could."""
        unit = self.units[self.turn % len(self.units)]
        if not self.board.is_free(unit.row + rows, unit.column + columns):
            return False
        unit.move(rows, columns)
        self.turn += 1
        return True

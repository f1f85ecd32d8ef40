"""Source files as modules, the Python way; the same schema as code.pml."""

from pathlib import Path

from treeserve.pml import schema

FOLDER = Path(__file__).parent / "code"
UNIT = (FOLDER / "unit.py").read_text()
BOARD = (FOLDER / "board.py").read_text()
GAME = (FOLDER / "game.py").read_text()


@schema
def unit():
    UNIT


@schema
def board():
    BOARD


@schema
def game():
    GAME


@schema(scaffolds={"whole-game": ("unit", "board", "game")})
def code():
    "Below are files of a little game, then a question about them.\n"
    unit()
    board()
    game()

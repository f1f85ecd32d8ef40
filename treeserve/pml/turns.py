"""Turns of a chat as the model's own template writes them, around texts that it never sees."""

from collections.abc import Sequence
from dataclasses import dataclass

from treeserve.errors import TreeserveError
from treeserve.pml.place import Place, PmlError
from treeserve.pml.tags import TurnTag
from treeserve.tokenizer import Tokenizer
from treeserve.types import Chat, Message


@dataclass(frozen=True, slots=True)
class TemplateText:
    """What a template writes before, between or after turns; special tokens are special in it."""

    text: str


def frame_turns(tokenizer: Tokenizer, turns: Sequence[TurnTag], place: Place) -> list[TemplateText]:
    """What the template writes around a schema's turns.

    Args:
        tokenizer: Has the template.
        turns: At least one.
        place: Of the schema, for errors.

    Returns:
        One text before each turn and one after the last.

    Raises:
        PmlError: There is no template, or it does not write each turn's text once, in order.
    """
    pieces = _pieces(tokenizer, [turn.role for turn in turns], next_turn=False, place=place)
    return [TemplateText(piece) for piece in pieces]


def frame_prompt_turns(
    tokenizer: Tokenizer, turns: Sequence[TurnTag], own: Sequence[TurnTag], place: Place
) -> list[TemplateText]:
    """What the template writes around a prompt's turns that follow those of its schema.

    Returns:
        One text before each of the prompt's turns, from where the schema's text ends, and one after
        the last, up to where the model's turn begins.

    Raises:
        PmlError: As frame_turns(), or the template would write the schema's turns otherwise here.
    """
    before = [piece.text for piece in frame_turns(tokenizer, turns, place)]
    roles = [turn.role for turn in (*turns, *own)]
    pieces = _pieces(tokenizer, roles, next_turn=True, place=place)
    last = len(turns)
    if pieces[:last] != before[:last] or not pieces[last].startswith(before[last]):
        raise PmlError(
            place,
            "the model's chat template writes the schema's turns otherwise where this prompt's "
            "turns follow; expected turns that leave them as they are",
        )
    rest = pieces[last].removeprefix(before[last])
    return [TemplateText(piece) for piece in (rest, *pieces[last + 1 :])]


def _pieces(
    tokenizer: Tokenizer, roles: Sequence[str], *, next_turn: bool, place: Place
) -> list[str]:
    marks = [f"(text {number} of {len(roles)})" for number in range(1, len(roles) + 1)]
    messages = [Message(role, mark) for role, mark in zip(roles, marks, strict=True)]
    try:
        rest = tokenizer.render_chat(Chat(tuple(messages)), next_turn=next_turn)
    except TreeserveError as error:
        raise PmlError(place, f"turns cannot be rendered: {error}") from None
    pieces = []
    for role, mark in zip(roles, marks, strict=True):
        piece, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise PmlError(
                place,
                f"the model's chat template does not write the text of <{role}> exactly once, in "
                "the order of the turns; expected turns that it knows",
            )
        pieces.append(piece)
    return [*pieces, rest]

"""The atoms that problems are composed of: how each is said, and the Python it becomes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Atom:
    """One part of a problem.

    `code` is Python in which `x` is an element and `b` the list so far; `nouns` say it inside a
    noun phrase (`{s}` is what it applies to), `steps` as an instruction of its own. `{k}`, `{m}`
    (numbers) and `{c}`, `{d}` (letters) are parameters, drawn from `low` to `high` or from the
    alphabet.
    """

    name: str
    code: str
    nouns: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    low: int = 2
    high: int = 9


ALL = Atom("all", "", ("{s}",))

CONDITIONS: tuple[Atom, ...] = (
    ALL,
    Atom(
        "threshold",
        '"{yes}" if {e} > {k} else "{no}"',
        ("{yes} if {s} is greater than {k}, otherwise {no}",),
        (),
        2,
        15,
    ),
    Atom(
        "at_most",
        '"{yes}" if {e} <= {k} else "{no}"',
        ("{yes} if {s} is at most {k}, otherwise {no}",),
        (),
        2,
        15,
    ),
    Atom(
        "parity",
        '"{yes}" if ({e}) % 2 == 0 else "{no}"',
        ("{yes} if {s} is even and {no} if it is odd",),
    ),
    Atom(
        "multiple",
        '"{yes}" if ({e}) % {k} == 0 else "{no}"',
        ("{yes} if {s} is a multiple of {k}, otherwise {no}",),
        (),
        3,
        5,
    ),
    Atom("plus", "{e} + {k}", ("{s}, plus {k}",), (), 2, 9),
    Atom("modulo", "({e}) % {k}", ("{s}, modulo {k}",), (), 3, 11),
)

EMPTY = Atom("empty", "{e} if b else {default}", ("{s}, or {default} if there are none",))
"""The condition for when nothing is left; it goes with every reduction."""

"""Which atoms go together in a problem, and which of those compositions training never sees."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from treeserve.contest import atoms, number_atoms, word_atoms
from treeserve.contest.atoms import ALL, Atom

STRUCTURES = ("list", "words", "grid", "ranges", "values", "two")
HELD_OUT_PERCENT = 13

_PLAIN_REDUCES = tuple(
    a
    for a in number_atoms.NUMBER_REDUCES
    if a.name in ("sum", "max", "min", "count", "range", "distinct")
)
_VALUE_FILTERS = (
    "above",
    "below",
    "at_least",
    "at_most",
    "multiple",
    "not_multiple",
    "last_digit",
    "not_equal",
)


@dataclass(frozen=True)
class Composition:
    """Which atoms make a problem: `roles` names each atom's part, in the order they apply."""

    structure: str
    roles: tuple[str, ...]
    parts: tuple[Atom, ...]

    @property
    def tags(self) -> tuple[str, ...]:
        """The composition as text: structure, then `role:atom`."""
        named = zip(self.roles, self.parts, strict=True)
        return (self.structure, *(f"{role}:{part.name}" for role, part in named))

    @property
    def difficulty(self) -> int:
        """How many parts do something."""
        return max(1, sum(part is not ALL for part in self.parts))

    def part(self, role: str) -> Atom:
        """The atom in a role, or the one that does nothing."""
        return self.parts[self.roles.index(role)] if role in self.roles else ALL


def is_held_out(tags: Sequence[str]) -> bool:
    """Whether training must never see this composition.

    Whole families are held out: a structure's filter together with its reduction, whatever else is
    in between.
    """
    structure, *parts = tags
    family = [part for part in parts if part.startswith(("filter:", "reduce:"))]
    digest = hashlib.sha256("|".join([structure, *family]).encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def draw_composition(rng: random.Random) -> Composition:
    """A random composition, held out or not."""
    structure = rng.choices(STRUCTURES, weights=(38, 22, 12, 10, 9, 9))[0]
    drawn = _COMPOSERS[structure](rng)
    return Composition(structure, tuple(drawn), tuple(drawn.values()))


def _compose_list(rng: random.Random) -> dict[str, Atom]:
    parts = {
        "filter": _maybe(rng, number_atoms.NUMBER_FILTERS, 0.8),
        "map": _maybe(rng, number_atoms.NUMBER_MAPS, 0.6),
        "slice": _maybe(rng, number_atoms.NUMBER_SLICES, 0.35),
    }
    if rng.random() < 0.2:
        return parts | {"reduce": rng.choice(number_atoms.NUMBER_LISTINGS)}
    parts["reduce"] = rng.choice(number_atoms.NUMBER_REDUCES)
    return parts | {"condition": _condition(rng, parts["filter"])}


def _compose_words(rng: random.Random) -> dict[str, Atom]:
    parts = {"filter": _maybe(rng, word_atoms.WORD_FILTERS, 0.85)}
    if rng.random() < 0.3:
        parts["map"] = rng.choice(word_atoms.WORD_NUMBERS)
        parts["reduce"] = rng.choice(_PLAIN_REDUCES + number_atoms.NUMBER_LISTINGS)
        return (
            parts
            if "*" in parts["reduce"].code
            else parts | {"condition": _condition(rng, parts["filter"])}
        )
    parts["map"] = _maybe(rng, word_atoms.WORD_MAPS, 0.7)
    parts["slice"] = rng.choice(number_atoms.NUMBER_SLICES[3:7]) if rng.random() < 0.2 else ALL
    parts["reduce"] = rng.choice(word_atoms.WORD_REDUCES)
    return parts


def _compose_grid(rng: random.Random) -> dict[str, Atom]:
    inner = rng.choice(_PLAIN_REDUCES)
    needs_all = inner.name in ("max", "min", "range")
    return {
        "axis": _AXES[rng.randrange(2)],
        "filter": ALL if needs_all else _maybe(rng, number_atoms.NUMBER_FILTERS, 0.7),
        "map": _maybe(rng, number_atoms.NUMBER_MAPS, 0.4),
        "inner": inner,
        "reduce": rng.choice(number_atoms.NUMBER_REDUCES + number_atoms.NUMBER_LISTINGS),
    }


def _compose_ranges(rng: random.Random) -> dict[str, Atom]:
    parts = {
        "filter": _maybe(rng, number_atoms.NUMBER_FILTERS, 0.7),
        "map": _maybe(rng, number_atoms.NUMBER_MAPS, 0.5),
        "reduce": rng.choice(_PLAIN_REDUCES),
    }
    empty_matters = parts["reduce"].name in ("max", "min", "range")
    return parts | {
        "condition": atoms.EMPTY if parts["filter"] is not ALL and empty_matters else ALL
    }


def _compose_values(rng: random.Random) -> dict[str, Atom]:
    parts = {
        "filter": rng.choice([a for a in number_atoms.NUMBER_FILTERS if a.name in _VALUE_FILTERS]),
        "map": _maybe(rng, number_atoms.NUMBER_MAPS, 0.5),
        "reduce": rng.choice(_PLAIN_REDUCES),
    }
    return parts | {
        "condition": atoms.EMPTY if parts["reduce"].name in ("max", "min", "range") else ALL
    }


def _compose_two(rng: random.Random) -> dict[str, Atom]:
    return {
        "filter": rng.choice(number_atoms.NUMBER_FILTERS[1:]),
        "map": _maybe(rng, number_atoms.NUMBER_MAPS, 0.4),
        "reduce": rng.choice(_PLAIN_REDUCES),
        "join": rng.choice(_JOINS),
        "filter2": rng.choice(number_atoms.NUMBER_FILTERS),
        "reduce2": rng.choice(_PLAIN_REDUCES),
    }


def _maybe(rng: random.Random, choices: Sequence[Atom], probability: float) -> Atom:
    return rng.choice(choices[1:]) if rng.random() < probability else ALL


def _condition(rng: random.Random, filtered: Atom) -> Atom:
    if filtered is not ALL and rng.random() < 0.2:
        return atoms.EMPTY
    return _maybe(rng, atoms.CONDITIONS, 0.45)


_AXES = (Atom("rows", "g", ("row",)), Atom("columns", "zip(*g)", ("column",)))
_JOINS = (
    Atom("plus", "{e} + {f}", ("{s} plus {t}", "{s} added to {t}")),
    Atom("minus", "{e} - ({f})", ("{s} minus {t}",)),
    Atom("times", "({e}) * ({f})", ("{s} times {t}", "the product of {s} and {t}")),
    Atom("larger", "max({e}, {f})", ("the larger of {s} and {t}",)),
    Atom("smaller", "min({e}, {f})", ("the smaller of {s} and {t}",)),
    Atom("both", "{e}, {f}", ("{s} and then, after a space, {t}",)),
)
_COMPOSERS: dict[str, Callable[[random.Random], dict[str, Atom]]] = {
    "list": _compose_list,
    "words": _compose_words,
    "grid": _compose_grid,
    "ranges": _compose_ranges,
    "values": _compose_values,
    "two": _compose_two,
}

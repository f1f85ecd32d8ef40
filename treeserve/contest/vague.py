"""Wordings that leave one thing open: each fits two atoms, and the sample case settles which.

Real statements have such gaps (is the bound included, do positions start at 0, which way is
"sorted"). They are what makes a second try worth while: whoever reads the words alone has to guess.
"""

from dataclasses import dataclass

VAGUE_SHARE = 0.6
"""How often a part that has a vague wording is said in it."""


@dataclass(frozen=True)
class Vague:
    """What two atoms are both called: as `Atom.nouns` and as `Atom.steps`."""

    nouns: tuple[str, ...]
    steps: tuple[str, ...] = ()


_NOTHING_VAGUE = Vague(())
VAGUE_GROUPS: tuple[tuple[str, tuple[str, str], Vague], ...] = (
    ("filter", ("above", "at_least"), Vague(("go past the mark {k}", "are high enough for {k}"))),
    (
        "filter",
        ("below", "at_most"),
        Vague(("stay within the limit {k}", "are low enough for {k}")),
    ),
    ("filter", ("even", "odd"), Vague(("have the wanted parity",))),
    ("filter", ("positive", "negative"), Vague(("have the wanted sign",))),
    ("filter", ("multiple", "not_multiple"), Vague(("are told apart by division by {k}",))),
    ("filter", ("between", "strictly_between"), Vague(("are between {k} and {m}",))),
    ("filter", ("longer", "shorter"), Vague(("are on one side of {k} letters",))),
    ("filter", ("even_length", "odd_length"), Vague(("have a length of the wanted parity",))),
    ("filter", ("starts", "ends"), Vague(("have {c} at one end",))),
    ("filter", ("contains", "lacks"), Vague(("are told apart by the letter {c}",))),
    ("filter", ("vowel_first", "vowel_last"), Vague(("have a vowel at one end",))),
    ("map", ("plus", "minus"), Vague(("{s}, each shifted by {k},",), ("shift each by {k}",))),
    ("map", ("square", "cube"), Vague(("the powers of {s}",), ("raise each to a power",))),
    ("map", ("modulo", "divide"), Vague(("{s}, each divided by {k},",), ("divide each by {k}",))),
    ("map", ("cap", "raise"), Vague(("{s}, each clipped at {k},",), ("clip each at {k}",))),
    ("map", ("first", "last"), Vague(("an end letter of {s}",), ("keep one end letter of each",))),
    ("map", ("prefix", "suffix"), Vague(("{s}, each cut to {k},",), ("cut each to {k} letters",))),
    ("slice", ("smallest", "largest"), Vague(("the {k} extreme of {s}",), ("take {k} extremes",))),
    ("slice", ("first", "last"), Vague(("{k} of {s} from one end",), ("take {k} from one end",))),
    ("reduce", ("max", "min"), Vague(("the extreme of {s}", "the record among {s}"))),
    ("reduce", ("count", "distinct"), Vague(("how many values there are among {s}",))),
    ("reduce", ("second", "second_smallest"), Vague(("the second of {s} in order",))),
    ("reduce", ("median", "lower_median"), Vague(("the median of {s}",))),
    ("reduce", ("average", "average_up"), Vague(("the rounded average of {s}",))),
    ("reduce", ("position", "position_from_zero"), Vague(("where the largest of {s} is",))),
    ("reduce", ("ascending", "descending"), Vague(("{s} sorted", "{s} put in order"))),
    ("reduce", ("longest", "shortest"), Vague(("the one of {s} that stands out by length",))),
    ("reduce", ("alphabet_first", "alphabet_last"), Vague(("the alphabet's extreme of {s}",))),
    ("reduce", ("joined", "dashed"), Vague(("{s} joined into one",))),
    ("reduce", ("sorted", "by_length"), Vague(("{s} in some sensible order",))),
)
_VAGUE = {(role, name): vague for role, names, vague in VAGUE_GROUPS for name in names}


def vague_wording(role: str, name: str) -> Vague:
    """The wordings that leave open whether this atom or another is meant; none for most atoms."""
    return _VAGUE.get(("reduce" if role == "inner" else role.rstrip("2"), name), _NOTHING_VAGUE)

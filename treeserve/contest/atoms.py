"""The atoms that problems are composed of: how each is said, and the Python it becomes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Atom:
    """One part of a problem.

    `code` is Python in which `x` is an element and `b` the list so far; `nouns` say it inside a noun phrase
    (`{s}` is what it applies to), `steps` as an instruction of its own. `{k}`, `{m}` (numbers) and `{c}`, `{d}`
    (letters) are parameters, drawn from `low` to `high` or from the alphabet.
    """

    name: str
    code: str
    nouns: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    low: int = 2
    high: int = 9


ALL = Atom("all", "", ("{s}",))

NUMBER_FILTERS: tuple[Atom, ...] = (
    ALL,
    Atom(
        "even",
        "x % 2 == 0",
        ("are even", "can be split into two equal whole halves", "are divisible by two"),
    ),
    Atom("odd", "x % 2 != 0", ("are odd", "are not even", "leave a remainder when halved")),
    Atom("positive", "x > 0", ("are positive", "are above zero", "are greater than 0")),
    Atom("negative", "x < 0", ("are negative", "are below zero", "are less than 0")),
    Atom(
        "above",
        "x > {k}",
        ("are greater than {k}", "exceed {k}", "are strictly above {k}"),
        (),
        2,
        25,
    ),
    Atom(
        "below",
        "x < {k}",
        ("are less than {k}", "are strictly below {k}", "stay under {k}"),
        (),
        2,
        25,
    ),
    Atom(
        "at_least",
        "x >= {k}",
        ("are at least {k}", "are {k} or more", "are not below {k}"),
        (),
        2,
        25,
    ),
    Atom(
        "at_most",
        "x <= {k}",
        ("are at most {k}", "are {k} or less", "do not exceed {k}"),
        (),
        2,
        25,
    ),
    Atom(
        "multiple",
        "x % {k} == 0",
        ("are multiples of {k}", "are divisible by {k}", "leave no remainder modulo {k}"),
        (),
        3,
        7,
    ),
    Atom(
        "not_multiple",
        "x % {k} != 0",
        ("are not multiples of {k}", "are not divisible by {k}"),
        (),
        3,
        7,
    ),
    Atom(
        "last_digit",
        "abs(x) % 10 == {k}",
        ("end in the digit {k}", "have {k} as their last digit"),
        (),
        1,
        9,
    ),
    Atom(
        "between",
        "{k} <= x <= {m}",
        ("lie between {k} and {m} inclusive", "are from {k} to {m}"),
        (),
        1,
        20,
    ),
    Atom(
        "outside",
        "x < {k} or x > {m}",
        ("do not lie between {k} and {m}", "are outside the range from {k} to {m}"),
        (),
        1,
        20,
    ),
    Atom(
        "not_equal",
        "x != {k}",
        ("are not equal to {k}", "differ from {k}", "are anything but {k}"),
        (),
        1,
        20,
    ),
    Atom(
        "two_digits",
        "10 <= abs(x) <= 99",
        ("have exactly two digits", "are written with two digits"),
    ),
    Atom(
        "even_digits",
        "sum(map(int, str(abs(x)))) % 2 == 0",
        ("have an even digit sum", "have digits that add up to an even number"),
    ),
    Atom(
        "near",
        "abs(x - {k}) <= {j}",
        ("are at most {j} away from {k}", "differ from {k} by no more than {j}"),
        (),
        3,
        20,
    ),
    Atom(
        "square",
        "int(abs(x) ** 0.5) ** 2 == x",
        ("are perfect squares", "are squares of whole numbers"),
    ),
)

NUMBER_MAPS: tuple[Atom, ...] = (
    ALL,
    Atom(
        "square", "x * x", ("the squares of {s}",), ("square each one", "multiply each by itself")
    ),
    Atom(
        "cube", "x ** 3", ("the cubes of {s}",), ("cube each one", "raise each to the third power")
    ),
    Atom(
        "double",
        "x * 2",
        ("the doubles of {s}", "twice each of {s}"),
        ("double each one", "make each twice as large"),
    ),
    Atom(
        "plus",
        "x + {k}",
        ("{s}, each raised by {k},",),
        ("add {k} to each", "increase each by {k}"),
        2,
        15,
    ),
    Atom(
        "minus",
        "x - {k}",
        ("{s}, each lowered by {k},",),
        ("subtract {k} from each", "decrease each by {k}"),
        2,
        15,
    ),
    Atom(
        "times",
        "x * {k}",
        ("{s}, each times {k},", "{k} times each of {s}"),
        ("multiply each by {k}",),
        3,
        12,
    ),
    Atom(
        "absolute",
        "abs(x)",
        ("the absolute values of {s}",),
        ("drop the sign of each", "take absolute values"),
    ),
    Atom("negate", "-x", ("the negations of {s}",), ("flip the sign of each", "negate each one")),
    Atom(
        "modulo",
        "x % {k}",
        ("the remainders of {s} modulo {k}",),
        ("take each modulo {k}", "replace each by its remainder modulo {k}"),
        3,
        9,
    ),
    Atom(
        "divide",
        "x // {k}",
        ("{s}, each divided by {k} and rounded down,",),
        ("divide each by {k}, rounding down",),
        2,
        9,
    ),
    Atom(
        "digit_sum",
        "sum(map(int, str(abs(x))))",
        ("the digit sums of {s}",),
        ("replace each by the sum of its digits",),
    ),
    Atom(
        "digit_count",
        "len(str(abs(x)))",
        ("the numbers of digits of {s}",),
        ("replace each by how many digits it has",),
    ),
    Atom(
        "last_digit",
        "abs(x) % 10",
        ("the last digits of {s}",),
        ("keep just the last digit of each",),
    ),
    Atom(
        "distance",
        "abs(x - {k})",
        ("the distances of {s} to {k}",),
        ("replace each by its distance to {k}",),
        3,
        20,
    ),
    Atom(
        "cap",
        "min(x, {k})",
        ("{s}, each capped at {k},",),
        ("lower those above {k} to {k}", "cap each at {k}"),
        5,
        25,
    ),
    Atom(
        "raise",
        "max(x, {k})",
        ("{s}, each raised to at least {k},",),
        ("lift those below {k} to {k}",),
        2,
        20,
    ),
)

NUMBER_SLICES: tuple[Atom, ...] = (
    ALL,
    Atom(
        "smallest",
        "sorted(b)[:{k}]",
        ("the {k} smallest of {s}",),
        ("take the {k} smallest", "sort ascending and keep {k}"),
        2,
        4,
    ),
    Atom(
        "largest",
        "sorted(b)[-{k}:]",
        ("the {k} largest of {s}",),
        ("take the {k} largest", "sort ascending and keep the final {k}"),
        2,
        4,
    ),
    Atom(
        "first",
        "b[:{k}]",
        ("the first {k} of {s}",),
        ("take the first {k}", "stop after {k} of them"),
        2,
        5,
    ),
    Atom(
        "last",
        "b[-{k}:]",
        ("the last {k} of {s}",),
        ("take the last {k}", "leave just the final {k}"),
        2,
        5,
    ),
    Atom(
        "skip",
        "b[{k}:]",
        ("all but the first {k} of {s}",),
        ("skip the first {k}", "drop {k} from the front"),
        1,
        3,
    ),
    Atom(
        "alternate",
        "b[::2]",
        ("every second of {s}, from the first,",),
        ("keep every second one, starting with the first",),
    ),
    Atom(
        "distinct",
        "sorted(set(b))",
        ("the different values among {s}",),
        ("sort and remove repeats", "keep one of each value, sorted"),
    ),
)

NUMBER_REDUCES: tuple[Atom, ...] = (
    Atom("sum", "sum(b)", ("the sum of {s}", "the total of {s}", "what {s} add up to")),
    Atom("max", "max(b)", ("the maximum of {s}", "the largest of {s}", "the greatest of {s}")),
    Atom("min", "min(b)", ("the minimum of {s}", "the lowest of {s}")),
    Atom("count", "len(b)", ("the number of {s}", "the count of {s}")),
    Atom(
        "range",
        "max(b) - min(b)",
        ("the gap between the largest and smallest of {s}", "the spread of {s}"),
    ),
    Atom("ends", "max(b) + min(b)", ("the sum of the largest and smallest of {s}",)),
    Atom(
        "distinct",
        "len(set(b))",
        ("how many different values are among {s}", "the number of distinct values of {s}"),
    ),
    Atom("second", "sorted(b)[-2]", ("the second largest of {s}", "the runner-up of {s}")),
    Atom(
        "median",
        "sorted(b)[len(b) // 2]",
        (
            "the upper median of {s}",
            "the middle of {s} once sorted (the upper middle for even counts)",
        ),
    ),
    Atom(
        "average",
        "sum(b) // len(b)",
        ("the average of {s} rounded down", "the mean of {s}, rounded down"),
    ),
    Atom("first_last", "b[0] + b[-1]", ("the first plus the last of {s}",)),
    Atom("position", "b.index(max(b)) + 1", ("the position (from 1) of the largest among {s}",)),
    Atom("ties", "b.count(max(b))", ("how often the largest of {s} occurs",)),
)

NUMBER_LISTINGS: tuple[Atom, ...] = (
    Atom("ascending", "*sorted(b)", ("{s} in increasing order", "{s} sorted from low to high")),
    Atom(
        "descending",
        "*sorted(b, reverse=True)",
        ("{s} in decreasing order", "{s} sorted from high to low"),
    ),
    Atom("backwards", "*b[::-1]", ("{s} in reverse order", "{s} backwards")),
    Atom("in_order", "*b", ("{s} in the given order", "{s} as they come")),
)

WORD_FILTERS: tuple[Atom, ...] = (
    ALL,
    Atom("longer", "len(x) > {k}", ("have more than {k} letters", "are longer than {k}"), (), 3, 6),
    Atom(
        "shorter", "len(x) < {k}", ("have fewer than {k} letters", "are shorter than {k}"), (), 4, 7
    ),
    Atom(
        "exactly", "len(x) == {k}", ("have exactly {k} letters", "are {k} letters long"), (), 3, 6
    ),
    Atom(
        "even_length", "len(x) % 2 == 0", ("have an even length", "have an even number of letters")
    ),
    Atom("odd_length", "len(x) % 2 == 1", ("have an odd length", "have an odd number of letters")),
    Atom("starts", 'x[0] == "{c}"', ("start with {c}", "begin with the letter {c}")),
    Atom("ends", 'x[-1] == "{c}"', ("end with {c}", "finish in the letter {c}")),
    Atom("contains", '"{c}" in x', ("contain {c}", "have a letter {c} somewhere")),
    Atom("lacks", '"{c}" not in x', ("do not contain {c}", "lack the letter {c}")),
    Atom(
        "vowel_first", 'x[0] in "aeiou"', ("start with a vowel", "begin with one of a, e, i, o, u")
    ),
    Atom("vowel_last", 'x[-1] in "aeiou"', ("end with a vowel", "finish in one of a, e, i, o, u")),
    Atom("palindrome", "x == x[::-1]", ("are palindromes", "read the same backwards")),
    Atom("same_ends", "x[0] == x[-1]", ("start and end with the same letter",)),
    Atom(
        "twice",
        'x.count("{c}") > 1',
        ("contain {c} at least twice", "have two or more of the letter {c}"),
    ),
    Atom("repeats", "len(set(x)) < len(x)", ("repeat some letter", "use a letter more than once")),
)

WORD_MAPS: tuple[Atom, ...] = (
    ALL,
    Atom("upper", "x.upper()", ("{s} in capitals",), ("write each in capitals", "uppercase each")),
    Atom(
        "reverse",
        "x[::-1]",
        ("the reversals of {s}",),
        ("write each backwards", "reverse each one"),
    ),
    Atom("first", "x[0]", ("the first letters of {s}",), ("keep just the first letter of each",)),
    Atom("last", "x[-1]", ("the last letters of {s}",), ("keep just the last letter of each",)),
    Atom(
        "prefix",
        "x[:{k}]",
        ("the first {k} letters of {s}",),
        ("cut each to its first {k} letters",),
        2,
        4,
    ),
    Atom(
        "suffix",
        "x[-{k}:]",
        ("the last {k} letters of {s}",),
        ("cut each to its last {k} letters",),
        2,
        4,
    ),
    Atom(
        "behead",
        "x[1:]",
        ("{s} without their first letters",),
        ("remove the first letter of each",),
    ),
    Atom("double", "x + x", ("{s}, each written twice,",), ("write each twice in a row",)),
    Atom("remove", 'x.replace("{c}", "")', ("{s} without any {c}",), ("delete every {c}",)),
    Atom(
        "replace",
        'x.replace("{c}", "{d}")',
        ("{s} with every {c} turned into {d}",),
        ("change every {c} to {d}",),
    ),
    Atom("append", 'x + "{c}"', ("{s}, each followed by {c},",), ("put {c} after each",)),
    Atom(
        "sort",
        '"".join(sorted(x))',
        ("{s} with their letters sorted",),
        ("sort the letters of each",),
    ),
)

WORD_NUMBERS: tuple[Atom, ...] = (
    Atom("length", "len(x)", ("the lengths of {s}",), ("replace each by its length",)),
    Atom(
        "letters",
        "len(set(x))",
        ("the numbers of different letters of {s}",),
        ("replace each by how many different letters it has",),
    ),
    Atom(
        "count",
        'x.count("{c}")',
        ("the numbers of times {c} is in {s}",),
        ("replace each by how many {c} it has",),
    ),
)

WORD_REDUCES: tuple[Atom, ...] = (
    Atom("longest", "max(b, key=len)", ("the longest of {s} (the earliest if tied)",)),
    Atom("shortest", "min(b, key=len)", ("the shortest of {s} (the earliest if tied)",)),
    Atom("alphabet_first", "min(b)", ("the alphabetically first of {s}",)),
    Atom("alphabet_last", "max(b)", ("the alphabetically last of {s}",)),
    Atom("joined", '"".join(b)', ("{s} glued together", "{s} written without spaces")),
    Atom("dashed", '"-".join(b)', ("{s} joined with dashes", "{s} with a dash between neighbours")),
    Atom("final", "b[-1]", ("the final one of {s}",)),
    *NUMBER_LISTINGS[2:],
    Atom("sorted", "*sorted(b)", ("{s} in alphabetical order", "{s} sorted as in a dictionary")),
    Atom("by_length", "*sorted(b, key=len)", ("{s} ordered by length", "{s} from short to long")),
)

CONDITIONS: tuple[Atom, ...] = (
    ALL,
    Atom(
        "threshold",
        '"{yes}" if {e} > {k} else "{no}"',
        ("{yes} if {s} is greater than {k}, otherwise {no}",),
        (),
        2,
        40,
    ),
    Atom(
        "at_most",
        '"{yes}" if {e} <= {k} else "{no}"',
        ("{yes} if {s} is at most {k}, otherwise {no}",),
        (),
        2,
        40,
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
    Atom("plus", "{e} + {k}", ("{s}, plus {k}",), (), 2, 30),
    Atom("modulo", "({e}) % {k}", ("{s}, modulo {k}",), (), 3, 11),
)

EMPTY = Atom("empty", "{e} if b else {default}", ("{s}, or {default} if there are none",))
"""The condition for when nothing is left; it goes with every reduction."""

"""What problems do with lists of words, atom by atom."""

from treeserve.contest.atoms import ALL, Atom
from treeserve.contest.number_atoms import NUMBER_LISTINGS

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

"""The words around a problem: who tells it, what the numbers are, and how sentences begin."""

NAMES = (
    "Ada",
    "Ben",
    "Chloe",
    "Dmitri",
    "Elif",
    "Femi",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kira",
    "Liam",
    "Mei",
    "Nora",
)

NUMBER_NOUNS = (
    "numbers",
    "scores",
    "prices",
    "temperatures",
    "heights",
    "weights",
    "points",
    "marks",
    "values",
    "integers",
)

WORD_NOUNS = ("words", "names", "labels", "tags", "passwords")

VOCABULARY = [
    "apple",
    "noon",
    "river",
    "level",
    "stone",
    "radar",
    "cat",
    "kayak",
    "banana",
    "onion",
    "eye",
    "ice",
    "otter",
    "tree",
    "ant",
    "umbrella",
    "echo",
    "lemon",
    "area",
    "data",
    "queen",
    "rotor",
    "silver",
    "sun",
    "moon",
    "civic",
    "dog",
    "lion",
    "tiger",
    "rose",
    "orange",
    "table",
    "window",
    "garden",
    "salt",
    "pepper",
    "sea",
    "ocean",
    "star",
    "planet",
    "refer",
    "stats",
    "sense",
    "treat",
    "trust",
    "aria",
    "idea",
    "erase",
    "edge",
    "letter",
    "potato",
    "tomato",
    "coffee",
    "tea",
    "egg",
    "net",
    "ten",
    "arena",
    "alpha",
    "beta",
    "delta",
    "gamma",
    "sigma",
    "omega",
    "gate",
    "nine",
    "pup",
    "dad",
    "mom",
    "bob",
    "anna",
    "elle",
    "hannah",
    "teeth",
    "book",
    "moor",
    "loop",
]

LETTERS = "aeorstnlmd"

STORIES = (
    "",
    "",
    "{name} wrote down some {noun}. ",
    "{name} has a list of {noun}. ",
    "In a small town, {name} collects {noun}. ",
    "{name} found old {noun} in a drawer. ",
    "Help {name} with the {noun}! ",
    "At school, {name} was given {noun}. ",
    "It is day {day} of the contest and {name} studies {noun}. ",
    "For {day} years {name} has kept {noun}. ",
)

KEEP_STEPS = (
    "Keep only the {noun} that {clause}. ",
    "Ignore all {noun} except those that {clause}. ",
    "Only {noun} that {clause} matter. ",
    "Throw away whatever is not among the {noun} that {clause}. ",
    "Select the {noun} that {clause}. ",
)

LINKS = ("Then", "Next,", "After that,", "Now")

LEFTOVERS = ("the result", "what remains", "the outcome", "what you now have")

PRINT = ("Print", "Output", "Write", "Find and print", "Report")

ANSWERS = (
    ("YES", "NO"),
    ("BIG", "SMALL"),
    ("WIN", "LOSE"),
    ("GOOD", "BAD"),
    ("EVEN", "ODD"),
    ("UP", "DOWN"),
)

DEFAULTS = ("-1", "0", '"NONE"', '"EMPTY"')

LIST_INPUTS = (
    "The first line holds n, the second n integers.",
    "You read n and then a line of n integers.",
    "Given are n and n integers.",
    "Input: a count n, then n numbers in one line.",
)

WORD_INPUTS = (
    "The input is one line of words.",
    "You read a single line with words.",
    "Given is a line of lowercase words.",
)

GRID_INPUTS = (
    "The first line holds r and c, then come r rows of c integers.",
    "You read r and c and a grid of r rows with c integers each.",
    "Given is an r by c table of integers after a line with r and c.",
)

QUERY_INPUTS = (
    "You read n, a line of n integers, q, and q lines with l and r.",
    "The input has n, n integers, a count q and then q queries l r.",
)

VALUE_INPUTS = (
    "You read n, a line of n integers, q, and q lines with one number v.",
    "The input has n, n integers, a count q and then q queries v.",
)

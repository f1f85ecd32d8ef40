"""A composition becomes a task: parameters drawn, a statement worded, a program written, inputs to
draw.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from treeserve.contest import wording
from treeserve.contest.atoms import ALL, EMPTY, Atom
from treeserve.contest.composition import Composition
from treeserve.contest.vague import VAGUE_SHARE, vague_wording

Parameters = Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """A composition with its parameters drawn."""

    statement: str
    solution: str
    draw_stdin: Callable[[random.Random], str]


@dataclass(frozen=True)
class _Stage:
    """An atom with its parameters: `say` words it, `code` is its Python."""

    role: str
    atom: Atom
    parameters: Parameters

    @property
    def code(self) -> str:
        return self.atom.code.format_map(self.parameters)

    def say(self, rng: random.Random, subject: str) -> str:
        nouns = _pick(rng, self.atom.nouns, vague_wording(self.role, self.atom.name).nouns)
        return rng.choice(nouns).format_map({**self.parameters, "s": subject})

    def instruct(self, rng: random.Random) -> str:
        steps = _pick(rng, self.atom.steps, vague_wording(self.role, self.atom.name).steps)
        return rng.choice(steps).format_map(self.parameters)


@dataclass(frozen=True)
class _Told:
    """A telling so far: whole sentences, and the noun phrase for what is left."""

    sentences: str
    subject: str


def realise(rng: random.Random, composition: Composition) -> Task:
    """Draw everything that the composition leaves open."""
    named = zip(composition.roles, composition.parts, strict=True)
    stages = {role: _Stage(role, atom, _draw_parameters(rng, atom)) for role, atom in named}
    return _WRITERS[composition.structure](rng, stages)


def _pick(rng: random.Random, clear: tuple[str, ...], vague: tuple[str, ...]) -> tuple[str, ...]:
    return vague if vague and rng.random() < VAGUE_SHARE else clear


def _draw_parameters(rng: random.Random, atom: Atom) -> dict[str, str]:
    k = rng.randint(atom.low, atom.high)
    c, d = rng.sample(wording.LETTERS, 2)
    yes, no = rng.choice(wording.ANSWERS)
    drawn = {
        "k": k,
        "m": k + rng.randint(4, 15),
        "j": rng.randint(1, 5),
        "c": c,
        "d": d,
        "yes": yes,
        "no": no,
    }
    texts = {name: str(value) for name, value in drawn.items()}
    return texts | {"default": rng.choice(wording.DEFAULTS), "e": "{e}", "f": "{f}", "t": "{t}"}


def _write_list(rng: random.Random, stages: Mapping[str, _Stage]) -> Task:
    noun = rng.choice(wording.NUMBER_NOUNS)
    told = _tell(rng, noun, [stages["filter"], stages["map"], stages["slice"]])
    wanted, result = _finish(rng, stages, told.subject)
    statement = _story(rng, noun, wording.LIST_INPUTS) + told.sentences + _ask(rng, wanted)
    program = f"{_READ_LIST}{_select(stages)}{_slice(stages)}print({result})\n"
    return Task(statement, program, lambda draw: _number_list(draw, _hints(stages)))


def _write_words(rng: random.Random, stages: Mapping[str, _Stage]) -> Task:
    noun = rng.choice(wording.WORD_NOUNS)
    told = _tell(
        rng, noun, [stage for role, stage in stages.items() if role in ("filter", "map", "slice")]
    )
    wanted, result = _finish(rng, stages, told.subject)
    statement = _story(rng, noun, wording.WORD_INPUTS) + told.sentences + _ask(rng, wanted)
    program = f"a = input().split()\n{_select(stages)}{_slice(stages)}print({result})\n"
    return Task(statement, program, _word_line)


def _write_grid(rng: random.Random, stages: Mapping[str, _Stage]) -> Task:
    axis = stages["axis"].atom
    told = _tell(rng, "cells", [stages["filter"], stages["map"]], nested=True)
    each = stages["inner"].say(rng, f"{told.subject} in it")
    subject = rng.choice(("the results", "these values", "the numbers so found"))
    wanted = stages["reduce"].say(rng, subject)
    opening = rng.choice(
        ("For each {a}, compute {e}. ", "Every {a} gives {e}. ", "Take for every {a} {e}. ")
    )
    statement = _story(rng, "tables", wording.GRID_INPUTS) + opening.format(a=axis.nouns[0], e=each)
    inner = stages["inner"].code.replace("b", "{row}")
    row = _comprehension(stages["map"], stages["filter"], "row")
    if inner.count("{row}") == 1:
        compute = f"b.append({inner.format(row=row)})\n"
    else:
        compute = f"c = {row}\n    b.append({inner.format(row='c')})\n"
    program = (
        "r, c = map(int, input().split())\n"
        "g = [list(map(int, input().split())) for i in range(r)]\n"
        f"b = []\nfor row in {axis.code}:\n    {compute}print({stages['reduce'].code})\n"
    )
    return Task(statement + _ask(rng, wanted), program, lambda draw: _grid(draw, _hints(stages)))


def _write_ranges(rng: random.Random, stages: Mapping[str, _Stage]) -> Task:
    noun = rng.choice(wording.NUMBER_NOUNS)
    told = _tell(rng, noun, [stages["filter"], stages["map"]], nested=True)
    wanted, result = _finish(rng, stages, told.subject)
    where = rng.choice(
        (
            "from position l to r",
            "at the positions l to r (from 1)",
            "between positions l and r inclusive",
        )
    )
    ask = f"For each query, looking {where}, {rng.choice(wording.PRINT).lower()} {wanted}."
    program = (
        f"{_READ_LIST}q = int(input())\nfor i in range(q):\n    l, r = map(int, input().split())\n"
        f"    b = {_comprehension(stages['map'], stages['filter'], 'a[l - 1:r]')}\n"
        f"    print({result})\n"
    )
    return Task(
        _story(rng, noun, wording.QUERY_INPUTS) + ask,
        program,
        lambda draw: _range_queries(draw, _hints(stages)),
    )


def _write_values(rng: random.Random, stages: Mapping[str, _Stage]) -> Task:
    noun = rng.choice(wording.NUMBER_NOUNS)
    asked = {
        **stages,
        "filter": _Stage(
            "filter", stages["filter"].atom, {**stages["filter"].parameters, "k": "v"}
        ),
    }
    told = _tell(rng, noun, [asked["filter"], asked["map"]], nested=True)
    wanted, result = _finish(rng, asked, told.subject)
    ask = f"For each query v, {rng.choice(wording.PRINT).lower()} {wanted}."
    program = (
        f"{_READ_LIST}q = int(input())\nfor i in range(q):\n    v = int(input())\n"
        f"    b = {_comprehension(asked['map'], asked['filter'], 'a')}\n    print({result})\n"
    )
    return Task(
        _story(rng, noun, wording.VALUE_INPUTS) + ask,
        program,
        lambda draw: _value_queries(draw, _hints(stages)),
    )


def _write_two(rng: random.Random, stages: Mapping[str, _Stage]) -> Task:
    noun = rng.choice(wording.NUMBER_NOUNS)
    first = _tell(rng, noun, [stages["filter"], stages["map"]], nested=True)
    second = _tell(rng, noun, [stages["filter2"]], nested=True)
    spoken = {
        "s": stages["reduce"].say(rng, first.subject),
        "t": stages["reduce2"].say(rng, second.subject),
    }
    wanted = rng.choice(stages["join"].atom.nouns).format_map(spoken)
    code = {"e": stages["reduce"].code, "f": stages["reduce2"].code.replace("b", "c")}
    program = (
        f"{_READ_LIST}{_select(stages)}c = {_comprehension(_NOTHING, stages['filter2'], 'a')}\n"
        f"print({stages['join'].atom.code.format_map(code)})\n"
    )
    statement = _story(rng, noun, wording.LIST_INPUTS) + _ask(rng, wanted)
    return Task(statement, program, lambda draw: _number_list(draw, _hints(stages)))


_READ_LIST = "n = int(input())\na = list(map(int, input().split()))\n"
_NOTHING = _Stage("map", ALL, {})
_WRITERS: dict[str, Callable[[random.Random, Mapping[str, _Stage]], Task]] = {
    "list": _write_list,
    "words": _write_words,
    "grid": _write_grid,
    "ranges": _write_ranges,
    "values": _write_values,
    "two": _write_two,
}


def _tell(rng: random.Random, noun: str, stages: Sequence[_Stage], nested: bool = False) -> _Told:
    """Say the stages: some as instructions first, the others inside one noun phrase."""
    acting = [stage for stage in stages if stage.atom is not ALL]
    as_steps = 0 if nested or rng.random() < 0.5 else rng.randint(1, max(1, len(acting)))
    sentences = ""
    for stage in acting[:as_steps]:
        sentences += _step(rng, noun, stage, first=not sentences)
    subject = rng.choice(wording.LEFTOVERS) if sentences else f"the {noun}"
    for stage in acting[as_steps:]:
        subject = (
            f"{subject} that {stage.say(rng, '')}"
            if stage.role.startswith("filter")
            else stage.say(rng, subject)
        )
    return _Told(sentences, subject)


def _step(rng: random.Random, noun: str, stage: _Stage, first: bool) -> str:
    if stage.role == "filter":
        return rng.choice(wording.KEEP_STEPS).format(noun=noun, clause=stage.say(rng, ""))
    action = stage.instruct(rng)
    if first:
        return f"{action[0].upper()}{action[1:]}. "
    return f"{rng.choice(wording.LINKS)} {action}. "


def _finish(rng: random.Random, stages: Mapping[str, _Stage], subject: str) -> tuple[str, str]:
    """The noun phrase of the answer, and the Python inside `print(...)`."""
    wanted = stages["reduce"].say(rng, subject)
    result = stages["reduce"].code
    condition = stages.get("condition")
    if condition is None or condition.atom is ALL:
        return wanted, result
    spoken = condition
    if condition.atom is EMPTY:
        bare = condition.parameters["default"].strip('"')
        spoken = _Stage("condition", EMPTY, {**condition.parameters, "default": bare})
    return spoken.say(rng, wanted), condition.code.format(e=result)


def _select(stages: Mapping[str, _Stage]) -> str:
    return f"b = {_comprehension(stages['map'], stages['filter'], 'a')}\n"


def _comprehension(mapped: _Stage, kept: _Stage, source: str) -> str:
    condition = f" if {kept.code}" if kept.atom is not ALL else ""
    return f"[{mapped.code or 'x'} for x in {source}{condition}]"


def _slice(stages: Mapping[str, _Stage]) -> str:
    taken = stages.get("slice")
    return "" if taken is None or taken.atom is ALL else f"b = {taken.code}\n"


def _story(rng: random.Random, noun: str, inputs: Sequence[str]) -> str:
    story = rng.choice(wording.STORIES).format(
        name=rng.choice(wording.NAMES), noun=noun, day=rng.randint(2, 30)
    )
    return f"{story}{rng.choice(inputs)} "


def _ask(rng: random.Random, wanted: str) -> str:
    return f"{rng.choice(wording.PRINT)} {wanted}."


def _hints(stages: Mapping[str, _Stage]) -> list[int]:
    """Numbers at which the program's answer may turn, worth having in inputs."""
    used = [stage.parameters for stage in stages.values() if "{k}" in stage.atom.code]
    return [
        int(parameters[name]) + shift
        for parameters in used
        for name in ("k", "m")
        for shift in (-1, 0, 1)
    ]


def _number(rng: random.Random, hints: Sequence[int]) -> int:
    kind = rng.random()
    if hints and kind < 0.25:
        return rng.choice(hints)
    if kind < 0.35:
        return rng.randint(0, 12) ** 2
    if kind < 0.4:
        return rng.randint(-150, 250)
    return rng.randint(-9, 30)


def _numbers(rng: random.Random, hints: Sequence[int], count: int) -> str:
    return " ".join(str(_number(rng, hints)) for _ in range(count))


def _number_list(rng: random.Random, hints: Sequence[int]) -> str:
    count = rng.randint(1, 2) if rng.random() < 0.1 else rng.randint(3, 7)
    return f"{count}\n{_numbers(rng, hints, count)}\n"


def _word_line(rng: random.Random) -> str:
    count = rng.randint(1, 2) if rng.random() < 0.1 else rng.randint(3, 7)
    return " ".join(rng.choice(wording.VOCABULARY) for _ in range(count)) + "\n"


def _grid(rng: random.Random, hints: Sequence[int]) -> str:
    rows, columns = rng.randint(2, 3), rng.randint(2, 4)
    lines = [_numbers(rng, hints, columns) for _ in range(rows)]
    return f"{rows} {columns}\n" + "\n".join(lines) + "\n"


def _range_queries(rng: random.Random, hints: Sequence[int]) -> str:
    count, queries = rng.randint(3, 6), 2
    lines = []
    for _ in range(queries):
        start, end = sorted((rng.randint(1, count), rng.randint(1, count)))
        lines.append(f"{start} {end}")
    return f"{count}\n{_numbers(rng, hints, count)}\n{queries}\n" + "\n".join(lines) + "\n"


def _value_queries(rng: random.Random, hints: Sequence[int]) -> str:
    count, queries = rng.randint(3, 6), 2
    values = "\n".join(
        str(rng.randint(2, 9) if rng.random() < 0.6 else rng.randint(1, 40)) for _ in range(queries)
    )
    return f"{count}\n{_numbers(rng, hints, count)}\n{queries}\n{values}\n"

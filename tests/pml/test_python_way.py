"""Functions compile to the schemas that they read as, or fail with their file and line."""

import runpy
from typing import Annotated, Literal

import pytest

from treeserve.pml import (
    MaxTokens,
    PmlError,
    SchemaBuilder,
    assistant,
    parse_schema,
    schema,
    system,
    user,
)

HEADER = "Files follow.\r\n"


@schema
def surf(board: Annotated[str, MaxTokens(3)]):
    f"Bring {board}."  # noqa: B021


@schema(cache=False)
def season():
    "It is June."


def test_every_construct_has_its_tag():
    @schema(scaffolds={"both": ("miami", "cheap")})
    def trip(
        days: Annotated[str, MaxTokens(4)],
        town: Literal["miami", "oslo"],
        cheap: bool,
        slow: bool,
        fast: bool,
    ):
        HEADER  # noqa: B018
        f"""
        Plan {days} days:
          - all of them
        """
        match town:
            case "miami":
                "Beaches."
                surf()
            case "oslo":
                "Fjords."
            case _:
                "Elsewhere."
        if cheap:
            "Money is short."
        if slow:
            "Walk."
        elif fast:
            "Run."
        else:
            season()

    expected = parse_schema("""
    <schema name="trip">
      Files follow.
      Plan <parameter name="days" length="4"/> days:
        - all of them
      <union>
        <module name="miami">Beaches.<module name="surf">Bring <parameter name="board" length="3"
          />.</module></module>
        <module name="oslo">Fjords.</module>
        <module name="other-town">Elsewhere.</module>
      </union>
      <module name="cheap">Money is short.</module>
      <union>
        <module name="slow">Walk.</module>
        <module name="fast">Run.</module>
        <module name="not-slow-fast">
          <module name="season" cache="false">It is June.</module>
        </module>
      </union>
      <scaffold name="both" modules="miami cheap"/>
    </schema>""")
    assert trip.build() == expected


def test_with_is_a_turn():
    @schema(name="chat")
    def talk():
        with system():
            "Be brief."
            surf()
        with user():
            "Why?"
        with assistant():
            "So."

    built = SchemaBuilder("chat")
    turn = built.turn("system").text("Be brief.")
    turn.module("surf").text("Bring ").parameter("board", 3).text(".")
    built.turn("user").text("Why?")
    built.turn("assistant").text("So.")
    assert talk.build() == built.build()


def test_a_schema_is_compiled_and_never_run():
    with pytest.raises(TypeError, match=r"surf.build\(\) is what it says"):
        surf("x")
    with pytest.raises(TypeError, match="it is never run"), user():
        pass


HEAD = """\
from typing import Annotated, Literal
from treeserve.pml import MaxTokens, schema, user

@schema
def other():
    "text"

@schema
def f({parameters}):
    {body}
"""
TEXT = "x: Annotated[str, MaxTokens(2)]"


@pytest.mark.parametrize(
    ("parameters", "body", "where", "expected"),
    [
        ("", "for i in range(3):\n        'x'", "10:5", "a statement of Python (For) cannot be"),
        ("", "return 'x'", "10:5", "a statement of Python (Return) cannot be compiled; expected a"),
        ("", "3", "10:5", "'3' cannot be compiled; expected a string, an f-string"),
        ("", "'a' + 'b'", "10:5", "\"'a' + 'b'\" cannot be compiled"),
        (
            "",
            "if True:\n        'x'",
            "10:8",
            "if True; expected a parameter alone, annotated as b",
        ),
        (TEXT, "if x:\n        'x'", "10:8", "if x; expected a parameter alone, annotated as bool"),
        ("b: bool", "b", "10:5", "'b' is no text; expected a parameter with MaxTokens"),
        ("b: bool", "'x'", "9:1", "parameter 'b' is never used; expected it in the body"),
        ("b: bool", "if b:\n        pass\n    'x'", "10:5", "module 'b' is empty; expected text"),
        (TEXT, "f'é {x!r}'", "10:5", "an f-string with more than names in braces"),
        (TEXT, "f'{x:>3}'", "10:5", "an f-string with more than names in braces"),
        (TEXT, "f'{x} and {x}'", "10:5", "parameter name 'x' is taken in this module"),
        ("", "g()", "10:5", "g is not known here as a @schema function; expected one that is def"),
        ("", "f()", "10:5", "f is not known here as a @schema function"),
        ("", "other('x')", "10:5", "other(…) with arguments; expected other(), as a prompt gives"),
        ("", "other()\n    other()", "11:5", "module name 'other' is taken"),
        ("n: int", "n", "9:1", "parameter 'n' of the function; expected one without a default"),
        ("n", "n", "9:1", "parameter 'n' of the function; expected one without a default, annot"),
        ("n: bool = True", "n", "9:1", "expected one without a default"),
        (
            "n: 'Missing'",
            "n",
            "9:1",
            "an annotation cannot be evaluated: name 'Missing' is not def",
        ),
        ("x: Annotated[str, MaxTokens(0)]", "x", "10:5", "length=0; expected a whole number from"),
        (
            "t: Literal['a']",
            "match t:\n        case 'b':\n            'x'",
            "11:14",
            "case 'b'; expected one of 'a', or _",
        ),
        (
            "t: Literal['a b']",
            "match t:\n        case 'a b':\n            'x'",
            "11:14",
            "module name 'a b'; expected 1 to 64",
        ),
        (
            "b: bool",
            "match b:\n        case _: 'x'",
            "10:11",
            "match b; expected a parameter alone",
        ),
        ("", "with open('x'):\n        'x'", "10:5", "with …; expected with system():, with user"),
        ("", "with user():\n        'x'\n    'y'", "12:5", "text beside turns; expected it inside"),
        ("b: bool", "if b:\n        with user():\n            'x'", "11:9", "(With) cannot be"),
        ("", "lambda: 'x'", "10:5", "cannot be compiled"),
    ],
)
def test_what_cannot_be_compiled_is_named_by_its_line(tmp_path, parameters, body, where, expected):
    file = tmp_path / "house.py"
    file.write_text(HEAD.format(parameters=parameters, body=body))
    with pytest.raises(PmlError) as caught:
        runpy.run_path(str(file))["f"].build()
    assert str(caught.value.place) == f"{file}:{where}"
    assert expected in str(caught.value)


def test_a_method_is_placed_by_its_indentation(tmp_path):
    file = tmp_path / "house.py"
    file.write_text(
        "from treeserve.pml import schema\nclass A:\n    @schema\n    def f():\n        3\n"
    )
    with pytest.raises(PmlError, match=r"house\.py:5:9: '3' cannot be compiled"):
        runpy.run_path(str(file))


def test_a_function_without_source_is_refused():
    names = {"schema": schema}
    with pytest.raises(PmlError, match="<string>:1: the source of f cannot be read"):
        exec("@schema\ndef f():\n    'x'\n", names)
    with pytest.raises(TypeError, match="@schema is for functions"):
        schema(print)

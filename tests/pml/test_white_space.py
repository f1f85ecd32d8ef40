"""Which white space around tags belongs to the text, so that schemas can be laid out legibly."""

import pytest

from treeserve.pml import parse_prompt, parse_schema
from treeserve.pml.tags import ModuleTag, ParameterTag, Text, TurnTag

P = '<parameter name="p" length="2"/>'
Q = '<parameter name="q" length="2"/>'


def texts_of(content: str) -> list[str]:
    """Texts of the only module; "<p>" is a parameter, "[…]" a module in it."""
    schema = parse_schema(f'<schema name="s"><module name="m">{content}</module></schema>')
    return [shown(node) for node in schema.content[0].content]


def shown(node: object) -> str:
    match node:
        case Text():
            return node.text
        case ParameterTag():
            return f"<{node.name}>"
        case ModuleTag():
            return f"[{node.content[0].text}]"
    raise AssertionError(node)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text", ["text"]),
        (" text ", [" text "]),
        ("\n    text\n  ", ["text\n"]),
        ("\n\n    text\n\n  ", ["text\n"]),
        ("\n    one\n      two\n    three\n  ", ["one\n  two\nthree\n"]),
        ("\n    one\n\n    two\n  ", ["one\n\ntwo\n"]),
        ("\n\tone\n\t\ttwo\n", ["one\n\ttwo\n"]),
        (f"\n  for {P} days\n", ["for ", "<p>", " days\n"]),
        (f"\n  {P}\n  {Q}\n", ["<p>", "\n", "<q>", "\n"]),
        (f"\n  a:\n  {P}\n\n  b\n", ["a:\n", "<p>", "\n\nb\n"]),
        ('<module name="a">x</module> <module name="b">y</module>', ["[x]", " ", "[y]"]),
        ('\n<module name="a">x</module>\n<module name="b">y</module>\n', ["[x]", "[y]"]),
        ('\n  one\n\n  <module name="a">x</module>\n\n  two\n', ["one\n", "[x]", "two\n"]),
        ("\n  <![CDATA[\n  if a < b:\n]]>\n", ["\n  if a < b:\n"]),
        ("\n  code:\n  <![CDATA[ x ]]>\n  end\n", ["code:\n x \nend\n"]),
        ("<![CDATA[a]]><![CDATA[b]]>", ["ab"]),
        ("a &lt; b &amp;&amp; c", ["a < b && c"]),
        ("a<!-- not text -->b", ["ab"]),
    ],
)
def test_indentation_is_no_text_and_cdata_is(content, expected):
    assert texts_of(content) == expected


def test_a_turn_and_a_prompt_end_without_a_line_break():
    schema = parse_schema('<schema name="s">\n<user>\n  hello\n  you\n</user>\n</schema>')
    assert schema.content == (TurnTag("user", (Text("hello\nyou"),)),)
    prompt = parse_prompt('<prompt schema="s">\n  <a/> <b/>\n\n  Why\n  not?\n</prompt>')
    assert prompt.content == (Text("Why\nnot?"),)


def test_cdata_at_the_end_of_a_prompt_keeps_its_line_break():
    prompt = parse_prompt('<prompt schema="s">\n  <![CDATA[def f():\n]]>\n</prompt>')
    assert prompt.content == (Text("def f():\n"),)

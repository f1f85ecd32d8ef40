"""Schemas that programs generate are checked like those that people write."""

import pytest

from treeserve.pml import PmlError, SchemaBuilder, parse_schema


def test_a_built_schema_is_the_one_that_pml_says():
    builder = SchemaBuilder("s")
    builder.text("Hello\r\n").text("you")
    inner = builder.module("a", cache=False, max_tokens=9)
    inner.text("For ").parameter("days", 4)
    union = builder.union()
    union.module("b").text("b")
    union.module("c").text("c")
    assert builder.build() == parse_schema(
        '<schema name="s"><![CDATA[Hello\nyou]]><module name="a" cache="false" max_tokens="9">For '
        '<parameter name="days" length="4"/></module><union><module name="b">b</module>'
        '<module name="c">c</module></union></schema>'
    )


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda s: s.module("a"), "module 'a' is empty"),
        (lambda s: s.module("user").text("x"), "module name 'user'; expected one that is no tag"),
        (lambda s: s.parameter("a", 0), "length=0; expected a whole number from 1"),
        (lambda s: s.parameter("a", True), "length=True; expected a whole number"),
        (lambda s: s.parameter("", 3), "parameter name ''; expected 1 to 64"),
        (lambda s: s.module("a" * 65).text("x"), "expected 1 to 64 of letters"),
        (lambda s: s.text("a\0b"), r"character '\\x00' in text; expected characters of XML"),
        (lambda s: s.text("\ud800"), "in text; expected characters of XML"),
        (lambda s: s.turn("wizard").text("x"), "turn of role 'wizard'; expected one of system"),
        (lambda s: s.module("a", max_tokens=0).text("x"), "max_tokens=0; expected a whole number"),
        (lambda s: s, "an empty <schema>; expected text or tags"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_built(build, reason):
    builder = SchemaBuilder("s")
    build(builder)
    with pytest.raises(PmlError, match=reason):
        builder.build()


def test_modules_cannot_be_nested_without_end():
    builder = SchemaBuilder("s")
    module = builder
    for index in range(40):
        module = module.module(f"m{index}")
    with pytest.raises(PmlError, match="nested deeper than 32 tags"):
        builder.build()

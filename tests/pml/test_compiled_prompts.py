"""What a prompt takes of its schema: modules, positions, arguments, and the exact tokens."""

import pytest

from treeserve.pml import ImportTag, PmlError, PromptTag, Text, parse_prompt, parse_schema
from treeserve.pml.layout import walk_modules

SCHEMA = """
<schema name="s">Hi.<module name="a">A<parameter name="x" length="4"/>a<module name="in">I</module>
</module><union><module name="u">uu</module><module name="v" cache="false">vvvv</module></union>
<module name="z">zz</module><scaffold name="az" modules="a z"/></schema>
""".replace("\n", "")


@pytest.fixture
def schema(compiled):
    return compiled(parse_schema(SCHEMA))


def read(tokens) -> str:
    """Of the tokenizer of bytes."""
    return bytes(token - 1 for token in tokens).decode()


def prompt_of(schema, imports: str, own: str = "Q?"):
    return schema.prompt(parse_prompt(f'<prompt schema="s">{imports}{own}</prompt>'))


def modules_of(prompt) -> list[tuple[str, list[int]]]:
    return [(read(m.token_ids), m.positions.tolist()) for m in prompt.module_set.modules]


def test_everything_has_its_position(schema):
    placed = {m.name: (m.start, m.end) for m in walk_modules(schema.root)}
    assert placed == {
        "": (0, 16), "a": (3, 10), "in": (9, 10), "u": (10, 12), "v": (10, 14), "z": (14, 16)
    }  # fmt: skip
    assert schema.base_position == 16
    assert list(schema.modules) == ["", "a", "in", "u", "z"]


def test_arguments_come_first_at_their_positions_and_own_text_at_the_end(schema):
    prompt = prompt_of(schema, '<u/><a x="xy"><in/></a>')
    assert modules_of(prompt) == [
        ("Hi.", [0, 1, 2]), ("Aa", [3, 8]), ("I", [9]), ("uu", [10, 11])
    ]  # fmt: skip
    assert read(prompt.own_token_ids) == "xyQ?"
    assert prompt.module_set.argument_positions.tolist() == [4, 5]
    assert prompt.module_set.base_position == 16
    assert prompt.imported == ("a", "in", "u")
    assert prompt.schema_id == schema.schema_id


def test_the_exact_prompt_reads_as_one_text(schema):
    assert read(prompt_of(schema, '<u/><a x="xy"><in/></a>').exact_token_ids) == "Hi.AxyaIuuQ?"
    assert read(prompt_of(schema, '<v/><a x=""/>').exact_token_ids) == "Hi.AavvvvQ?"


def test_the_order_of_imports_changes_nothing(schema):
    one = prompt_of(schema, '<z/><u/><a x="x"/>')
    other = prompt_of(schema, '<a x="x"/><z/><u/>')
    assert one.module_set.key == other.module_set.key
    assert one.exact_token_ids == other.exact_token_ids


def test_a_module_that_is_not_cached_is_the_prompts_own(schema):
    prompt = prompt_of(schema, '<v/><a x="x"/>')
    assert modules_of(prompt) == [("Hi.", [0, 1, 2]), ("Aa", [3, 8])]
    assert read(prompt.own_token_ids) == "xvvvvQ?"
    assert prompt.module_set.argument_positions.tolist() == [4, 10, 11, 12, 13]


def test_a_scaffold_stands_for_all_its_members(schema):
    together = prompt_of(schema, '<a x=""/><z/><u/>')
    assert modules_of(together) == [
        ("Hi.", [0, 1, 2]), ("Aazz", [3, 8, 14, 15]), ("uu", [10, 11])
    ]  # fmt: skip
    assert together.imported == ("a", "u", "z")
    alone = prompt_of(schema, '<a x=""/>')
    assert modules_of(alone) == [("Hi.", [0, 1, 2]), ("Aa", [3, 8])]


def test_scaffolds_that_overlap_are_taken_in_the_order_of_the_schema(compiled):
    modules = "".join(f'<module name="{name}">{name}</module>' for name in "abc")
    scaffolds = '<scaffold name="x" modules="b a"/><scaffold name="y" modules="b c"/>'
    schema = compiled(parse_schema(f'<schema name="s">{modules}{scaffolds}</schema>'))
    assert modules_of(prompt_of(schema, "<a/><b/><c/>")) == [("ab", [0, 1]), ("c", [2])]
    assert modules_of(prompt_of(schema, "<b/><c/>")) == [("bc", [1, 2])]


def test_no_modules_tokens_depend_on_its_neighbours(tokenizer):
    """With merges, text would be cut elsewhere if it were tokenised together."""
    from treeserve.embedded import MODEL_FOLDER
    from treeserve.pml import compile_schema
    from treeserve.tokenizer import Tokenizer

    real = Tokenizer.load(MODEL_FOLDER)
    texts = {"a": "def solve", "b": "(lines", "c": "):\n    return"}
    tags = [f'<module name="{name}"><![CDATA[{text}]]></module>' for name, text in texts.items()]
    found = []
    for listed in (tags, tags[:1] + tags[2:], tags[1:]):
        schema = parse_schema(f'<schema name="s">{"".join(listed)}</schema>')
        compiled = compile_schema(schema, real, model_fingerprint="", max_positions=64)
        found += [(n, m.token_ids.tolist()) for n, m in compiled.modules.items() if n]
    assert all(tokens == real.encode_plain(texts[name]) for name, tokens in found)
    assert len(found) == 7


def test_the_models_begin_of_text_token_stands_at_position_0_alone():
    from treeserve.embedded import MODEL_FOLDER
    from treeserve.pml import compile_schema
    from treeserve.tokenizer import Tokenizer

    schema = parse_schema('<schema name="s"><module name="a">text</module></schema>')
    compiled = compile_schema(
        schema, Tokenizer.load(MODEL_FOLDER), model_fingerprint="", max_positions=64
    )
    assert compiled.modules[""].token_ids.tolist() == [0]
    assert compiled.modules["a"].positions.tolist()[0] == 1
    assert 0 not in compiled.modules["a"].token_ids


def test_special_tokens_in_text_and_arguments_stay_text(schema, compiled):
    prompt = prompt_of(schema, '<a x="&lt;en"/>', "&lt;end>")
    assert read(prompt.own_token_ids) == "<en<end>"
    module = compiled(parse_schema('<schema name="s"><![CDATA[<end>]]></schema>')).modules[""]
    assert read(module.token_ids) == "<end>"


def test_a_schema_that_the_model_has_no_room_for_is_refused(compiled):
    schema = parse_schema('<schema name="s"><parameter name="x" length="999999999"/></schema>')
    with pytest.raises(PmlError, match="takes 999999999 positions; expected at most 1022"):
        compiled(schema)


def test_a_prompt_ends_before_the_models_last_position(compiled):
    schema = compiled(
        parse_schema('<schema name="s">x<parameter name="x" length="1000"/></schema>')
    )
    fits = parse_prompt('<prompt schema="s" x="">' + "q" * 22 + "</prompt>")
    assert len(schema.prompt(fits).own_token_ids) == 22
    longer = parse_prompt('<prompt schema="s" x="">' + "q" * 23 + "</prompt>")
    with pytest.raises(PmlError, match="end at position 1024, as schema 's' takes 1001"):
        schema.prompt(longer)


def test_a_prompt_without_any_cached_text_is_refused(compiled):
    schema = compiled(parse_schema('<schema name="s"><module name="a">a</module></schema>'))
    with pytest.raises(PmlError, match="imports no cached text; expected at least one module"):
        prompt_of(schema, "")


def test_a_module_is_held_to_its_max_tokens(compiled):
    text = '<schema name="s"><module name="a" max_tokens="{}">abc</module></schema>'
    compiled(parse_schema(text.format(3)))
    with pytest.raises(PmlError, match=":1:18: module 'a' has 3 tokens of its own; expected at"):
        compiled(parse_schema(text.format(2)))


def test_a_prompt_of_fields_is_one_of_text(schema):
    fields = PromptTag(
        schema="s",
        imports=(ImportTag("a", {"x": "xy"}, (ImportTag("in"),)), ImportTag("u")),
        content=(Text("Q?"),),
        max_tokens=7,
    )
    by_fields = schema.prompt(fields)
    by_text = prompt_of(schema, '<a x="xy"><in/></a><u/>')
    assert by_fields.module_set.key == by_text.module_set.key
    assert by_fields.own_token_ids == by_text.own_token_ids
    assert (by_fields.max_tokens, by_text.max_tokens) == (7, None)


def test_a_prompt_of_fields_has_no_file_in_its_errors(schema):
    with pytest.raises(PmlError, match=r"^<built>: unknown module 'b'; the schema has a, u, v, z"):
        schema.prompt(PromptTag("s", (ImportTag("b"),), (Text("Q?"),)))


def test_own_text_of_fields_may_be_any_text_but_half_a_character(schema):
    def own(text: str) -> str:
        return read(schema.prompt(PromptTag("s", (), (Text(text),))).own_token_ids)

    assert own("a\r\n\x0bb") == "a\r\n\x0bb"
    with pytest.raises(PmlError, match="<built>: text is not valid Unicode text: character 1"):
        own("a\ud800")


def test_keys_change_with_whatever_the_kv_depends_on(compiled, tokenizer):
    def keys(text: str, model: str = "tiny") -> set[str]:
        schema = compiled(parse_schema(text), model_fingerprint=model)
        return {module.key for module in schema.modules.values()}

    text = '<schema name="s">Hi.<module name="a">aa</module></schema>'
    assert keys(text) == keys(text.replace('"a"', '"b"').replace('"s"', '"t"'))
    assert not keys(text) & keys(text, "another model")
    assert len(keys(text) & keys(text.replace("Hi.", "Ho."))) == 1
    assert not keys(text) & keys(text.replace("Hi.", "Hi!!"))

"""Files that are too large, too deep, not text, or elsewhere are refused by name."""

import pytest

from treeserve.pml import PmlError, parse_prompt, parse_schema, read_schema
from treeserve.pml.xml_reader import MAX_BYTES, MAX_DEPTH, MAX_TAGS

LIMIT = f"is larger than {MAX_BYTES} bytes \\(MAX_BYTES\\), the most"


def schema_of(text: str) -> str:
    return f'<schema name="s">{text}</schema>'


def nested(depth: int) -> str:
    """Modules within modules, with the schema's own tag of that depth."""
    start = "".join(f'<module name="m{i}">x' for i in range(depth - 1))
    return schema_of(start + "</module>" * (depth - 1))


@pytest.mark.parametrize("parse", [parse_schema, parse_prompt])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_ten_megabytes_are_refused_by_the_name_of_the_limit(parse, as_bytes):
    text = schema_of("x" * 10_000_000)
    with pytest.raises(PmlError, match=LIMIT):
        parse(text.encode() if as_bytes else text)


def test_characters_count_by_their_bytes():
    with pytest.raises(PmlError, match=LIMIT):
        parse_schema(schema_of("€" * (MAX_BYTES // 3)))


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "large.pml").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(PmlError, match=f"large.pml: {LIMIT}"):
        read_schema(tmp_path / "large.pml")


def test_files_of_a_schema_count_together(tmp_path):
    (tmp_path / "half.txt").write_text("x" * (MAX_BYTES // 2))
    modules = "".join(f'<module name="{name}" src="half.txt"/>' for name in "ab")
    (tmp_path / "schema.pml").write_text(schema_of(modules))
    with pytest.raises(PmlError, match=r"schema and src files have more than \d+ bytes"):
        read_schema(tmp_path / "schema.pml")


def test_tags_are_nested_up_to_a_depth_and_no_deeper():
    parse_schema(nested(MAX_DEPTH - 1))
    with pytest.raises(PmlError, match=f"nested deeper than {MAX_DEPTH} tags"):
        parse_schema(nested(MAX_DEPTH + 1))
    with pytest.raises(PmlError, match=f"<x> is nested deeper than {MAX_DEPTH} tags"):
        parse_prompt('<prompt schema="s">' + "<x>" * 100_000)


def test_a_flood_of_tags_is_refused():
    with pytest.raises(PmlError, match=f"more than {MAX_TAGS} tags \\(MAX_TAGS\\), the most"):
        parse_prompt('<prompt schema="s">' + "<x/>" * (MAX_TAGS + 1) + "</prompt>")


def test_bytes_that_are_no_text_are_named_by_their_place():
    with pytest.raises(PmlError, match="<schema>:2:3: not valid UTF-8"):
        parse_schema('<schema name="s">\nab€'.encode()[:-1])


def test_half_a_character_is_no_text():
    with pytest.raises(PmlError, match="character 17 is half a character"):
        parse_schema(schema_of("\ud800"))


def test_another_encoding_is_refused():
    with pytest.raises(PmlError, match="encoding 'latin-1'; expected \"UTF-8\""):
        parse_schema(b'<?xml version="1.0" encoding="latin-1"?><schema name="s">x</schema>')


def test_a_byte_order_mark_and_windows_line_ends_change_nothing():
    text = '<?xml version="1.0" encoding="utf-8"?>\n<schema name="s">\n  a\n  b\n</schema>\n'
    marked = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    assert parse_schema(marked) == parse_schema(text)


def test_columns_count_characters_and_not_bytes():
    with pytest.raises(PmlError, match=":1:22: unknown tag <b>"):
        parse_schema('<schema name="s">€é😀 <b/></schema>')


def test_a_link_out_of_the_folder_is_no_way_out(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    inside = tmp_path / "schemas"
    inside.mkdir()
    (inside / "link.txt").symlink_to(tmp_path / "secret.txt")
    (inside / "schema.pml").write_text(schema_of('<module name="a" src="link.txt"/>'))
    with pytest.raises(PmlError, match=r"src='link.txt' leaves the schema's folder"):
        read_schema(inside / "schema.pml")


def test_a_link_within_the_folder_is_followed_and_cannot_hide_a_cycle(tmp_path):
    (tmp_path / "a.pml").write_text('<module>x<module name="b" src="link.pml"/></module>')
    (tmp_path / "link.pml").symlink_to(tmp_path / "a.pml")
    (tmp_path / "schema.pml").write_text(schema_of('<module name="a" src="link.pml"/>'))
    with pytest.raises(PmlError, match=r"cyclic src: schema.pml → a.pml → a.pml"):
        read_schema(tmp_path / "schema.pml")


def test_text_that_comes_from_no_file_can_name_none():
    with pytest.raises(PmlError, match="this schema is in no folder"):
        parse_schema(schema_of('<module name="a" src="a.txt"/>'))


def test_a_missing_schema_is_named(tmp_path):
    with pytest.raises(PmlError, match=r"nowhere.pml: cannot be read: No such file"):
        read_schema(tmp_path / "nowhere.pml")


def test_one_file_may_stand_in_several_modules(tmp_path):
    (tmp_path / "part.pml").write_text("<module>For <parameter name='x' length='2'/></module>")
    modules = "".join(f'<module name="{name}" src="part.pml"/>' for name in "ab")
    (tmp_path / "schema.pml").write_text(schema_of(modules))
    first, second = read_schema(tmp_path / "schema.pml").content
    assert first.content == second.content

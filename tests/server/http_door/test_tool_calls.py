"""Calls found in what models write, in the forms that they write them in."""

import json

import pytest

from treeserve.errors import InvalidRequest
from treeserve.server.openai.schemas import Tool
from treeserve.server.openai.tools import read_tools, split_calls

ADD = Tool.model_validate({"type": "function", "function": {"name": "add"}})
SUB = Tool.model_validate({"type": "function", "function": {"name": "sub"}})
USE = read_tools([ADD, SUB], "auto")


def calls_in(text: str) -> list[tuple[str, dict]]:
    found = split_calls(text, USE).calls
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in found]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "add", "arguments": {"a": 1}}',
        ' {"name": "add", "parameters": {"a": 1}}\n',
        '[{"name": "add", "arguments": {"a": 1}}]',
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"a": 1}}',
    ],
)
def test_a_call_is_found(text):
    assert calls_in(text) == [("add", {"a": 1})]


def test_several_calls_are_found_and_the_text_around_them_stays():
    one = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    other = '<tool_call>{"name": "sub", "arguments": {}}</tool_call>'
    split = split_calls(f"Let me see. {one}\n{other}", USE)
    assert [call["function"]["name"] for call in split.calls] == ["add", "sub"]
    assert split.text == "Let me see."
    assert len({call["id"] for call in split.calls}) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "add 1 and 2",
        '{"name": "format_disk", "arguments": {}}',
        '{"name": "add", "arguments": "1"}',
        '{"name": "add"}',
        '<tool_call>{"name": "add", </tool_call>',
        "[" * 100_000,
    ],
)
def test_what_is_no_call_of_a_function_that_there_is_stays_text(text):
    split = split_calls(text, USE)
    assert (split.text, split.calls) == (text, [])


def test_a_function_that_must_be_called_has_to_be_there():
    with pytest.raises(InvalidRequest, match="tool_choice: names 'mul', which tools do not have"):
        read_tools([ADD], {"name": "mul"})
    with pytest.raises(InvalidRequest, match="tool_choice: must not be given without tools"):
        read_tools(None, "required")
    assert not read_tools([ADD], "none").is_on

"""Tree files: what they may hold, and the place that errors name."""

import json

import pytest

from treeserve.errors import InvalidRequest
from treeserve.prompt_tree import TreeFileError, read_tree_file, tree_file_error
from treeserve.types import PromptTree, SamplingParams


@pytest.fixture
def read(tmp_path):
    def read_text(text: str | bytes, defaults: SamplingParams | None = None) -> PromptTree:
        file = tmp_path / "tree.json"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_tree_file(file, defaults)

    return read_text


def test_a_tree_in_full(read):
    params = {
        "temperature": 0,
        "top_k": 3,
        "top_p": 0.5,
        "min_p": 0.1,
        "seed": 4,
        "max_tokens": 5,
        "stop": ["x"],
        "stop_token_ids": [6],
        "ignore_eos": True,
        "logprobs": 1,
    }
    tree = {"text": "a", "n": 0, "branches": [{"text": "b", "n": 2, "params": params}]}
    defaults = SamplingParams(max_tokens=99)
    assert read(json.dumps(tree), defaults) == PromptTree(
        "a",
        n=0,
        params=defaults,
        branches=(
            PromptTree(
                "b",
                n=2,
                params=SamplingParams(
                    temperature=0,
                    top_k=3,
                    top_p=0.5,
                    min_p=0.1,
                    seed=4,
                    max_tokens=5,
                    stop=("x",),
                    stop_token_ids=(6,),
                    ignore_eos=True,
                    logprobs=1,
                ),
            ),
        ),
    )


def test_params_leave_out_what_the_defaults_say(read):
    tree = read('{"text": "a", "params": {"seed": 1}}', SamplingParams(max_tokens=7, seed=2))
    assert tree.params == SamplingParams(max_tokens=7, seed=1)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "", "not JSON: Expecting value at line 1, column 1"),
        ('{"text": "a",\n}', "", "not JSON"),
        (b'{"text": "\xff"}', "", "not valid UTF-8 at byte 10"),
        ("[]", "", "must be an object with a text, got a list"),
        ("{}", "", 'must have a "text"'),
        ('{"text": 3}', "text", "must be a string, got 3"),
        ('{"text": "a", "text": "b"}', "", "key 'text' occurs twice"),
        ('{"txt": "a"}', "", "unknown key 'txt'; known: text, n, params, branches"),
        ('{"text": "a", "n": 1.5}', "n", "must be an integer, got 1.5"),
        ('{"text": "a", "n": true}', "n", "must be an integer, got true"),
        ('{"text": "a", "n": null}', "n", "must be an integer, got null"),
        ('{"text": "a", "n": NaN}', "", "NaN is not a JSON number"),
        ('{"text": "a", "branches": {}}', "branches", "must be a list of nodes, got an object"),
        ('{"text": "a", "branches": [{"text": "b"}, 4]}', "branches[1]", "must be an object"),
        (
            '{"text": "a", "branches": [{"text": "b", "branches": [{"text": "c", "x": 1}]}]}',
            "branches[0].branches[0]",
            "unknown key 'x'",
        ),
        ('{"text": "a", "params": 3}', "params", "must be an object, got 3"),
        ('{"text": "a", "params": {"n": 3}}', "params", "unknown key 'n'"),
        ('{"text": "a", "params": {"stop": "x"}}', "params.stop", "must be a list of strings"),
        ('{"text": "a", "params": {"top_k": "x"}}', "params.top_k", "must be an integer"),
        ("[" * 100_000, "", "deeper than 64 levels"),
    ],
)
def test_errors_name_the_file_and_the_place(read, tmp_path, text, where, what):
    with pytest.raises(TreeFileError) as caught:
        read(text)
    start = f"{tmp_path / 'tree.json'}: " + (f"{where}: " if where else "")
    assert str(caught.value).startswith(start)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def nested(levels: int) -> str:
    return '{"text": "a", "branches": [' * levels + '{"text": "b"}' + "]}" * levels


def test_a_tree_has_64_levels_of_branches_at_most(read):
    read(nested(64))
    with pytest.raises(TreeFileError, match=r"branches\[0\]: is deeper than 64 levels"):
        read(nested(65))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TreeFileError, match=r"none\.json: cannot be read: No such file"):
        read_tree_file(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("field", "where"),
    [
        ("tree", ""),
        ("tree.n", "n: "),
        ("tree.branches[1].n", "branches[1].n: "),
        ("tree.branches[1].prompt", "branches[1].text: "),
        ("tree.branches[0].max_tokens", "branches[0].params.max_tokens: "),
        ("tree.stop[2]", "params.stop[2]: "),
    ],
)
def test_errors_found_later_name_the_place_in_the_file(tmp_path, field, where):
    file = tmp_path / "tree.json"
    error = tree_file_error(file, InvalidRequest(field, "must be right"))
    assert str(error) == f"{file}: {where}must be right"

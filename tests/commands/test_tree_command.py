"""`treeserve tree`: pictures of servers and of files."""

import asyncio
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from server.side_house import prefix, running_house

from treeserve.commands.main import main
from treeserve.commands.tree_outline import make_outline, outline_lines, plain
from treeserve.commands.tree_source import read_file, write_view
from treeserve.commands.tree_svg import draw_svg
from treeserve.config import EngineOptions
from treeserve.inspection import NodeUse, TreeNode, TreeView
from treeserve.pb import prefix_pb2

TRUNK = "A trunk that two share. "


def node(node_id: int, parent_id: int | None, tokens: int, pins: int = 0, **more) -> TreeNode:
    use = NodeUse(pins, 0, None, 0.0, 0.0)
    base = TreeNode(node_id, parent_id, "", 0, tokens, tokens, 1, 0, use, ())
    return replace(base, **more)


VIEW = TreeView(
    (
        node(1, None, 100, 3),
        node(2, 1, 20, 2, start_position=100),
        node(3, 1, 30, 1, start_position=100, num_computed_tokens=10),
        node(4, 2, 7, start_position=120),
        node(5, 2, 8, start_position=120),
    ),
    0,
    0,
    165,
)


def test_text_shows_what_lies_beneath_what_and_counts_the_rest():
    assert outline_lines(make_outline(VIEW, 3)) == [
        "100 tokens, used by 3",
        "├─ 20 tokens, used by 2",
        "│  └─ 2 more nodes, 15 tokens",
        "└─ 30 tokens, 20 pending, used by 1",
    ]
    assert len(outline_lines(make_outline(VIEW, 100))) == 5
    assert outline_lines(make_outline(TreeView((), 0, 0, 0), 5)) == []


def test_svg_is_well_formed_and_has_every_node_whatever_it_holds():
    hostile = "</title><script>alert(1)</script>\x00\x1b\ud800\u202e&"
    view = replace(VIEW, nodes=(replace(VIEW.nodes[0], namespace=hostile), *VIEW.nodes[1:]))
    svg = draw_svg(view, hostile, {2: hostile})
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}g")) == len(VIEW.nodes)
    assert not list(root.iter(f"{space}script"))
    for rect in root.iter(f"{space}rect"):
        assert float(rect.get("x", 0)) + float(rect.get("width")) <= 1200.1


def test_an_empty_tree_can_be_drawn():
    ElementTree.fromstring(draw_svg(TreeView((), 0, 0, 0), "nothing"))


def test_what_cannot_be_seen_is_written_out():
    assert plain("a\x1b[2J\u202e\n\u2028b") == "a\\x1b[2J\\u202e\\n\\u2028b"
    assert plain("héllo 日本 🙂") == "héllo 日本 🙂"


def test_a_saved_tree_is_drawn_as_it_was(tmp_path, capsys):
    saved = tmp_path / "tree.json"
    saved.write_text(write_view(VIEW))
    assert read_file(saved, "embedded") == VIEW
    assert main(["tree", str(saved), "--max-nodes", "1"]) == 0
    assert capsys.readouterr().out == (
        "tree.json: 5 nodes of 165 tokens\n100 tokens, used by 3\n└─ 4 more nodes, 65 tokens\n"
    )


def test_a_file_of_prompts_shows_what_they_would_share(tmp_path, capsys):
    file = tmp_path / "prompts.json"
    ends = [{"text": "Question one?", "n": 4}, {"text": "Question two?", "n": 2}]
    file.write_text(json.dumps({"text": TRUNK, "branches": ends}))
    assert main(["tree", str(file)]) == 0
    head, trunk, *branches = capsys.readouterr().out.splitlines()
    assert "3 nodes" in head
    assert trunk.endswith("used by 6")
    assert [line[-1] for line in branches] == ["4", "2"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        ('{"format": "other"}', "format must be 'treeserve-tree-1'"),
        ('{"format": "treeserve-tree-1"}', "is damaged"),
        ('{"format": "treeserve-tree-1", "nodes": [{"use": null, "token_ids": []}]}', "is damaged"),
        ("not JSON", "not JSON"),
        ('{"txt": "a"}', "txt"),
    ],
)
def test_a_file_that_cannot_be_drawn_is_one_line_that_says_why(content, said, tmp_path, capsys):
    file = tmp_path / "tree.json"
    if content is not None:
        file.write_text(content)
    assert main(["tree", str(file)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_saved_tree_whose_parents_are_missing_is_damaged(tmp_path, capsys):
    file = tmp_path / "tree.json"
    file.write_text(write_view(replace(VIEW, nodes=VIEW.nodes[1:])))
    assert main(["tree", str(file)]) == 2
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "file: give exactly one of a file and --server"),
        (["x.json", "--server", "a:1"], "file: give exactly one of a file and --server"),
        (["x.json", "--all"], "--all: needs --server"),
        (["x.json", "--text"], "--text: needs --server"),
        (["x.json", "--timeout", "3"], "--timeout: needs --server"),
        (["x.json", "--output", "x.png"], "--output: must end in .svg, .txt or .json"),
        (["x.json", "--max-nodes", "0"], "--max-nodes: must be between 1 and 2048, got 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, said, capsys):
    assert main(["tree", *arguments]) == 2
    assert said in capsys.readouterr().err


async def test_a_server_is_drawn_and_saved_and_its_texts_only_if_it_shows_them(
    checkpoint_of, tmp_path, capsys, monkeypatch
):
    options = EngineOptions(model=str(checkpoint_of("llama")), num_pages=64, page_size=16)
    async with running_house(options, show_text=True) as house:
        [(_, value)] = house.own_key
        monkeypatch.setenv("TREESERVE_API_KEY", value.removeprefix("Bearer "))
        for end in ("one", "two"):
            request = prefix_pb2.WarmRequest(prefix=prefix(TRUNK + end))
            await house.prefix.Warm(request)
        ask = ["tree", "--server", str(house.server.grpc_address)]
        assert await asyncio.to_thread(main, [*ask, "--text"]) == 0
        out = capsys.readouterr().out
        assert f"3 nodes of {len(TRUNK) + 6} tokens" in out
        assert f"“{TRUNK}”" in out
        for name in ("tree.svg", "tree.json", "tree.txt"):
            output = str(tmp_path / name)
            assert await asyncio.to_thread(main, [*ask, "--output", output]) == 0
        ElementTree.parse(tmp_path / "tree.svg")
        assert len(read_file(tmp_path / "tree.json", "embedded").nodes) == 3
    async with running_house(options) as house:
        [(_, value)] = house.own_key
        monkeypatch.setenv("TREESERVE_API_KEY", value.removeprefix("Bearer "))
        await house.prefix.Warm(prefix_pb2.WarmRequest(prefix=prefix(TRUNK)))
        ask = ["tree", "--server", str(house.server.grpc_address), "--text"]
        assert await asyncio.to_thread(main, ask) == 1
        assert "--show-text" in capsys.readouterr().err

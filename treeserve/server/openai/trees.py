"""Trees of prompts: their requests read, their answers written."""

from collections.abc import Iterator

from treeserve.errors import InvalidRequest
from treeserve.server.batching import PromptEvents
from treeserve.server.contract import ServedModel
from treeserve.server.convert import TreeCall
from treeserve.server.openai.answers import (
    Chunk,
    Collected,
    CompletionLogprobs,
    Drawn,
    Head,
    Json,
    Path,
    TokenText,
    write_end,
    write_usage,
)
from treeserve.server.openai.asked import Asked, Naming, check_model, head_of, read_options
from treeserve.server.openai.chats import read_messages
from treeserve.server.openai.completions import read_node_params
from treeserve.server.openai.more_schemas import TreeNode, TreeRequest
from treeserve.server.openai.read_modules import read_modules
from treeserve.types import MAX_TREE_DEPTH, PromptTree, RequestOptions


def read_tree_request(body: TreeRequest, served: ServedModel, text_of: TokenText) -> Asked:
    """What a trees request asks for; raises InvalidRequest with its own field names."""
    check_model(body.model, served)
    options = read_options(body, "tree")
    call = TreeCall(
        _read_node(body.tree, "tree", 0),
        RequestOptions(
            request_id=options.request_id,
            priority=options.priority,
            group=options.group,
            public_trunk=bool(body.public_trunk),
        ),
        None if body.modules is None else read_modules(body.modules),
    )
    answer = TreeAnswer(head_of(body, options, served), text_of)
    return Asked(call, answer, bool(body.stream), Naming())


class TreeAnswer:
    """Writes the samples of each node under its path.

    Args:
        head: What all of it has in common.
        text_of: The text of a token.
    """

    def __init__(self, head: Head, text_of: TokenText) -> None:
        self._head = head
        self._logprobs = CompletionLogprobs(text_of)
        self._collected = Collected()

    def chunks(self, events: PromptEvents) -> Iterator[Chunk]:
        news = self._collected.add(events)
        if not news and events.usage is None:
            return
        node = self._node(events.path, news, self._collected if events.usage else None)
        yield Chunk({**self._top("tree.chunk"), **node})

    def last(self) -> Iterator[Chunk]:
        yield Chunk({**self._top("tree.chunk"), **self._end(self._collected)})

    def whole(self, collected: Collected) -> Json:
        drawn = collected.in_order()
        nodes = [
            self._node(path, [sample for sample in drawn if sample.path == path], collected)
            for path in sorted(collected.usages)
        ]
        return {**self._top("tree"), "nodes": nodes, **self._end(collected)}

    def _top(self, kind: str) -> Json:
        return {
            "id": self._head.answer_id,
            "object": kind,
            "created": self._head.created,
            "model": self._head.model,
        }

    def _node(self, path: Path, drawn: list[Drawn], collected: Collected | None) -> Json:
        usage = {} if collected is None else {"usage": write_usage([collected.usages[path]])}
        return {"path": path, "choices": [self._choice(sample) for sample in drawn], **usage}

    def _choice(self, drawn: Drawn) -> Json:
        choice: Json = {
            "index": drawn.index,
            "text": drawn.text,
            "logprobs": self._logprobs.write(drawn) if drawn.logprobs else None,
            "num_tokens": drawn.num_tokens,
            **write_end(drawn),
        }
        if self._head.tells_token_ids:
            choice["token_ids"] = drawn.token_ids
        return choice

    def _end(self, collected: Collected) -> Json:
        usage = collected.tree_usage
        return {"tree_usage": None if usage is None else write_usage([usage])}


def _read_node(node: TreeNode, name: str, depth: int) -> PromptTree:
    if depth > MAX_TREE_DEPTH:
        raise InvalidRequest(name, f"is deeper than {MAX_TREE_DEPTH} levels")
    params = node.params
    return PromptTree(
        text=node.text or "",
        branches=tuple(
            _read_node(branch, f"{name}.branches[{index}]", depth + 1)
            for index, branch in enumerate(node.branches or ())
        ),
        n=node.n,
        params=None if params is None else read_node_params(params, f"{name}.params"),
        token_ids=tuple(node.token_ids or ()),
        messages=read_messages(node.messages or ()),
    )

"""Bytes that are no request name what is wrong with them."""

import pytest

from treeserve.errors import InvalidRequest
from treeserve.pb import generation_pb2 as pb
from treeserve.server.wire import parse


def corrupted(message, text: str = "MARK") -> bytes:
    """The message with an invalid byte where the text says so."""
    data = message.SerializeToString()
    assert data.count(text.encode()) == 1
    return data.replace(text.encode(), b"MA\xffK")


def varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def test_a_request_in_good_order_is_parsed():
    request = pb.GenerateRequest(text="é", n=3)
    assert parse(pb.GenerateRequest, request.SerializeToString()) == request


@pytest.mark.parametrize(
    ("request_message", "field"),
    [
        (pb.GenerateRequest(text="xMARK"), "text"),
        (
            pb.GenerateRequest(
                text="é", params=pb.Parameters(stopping=pb.Stopping(stop=["é", "xMARK"]))
            ),
            "params.stopping.stop[1]",
        ),
        (
            pb.GenerateTreeRequest(
                tree=pb.TreeNode(text="a", branches=[pb.TreeNode(), pb.TreeNode(text="xMARK")])
            ),
            "tree.branches[1].text",
        ),
        (
            pb.GenerateRequest(
                chat=pb.Chat(messages=[pb.Message(role="é"), pb.Message(content="xMARK")]),
                params=pb.Parameters(sampling=pb.Sampling(logit_bias={1: 2.0})),
            ),
            "chat.messages[1].content",
        ),
    ],
)
def test_text_that_is_not_utf8_is_named_with_its_byte(request_message, field):
    with pytest.raises(InvalidRequest) as caught:
        parse(type(request_message), corrupted(request_message))
    assert caught.value.field == field
    assert caught.value.description == "must be valid UTF-8; byte 3 is not"


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x7fshort", b"\x0b"])
def test_bytes_that_are_no_message_at_all(data):
    with pytest.raises(InvalidRequest) as caught:
        parse(pb.GenerateRequest, data)
    assert caught.value.field == "request"


def test_a_tree_nested_beyond_all_measure_is_refused():
    node = b""
    for _ in range(300):
        node = b"\x22" + varint(len(node)) + node
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        parse(pb.GenerateTreeRequest, b"\x0a" + varint(len(node)) + node)

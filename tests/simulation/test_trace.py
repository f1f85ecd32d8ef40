"""Traces are read as they were meant, or refused with the line and the field that is wrong."""

import json
import math

import numpy as np
import pytest

from treeserve.simulation.trace import FIRST_DRAWN_TOKEN, TraceError, read_trace, to_line
from treeserve.simulation.workloads import TRACES_FOLDER, WORKLOADS

GOOD = {"timestamp": 5, "input_length": 3, "output_length": 2, "hash_ids": [7]}


def read(tmp_path, *lines: str):
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return read_trace(file)


def test_a_line_as_mooncake_publishes_it(tmp_path):
    [request] = read(
        tmp_path,
        '{"timestamp": 27482, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 9]}',
    )
    assert request.arrival_seconds == 27.482
    assert request.block_size == 512
    assert request.output_lengths == (52,)
    assert request.max_tokens == 52
    assert len(request.own_tokens()) == 1100


def test_everything_that_a_line_may_say_survives_being_written(tmp_path):
    lines = [
        '{"timestamp":5,"input_length":3,"output_length":[2,9],"hash_ids":[7,8],"block_size":2,'
        '"num_samples":2,"max_tokens":20,"tenant":"a","priority":-1,"id":"root","deadline":1500}',
        '{"timestamp":1,"input_length":1,"output_length":4,"hash_ids":[9],"tenant":"a",'
        '"parent":"root","parent_sample":1}',
    ]
    root, child = read(tmp_path, *lines)
    assert (root.deadline_seconds, root.priority, root.num_samples) == (1.5, -1, 2)
    assert (child.request_id, child.parent, child.parent_sample) == ("2", "root", 1)
    assert read(tmp_path, to_line(root), to_line(child)) == [root, child]


def test_equal_blocks_are_equal_tokens_and_others_differ_in_every_place(tmp_path):
    line = '{"timestamp": 0, "input_length": 11, "output_length": 1, "block_size": 4, "hash_ids": '
    first, second = read(tmp_path, line + "[1, 2, 3]}", line + "[1, 5, 3]}")
    a, b = first.own_tokens(), second.own_tokens()
    assert a.dtype == np.int32
    assert np.array_equal(a == b, [True] * 4 + [False] * 4 + [True] * 3)
    assert 0 <= min(a) <= max(a) < FIRST_DRAWN_TOKEN


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"n": 1}, "n: unknown; fields are timestamp, input_length, output_length, hash_ids, "),
        ({"timestamp": -5}, "timestamp: must be a number of milliseconds, at least 0, got -5"),
        ({"timestamp": math.nan}, "timestamp: must be a number of milliseconds, at least 0, got "),
        ({"input_length": True}, "input_length: must be an integer of at least 1, got true"),
        ({"input_length": 513}, "hash_ids: 1 blocks, and input_length needs 2"),
        ({"hash_ids": ["7"]}, 'hash_ids: must be a list of integers from 0 to 2^30 - 1, got ["7"]'),
        ({"output_length": [2, 3]}, "output_length: must be an integer of at least 1, or a list "),
        ({"output_length": 0}, "output_length: must be an integer of at least 1, or a list of 1 "),
        ({"max_tokens": 1}, "max_tokens: must be an integer of at least 2, got 1"),
        ({"num_samples": 0}, "num_samples: must be an integer of at least 1, got 0"),
        ({"priority": 0.5}, "priority: must be an integer of at least -2147483648, got 0.5"),
        ({"deadline": "1s"}, "deadline: must be a number of milliseconds, at least 0, got "),
        ({"tenant": 3}, "tenant: must be a string, got 3"),
        ({"id": "a"}, "id: 'a' is an earlier line's"),
        ({"parent": "b"}, "parent: no earlier line has the id 'b'"),
        ({"parent": "a", "parent_sample": 1}, "parent_sample: 1, and the parent has 1 samples"),
        ({"parent": "a", "tenant": "x"}, "tenant: 'x', and the parent's ''"),
    ],
)
def test_a_wrong_field_is_one_error_that_names_the_line_and_the_field(tmp_path, change, error):
    with pytest.raises(TraceError) as caught:
        read(tmp_path, json.dumps(GOOD | {"id": "a"}), "", json.dumps(GOOD | change))
    assert str(caught.value).startswith(f"{tmp_path / 't.jsonl'}:3: {error}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("{", "not JSON: Expecting property name"),
        ("[1]", "must be a JSON object"),
        ('{"timestamp": 0}', "output_length: missing"),
    ],
)
def test_a_line_that_is_no_request_is_named(tmp_path, line, error):
    with pytest.raises(TraceError) as caught:
        read(tmp_path, line)
    assert str(caught.value).startswith(f"{tmp_path / 't.jsonl'}:1: {error}")


def test_files_without_requests_are_refused(tmp_path):
    with pytest.raises(TraceError, match="has no requests"):
        read(tmp_path, "")
    with pytest.raises(TraceError, match="cannot be read: No such file"):
        read_trace(tmp_path / "nowhere")
    (tmp_path / "t").write_bytes(b"\xff")
    with pytest.raises(TraceError, match="not valid UTF-8 at byte 0"):
        read_trace(tmp_path / "t")


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_committed_traces_are_what_their_generator_writes(name):
    file = TRACES_FOLDER / f"{name}.jsonl"
    requests = WORKLOADS[name]()
    assert file.read_text().splitlines() == [to_line(request) for request in requests], (
        "run python -m treeserve.simulation.workloads"
    )
    assert read_trace(file) == requests
    assert file.stat().st_size < 150 << 10


def test_every_committed_trace_has_a_workload():
    assert {file.stem for file in TRACES_FOLDER.glob("*")} == set(WORKLOADS)

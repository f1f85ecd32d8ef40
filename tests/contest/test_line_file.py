"""Files that runs add lines to: one run at a time, and an error that names the line."""

import pytest

from treeserve.contest.line_file import lock, read_line, write_line
from treeserve.contest.records.fields import RecordError
from treeserve.errors import ConfigError


def test_a_line_comes_back_as_it_was_written():
    record = {"text": "ä\n", "token_ids": [1, 2]}
    line = write_line(record)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert read_line(line, "f:1") == record


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"a": 1', "f:3: not JSON: "),
        # Too deep for Python's reader: an error of the file, and no traceback.
        ("[" * 100_000, "f:3: not JSON: "),
        ("[1]", r"f:3: expected a JSON object, found \[1\]"),
    ],
)
def test_what_is_no_record_is_refused_with_its_place(line, words):
    with pytest.raises(RecordError, match=words):
        read_line(line, "f:3")


def test_a_file_is_one_runs_until_it_is_closed(tmp_path):
    path = tmp_path / "samples.jsonl"
    with path.open("ab") as first, path.open("ab") as second:
        lock(first, path)
        with pytest.raises(ConfigError, match=r"--output: .* is being written by another run"):
            lock(second, path)
    with path.open("ab") as third:
        lock(third, path)

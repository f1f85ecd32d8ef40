"""The committed protobuf code is what `make proto` would write."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOS = sorted((ROOT / "proto" / "treeserve" / "v1").glob("*.proto"))


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-Itreeserve/pb=proto/treeserve/v1", *outputs]
        + [str(path.relative_to(ROOT)) for path in PROTOS],
        cwd=ROOT,
        check=True,
    )
    return folder / "treeserve" / "pb"


def test_every_generated_file_is_up_to_date(generated):
    fresh = {path.name: path.read_text() for path in generated.iterdir()}
    committed = {name: (ROOT / "treeserve" / "pb" / name).read_text() for name in fresh}
    assert committed == fresh


def test_nothing_else_lies_beside_the_generated_files(generated):
    fresh = {path.name for path in generated.iterdir()}
    present = {path.name for path in (ROOT / "treeserve" / "pb").iterdir() if path.is_file()}
    assert present == fresh | {"__init__.py"}


@pytest.mark.parametrize("path", PROTOS, ids=lambda path: path.stem)
def test_every_field_has_a_comment_unless_its_message_says_all(path):
    """Units, ranges and defaults are where a client's author looks for them."""
    lines = path.read_text().splitlines()
    bare = [
        line.strip()
        for previous, line in itertools.pairwise(lines)
        if line.strip().startswith("optional ") and not previous.strip().startswith("//")
    ]
    assert not bare

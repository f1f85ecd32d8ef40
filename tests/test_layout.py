"""The house is laid out as docs/architecture.md says."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    ".ci",
    "deploy",
    "docs",
    "examples",
    "kernels",
    "proto",
    "scheduler",
    "tests",
    "treeserve",
}
MAX_LINES = 400


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [Path(line) for line in listing.splitlines() if (ROOT / line).exists()]


def source_files() -> list[Path]:
    files = [path for path in tracked_files() if path.suffix == ".py"]
    return [path for path in files if path.parts[:2] != ("treeserve", "pb")]


def test_top_level_holds_the_documented_folders_and_no_other():
    folders = {path.parts[0] for path in tracked_files() if len(path.parts) > 1}
    assert folders == FOLDERS


@pytest.mark.parametrize("name", ["kernels", "scheduler"])
def test_symlinks_make_top_level_folders_importable_as_subpackages(name):
    link = ROOT / "treeserve" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("name", ["kernels", "scheduler"])
def test_package_init_executes_nothing(name):
    """transformers may import a top-level module named kernels."""
    lines = (ROOT / name / "__init__.py").read_text().strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('"""')


def test_no_file_outgrows_its_one_thing():
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in source_files()}
    too_long = {str(path): length for path, length in lengths.items() if length > MAX_LINES}
    assert not too_long


def test_every_module_says_in_one_sentence_what_it_owns():
    silent = [p for p in source_files() if not (ROOT / p).read_text().startswith('"""')]
    assert not silent


def test_every_source_file_has_its_sentence_in_the_architecture_page():
    page = (ROOT / "docs" / "architecture.md").read_text()
    package = [p for p in source_files() if p.parts[0] in {"treeserve", "kernels", "scheduler"}]
    names = [path.as_posix() for path in package if path.name != "__init__.py"]
    missing = [name for name in names if f"`{name}`" not in page]
    assert not missing


def test_no_grab_bag_modules():
    banned = {"utils", "util", "common", "helpers", "manager", "misc"}
    assert not [path for path in source_files() if path.stem in banned]


def test_importing_the_package_loads_no_heavy_library():
    """`treeserve --help` and the client must start at once."""
    modules = "treeserve, treeserve.client, treeserve.commands.main"
    code = f"import {modules}, sys; sys.exit(bool({{'torch', 'transformers'}} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

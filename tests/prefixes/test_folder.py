"""A folder of saved prefixes: whole files or none, and each tenant its own."""

import os
import stat

import pytest

from treeserve.errors import AlreadyExists, ConfigError, InvalidRequest, NoRoom, NotFound
from treeserve.prefixes import folder as module
from treeserve.prefixes.folder import PrefixFolder


@pytest.fixture
def folder(tmp_path) -> PrefixFolder:
    return PrefixFolder(tmp_path / "new" / "saved", max_bytes=100)


def pieces(data: bytes) -> list[memoryview]:
    return [memoryview(data[:1]), memoryview(data[1:])]


def test_what_is_written_is_read_listed_and_deleted(folder):
    entry = folder.write("", "a", pieces(b"content"), overwrite=False)
    assert (entry.name, entry.num_bytes) == ("a", 7)
    assert folder.read("", "a", 7) == b"content"
    assert folder.entries("") == [entry]
    assert folder.num_bytes_left() == 93
    folder.delete("", "a")
    assert (folder.entries(""), folder.num_bytes_left()) == ([], 100)
    with pytest.raises(NotFound, match="'a'"):
        folder.read("", "a", 7)


def test_nothing_is_replaced_unless_it_is_said(folder):
    folder.write("", "a", pieces(b"one"), overwrite=False)
    with pytest.raises(AlreadyExists):
        folder.write("", "a", pieces(b"two"), overwrite=False)
    with pytest.raises(AlreadyExists):
        folder.require_free("", "a")
    assert folder.read("", "a", 9) == b"one"
    folder.write("", "a", pieces(b"three"), overwrite=True)
    assert folder.read("", "a", 9) == b"three"


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(folder, tmp_path, monkeypatch):
    folder.write("", "a", pieces(b"old"), overwrite=False)

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(Exception, match="No space left"):
            folder.write("", "a", pieces(b"new"), overwrite=True)
    assert folder.read("", "a", 9) == b"old"
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["a.safetensors"]


def test_tenants_have_folders_of_their_own_however_they_are_called(folder, tmp_path):
    tenants = ["", "a", "A", "..", "../a", "name-a", "no-tenant", "sha256-", "x" * 300, "ü/\0"]
    for number, tenant in enumerate(tenants):
        folder.write(tenant, "n", pieces(bytes([number])), overwrite=False)
    assert [folder.read(tenant, "n", 1) for tenant in tenants] == [
        bytes([number]) for number in range(len(tenants))
    ]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == len(tenants)
    assert {file.parent.parent for file in files} == {tmp_path / "new" / "saved"}
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_room_is_counted_over_all_tenants(folder):
    folder.write("a", "n", pieces(b"x" * 60), overwrite=False)
    folder.require_room("b", 40)
    with pytest.raises(NoRoom, match="41 bytes, and 40 of the 100"):
        folder.require_room("b", 41)


def test_a_tenant_can_save_so_many_and_no_more(folder, monkeypatch):
    monkeypatch.setattr(module, "MAX_SAVED", 2)
    for name in "ab":
        folder.require_room("t", 1)
        folder.write("t", name, pieces(b""), overwrite=False)
    with pytest.raises(NoRoom, match="2 prefixes are saved"):
        folder.require_room("t", 1)
    folder.require_room("other", 1)


def test_what_was_abandoned_long_ago_is_dropped_and_other_files_stay(folder, tmp_path):
    folder.write("a", "n", pieces(b"x"), overwrite=False)
    home = next((tmp_path / "new" / "saved").iterdir())
    old, fresh = home / ".writing-old", home / ".writing-fresh"
    for file in (old, fresh):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    os.utime(home / "n.safetensors", (0, 0))
    PrefixFolder(tmp_path / "new" / "saved")
    assert sorted(file.name for file in home.iterdir()) == [".writing-fresh", "n.safetensors"]
    assert [entry.name for entry in folder.entries("a")] == ["n"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "a" * 65, "a\n", ".a"])
def test_a_name_that_could_be_a_path_is_refused_everywhere(folder, name):
    for use in (
        lambda: folder.check_name(name),
        lambda: folder.write("", name, pieces(b""), overwrite=True),
        lambda: folder.read("", name, 1),
        lambda: folder.delete("", name),
    ):
        with pytest.raises(InvalidRequest, match="name"):
            use()


def test_a_folder_that_cannot_be_is_an_option_that_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="prefix_folder: cannot write to"):
        PrefixFolder(tmp_path / "file")
    with pytest.raises(ConfigError, match="prefix_folder_bytes: must be at least 1, got 0"):
        PrefixFolder(tmp_path, max_bytes=0)

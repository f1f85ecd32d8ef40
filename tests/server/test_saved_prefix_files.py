"""The files of saved prefixes: whose they are, and what is refused, over a real socket."""

import os
from pathlib import Path

import grpc
import pytest
from server.side_house import PAGE, House, clear, error_of, prefix, running_house

from treeserve.building import build_engine
from treeserve.config import EngineOptions
from treeserve.kv_cache import KVCache
from treeserve.pb import prefix_pb2 as pb
from treeserve.prefixes.saved_file import MAX_HEADER_BYTES

TEXT = "What many prompts begin with is computed once and kept for all of them. " * 3
CODE = grpc.StatusCode


@pytest.fixture
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(model=str(checkpoint_of("llama")), num_pages=64, page_size=PAGE)


@pytest.fixture
async def house(options, tmp_path):
    async with running_house(options, tmp_path / "saved") as running:
        yield running


async def test_saved_prefixes_are_listed_replaced_and_deleted(house):
    first = await house.prefix.Save(pb.SaveRequest(name="b", prefix=prefix(TEXT)))
    await house.prefix.Save(pb.SaveRequest(name="a.2", prefix=prefix("short")))
    listed = await house.prefix.ListSaved(pb.ListSavedRequest())
    assert [entry.name for entry in listed.saved] == ["a.2", "b"]
    assert listed.saved[1] == first.saved
    assert listed.bytes_left == (1 << 30) - sum(entry.bytes for entry in listed.saved)
    again = pb.SaveRequest(name="b", prefix=prefix("short"))
    assert (await error_of(house.prefix.Save(again))).code() is CODE.ALREADY_EXISTS
    again.overwrite = True
    assert (await house.prefix.Save(again)).saved.bytes < first.saved.bytes
    assert (await house.prefix.Restore(pb.RestoreRequest(name="b"))).tokens == 5
    await house.prefix.DeleteSaved(pb.DeleteSavedRequest(name="b"))
    for gone in (
        house.prefix.DeleteSaved(pb.DeleteSavedRequest(name="b")),
        house.prefix.Restore(pb.RestoreRequest(name="b")),
    ):
        assert (await error_of(gone)).code() is CODE.NOT_FOUND
    listed = await house.prefix.ListSaved(pb.ListSavedRequest())
    assert [entry.name for entry in listed.saved] == ["a.2"]
    await house.check()


async def test_tenants_neither_see_nor_restore_nor_delete_each_others_files(house):
    mine, theirs = house.new_key("a"), house.new_key("A")
    await house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT)), metadata=mine)
    assert not (await house.prefix.ListSaved(pb.ListSavedRequest(), metadata=theirs)).saved
    for call in (
        house.prefix.Restore(pb.RestoreRequest(name="n"), metadata=theirs),
        house.prefix.DeleteSaved(pb.DeleteSavedRequest(name="n"), metadata=theirs),
        house.prefix.Restore(pb.RestoreRequest(name="n")),
    ):
        assert (await error_of(call)).code() is CODE.NOT_FOUND
    await house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT)), metadata=theirs)
    files = [file for file in house.folder.rglob("*") if file.is_file()]
    assert len({file.parent for file in files}) == len(files) == 2
    assert {file.parent.parent for file in files} == {house.folder}
    await house.prefix.Restore(pb.RestoreRequest(name="n"), metadata=mine)
    await house.check()


async def test_files_are_for_the_servers_user_alone(house):
    await house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT)))
    [file] = [file for file in house.folder.rglob("*") if file.is_file()]
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "A",
        "-x",
        "_x",
        ".x",
        "x" * 65,
        "a\0b",
        "ä",
        "a\n",
    ],
)
async def test_a_name_is_never_a_path(house, name):
    for call in (
        house.prefix.Save(pb.SaveRequest(name=name, prefix=prefix(TEXT))),
        house.prefix.Restore(pb.RestoreRequest(name=name)),
        house.prefix.DeleteSaved(pb.DeleteSavedRequest(name=name)),
    ):
        error = await error_of(call)
        assert error.code() is CODE.INVALID_ARGUMENT
        assert error.details().startswith("name: must be 1 to 64")
    assert not list(house.folder.iterdir())
    await house.check()


async def test_a_disk_budget_is_kept_and_says_what_is_left(options, tmp_path):
    built = build_engine(options)
    cache = built.kv_cache
    per_token = KVCache.bytes_per_slot(cache.layer_shapes, cache.dtype) + 4
    budget = len(TEXT) * per_token + MAX_HEADER_BYTES
    async with running_house(options, tmp_path, max_bytes=budget, built=built) as house:
        first = await house.prefix.Save(pb.SaveRequest(name="a", prefix=prefix(TEXT)))
        second = pb.SaveRequest(name="b", prefix=prefix(TEXT))
        error = await error_of(house.prefix.Save(second))
        assert error.code() is CODE.RESOURCE_EXHAUSTED
        assert f"{budget - first.saved.bytes} of the {budget}" in error.details()
        await house.prefix.DeleteSaved(pb.DeleteSavedRequest(name="a"))
        await house.prefix.Save(second)
        await house.check()


def saved_file(house: House) -> Path:
    [file] = [file for file in house.folder.rglob("*") if file.is_file()]
    return file


async def test_a_link_in_the_folder_is_not_followed(house, tmp_path):
    await house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT)))
    file = saved_file(house)
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    error = await error_of(house.prefix.Restore(pb.RestoreRequest(name="n")))
    assert error.code() is CODE.FAILED_PRECONDITION
    file.unlink()
    file.mkdir()
    error = await error_of(house.prefix.Restore(pb.RestoreRequest(name="n")))
    assert "not a plain file" in error.details()
    file.rmdir()
    os.mkfifo(file)
    error = await error_of(house.prefix.Restore(pb.RestoreRequest(name="n")))
    assert "not a plain file" in error.details()
    await house.check()


async def test_a_damaged_file_loads_nothing_and_the_whole_one_still_does(house):
    await house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT)))
    await clear(house)
    file = saved_file(house)
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1], whole + b"\0", b"", b"x" * 100):
        file.write_bytes(damaged)
        error = await error_of(house.prefix.Restore(pb.RestoreRequest(name="n")))
        assert error.code() is CODE.DATA_LOSS
        assert house.scheduler.counts().used_pages == 0
    file.write_bytes(whole)
    assert (await house.prefix.Restore(pb.RestoreRequest(name="n"))).tokens == len(TEXT)
    await house.check()


async def test_a_file_far_too_long_for_the_model_is_not_even_read(house):
    await house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT)))
    os.truncate(saved_file(house), 1 << 40)
    error = await error_of(house.prefix.Restore(pb.RestoreRequest(name="n")))
    assert error.code() is CODE.FAILED_PRECONDITION
    assert "at most" in error.details()


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"family": "qwen2"}, "model, tokenizer"),
        ({"dtype": "bfloat16"}, "model, dtype"),
        ({"seed": 1}, "model"),
    ],
)
async def test_another_models_file_is_refused_with_what_differs(
    house, change, differs, tmp_path, checkpoint_of
):
    from tiny_models import save_checkpoint

    await house.prefix.Save(pb.SaveRequest(name="n", prefix=prefix(TEXT)))
    model = save_checkpoint(tmp_path / "m", change.get("family", "llama"), change.get("seed", 0))
    other = EngineOptions(
        model=str(model), num_pages=64, page_size=PAGE, dtype=change.get("dtype", "auto")
    )
    async with running_house(other, house.folder) as foreign:
        error = await error_of(foreign.prefix.Restore(pb.RestoreRequest(name="n")))
        assert error.code() is CODE.FAILED_PRECONDITION
        assert f"its {differs} differ" in error.details()
        assert foreign.scheduler.counts().used_pages == 0
        await foreign.check()

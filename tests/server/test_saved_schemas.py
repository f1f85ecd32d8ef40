"""Schemas saved with their modules and restored, over a real socket and across servers."""

import asyncio
import os

import grpc
import pytest
import torch
from server.side_house import PAGE, clear, error_of, prefix, running_house
from server.trips import SCHEMA, asking, drawn, put

from treeserve.config import EngineOptions
from treeserve.kv_cache import LayerCache
from treeserve.pb import module_pb2 as pb
from treeserve.pb import prefix_pb2
from treeserve.prefixes.saved_schema import pack_schema
from treeserve.scheduler.modules import Module
from treeserve.scheduler.tree.imports import find_module
from treeserve.schemas.warming import all_modules

CODE = grpc.StatusCode
SAVE = pb.SaveSchemaRequest(name="trip")
RESTORE = pb.RestoreSchemaRequest(name="trip")
OTHER = '<schema name="trip"><module name="a">b</module></schema>'


@pytest.fixture(scope="module")
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(model=str(checkpoint_of("llama")), num_pages=64, page_size=PAGE)


@pytest.fixture
async def house(options, tmp_path):
    async with running_house(options, tmp_path / "saved") as running:
        yield running


async def kv_of_modules(house, namespace="home") -> dict[str, list[torch.Tensor]]:
    """K and V in every layer of each module that the tree holds, by key."""
    schema = house.backstage.schemas.find(namespace, "trip")

    def read(engine):
        tree, _ = engine.scheduler.insides()
        found = {}
        for module in all_modules(schema):
            segment = find_module(tree, module, namespace)
            if segment is not None:
                layers = house.built.kv_cache.read_slots(segment.slots)
                found[module.key] = [tensor for layer in layers for tensor in layer]
        return found

    return await house.loop.look(read)


def saved_file(house):
    [file] = [file for file in house.folder.rglob("*") if file.is_file()]
    return file


async def test_modules_survive_the_server_bit_for_bit_and_prompts_encode_none(options, tmp_path):
    async with running_house(options, tmp_path) as first:
        await put(first)
        warmed = await first.module.WarmSchema(pb.WarmSchemaRequest(name="trip"))
        expected = await drawn(first.generation.Generate(asking()))
        before = await kv_of_modules(first)
        saved = await first.module.SaveSchema(SAVE)
        assert (saved.tokens, saved.encoded_tokens) == (warmed.tokens, 0)
    async with running_house(options, tmp_path) as second:
        error = await error_of(second.generation.Generate(asking()))
        assert error.code() is CODE.NOT_FOUND
        [entry] = (await second.module.ListSavedSchemas(pb.ListSavedSchemasRequest())).saved
        assert entry == saved.saved
        restored = await second.module.RestoreSchema(RESTORE)
        assert restored.restored_tokens == restored.tokens == saved.tokens
        after = await kv_of_modules(second)
        assert before.keys() == after.keys()
        assert len(before) == 5, "four modules and a scaffold"
        for key, tensors in before.items():
            for old, new in zip(tensors, after[key], strict=True):
                assert torch.equal(old, new)
        found = await drawn(second.generation.Generate(asking()))
        assert found.tokens == expected.tokens
        [usage] = found.usages
        assert usage.encoded_tokens == 0
        assert usage.module_tokens == expected.usages[0].module_tokens > 0
        again = await second.module.RestoreSchema(RESTORE)
        assert (again.tokens, again.restored_tokens) == (saved.tokens, 0)
        await second.check()


async def test_saving_encodes_what_is_missing(house):
    await put(house)
    await house.module.WarmSchema(pb.WarmSchemaRequest(name="trip", modules=["rome"]))
    saved = await house.module.SaveSchema(SAVE)
    assert saved.encoded_tokens == saved.tokens - len("To Rome!")
    await house.check()


async def test_only_what_the_tree_does_not_hold_is_restored(house):
    await put(house)
    saved = await house.module.SaveSchema(SAVE)
    await clear(house)
    found = await drawn(house.generation.Generate(asking()))
    restored = await house.module.RestoreSchema(RESTORE)
    assert restored.restored_tokens == saved.tokens - found.usages[0].module_tokens
    await house.check()


async def test_saved_schemas_are_listed_replaced_and_deleted_apart_from_prefixes(house):
    await put(house)
    first = await house.module.SaveSchema(SAVE)
    named = prefix_pb2.SaveRequest(name="trip", prefix=prefix("a prefix of that name"))
    await house.prefix.Save(named)
    assert (await error_of(house.module.SaveSchema(SAVE))).code() is CODE.ALREADY_EXISTS
    await house.module.SaveSchema(pb.SaveSchemaRequest(name="trip", overwrite=True))
    listed = await house.module.ListSavedSchemas(pb.ListSavedSchemasRequest())
    assert [entry.name for entry in listed.saved] == ["trip"]
    prefixes = await house.prefix.ListSaved(prefix_pb2.ListSavedRequest())
    assert [entry.name for entry in prefixes.saved] == ["trip"]
    assert (
        listed.bytes_left
        == prefixes.bytes_left
        == ((1 << 30) - first.saved.bytes - prefixes.saved[0].bytes)
    )
    await house.module.DeleteSavedSchema(pb.DeleteSavedSchemaRequest(name="trip"))
    for gone in (
        house.module.DeleteSavedSchema(pb.DeleteSavedSchemaRequest(name="trip")),
        house.module.RestoreSchema(RESTORE),
    ):
        assert (await error_of(gone)).code() is CODE.NOT_FOUND
    assert (await house.prefix.Restore(prefix_pb2.RestoreRequest(name="trip"))).tokens > 0
    assert (await drawn(house.generation.Generate(asking()))).usages, "what is put stays put"
    await house.check()


async def test_tenants_neither_see_nor_restore_nor_delete_each_others(house):
    await put(house)
    await house.module.SaveSchema(SAVE)
    theirs = house.new_key("other")
    listed = house.module.ListSavedSchemas(pb.ListSavedSchemasRequest(), metadata=theirs)
    assert not (await listed).saved
    for call in (
        house.module.SaveSchema(SAVE, metadata=theirs),
        house.module.RestoreSchema(RESTORE, metadata=theirs),
        house.module.DeleteSavedSchema(pb.DeleteSavedSchemaRequest(name="trip"), metadata=theirs),
    ):
        assert (await error_of(call)).code() is CODE.NOT_FOUND
    assert saved_file(house).stat().st_mode & 0o077 == 0


async def test_a_name_is_never_a_path(house):
    for name in ("", "..", "../x", "a/b", "/etc/passwd", "-x", "7", "x" * 65, "ä", "a\n"):
        for call in (
            house.module.RestoreSchema(pb.RestoreSchemaRequest(name=name)),
            house.module.DeleteSavedSchema(pb.DeleteSavedSchemaRequest(name=name)),
        ):
            error = await error_of(call)
            assert error.code() is CODE.INVALID_ARGUMENT
            assert error.details().startswith("name: must be 1 to 64")
    assert not list(house.folder.iterdir())


async def test_another_schema_of_the_name_is_replaced_only_when_asked(house):
    await put(house)
    await house.module.SaveSchema(SAVE)
    await house.module.PutSchema(pb.PutSchemaRequest(pml=OTHER, overwrite=True))
    await clear(house)
    error = await error_of(house.module.RestoreSchema(RESTORE))
    assert error.code() is CODE.ALREADY_EXISTS
    assert house.scheduler.counts().used_pages == 0
    restored = await house.module.RestoreSchema(
        pb.RestoreSchemaRequest(name="trip", overwrite=True)
    )
    assert restored.restored_tokens == restored.tokens
    assert (await drawn(house.generation.Generate(asking()))).usages[0].encoded_tokens == 0


async def test_a_damaged_file_puts_nothing_and_the_schema_is_encoded_anew(house):
    await put(house)
    expected = await drawn(house.generation.Generate(asking()))
    await house.module.SaveSchema(SAVE)
    await house.module.DeleteSchema(pb.DeleteSchemaRequest(name="trip"))
    await clear(house)
    file = saved_file(house)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (whole[:-1], bytes(flipped), whole + b"\0", b"", b"x" * 100):
        file.write_bytes(damaged)
        error = await error_of(house.module.RestoreSchema(RESTORE))
        assert error.code() is CODE.DATA_LOSS
        assert error.details().startswith("the saved schema is damaged")
        assert house.scheduler.counts().used_pages == 0
        assert not (await house.module.ListSchemas(pb.ListSchemasRequest())).schemas
    await put(house)
    found = await drawn(house.generation.Generate(asking()))
    assert found.tokens == expected.tokens
    assert found.usages[0].encoded_tokens == found.usages[0].module_tokens
    await house.check()


async def test_a_file_far_too_long_for_the_pool_is_not_even_read(house):
    await put(house)
    await house.module.SaveSchema(SAVE)
    os.truncate(saved_file(house), 1 << 40)
    error = await error_of(house.module.RestoreSchema(RESTORE))
    assert error.code() is CODE.FAILED_PRECONDITION
    assert "at most" in error.details()


@pytest.mark.parametrize(
    ("change", "differs"), [({"seed": 1}, "model"), ({"dtype": "bfloat16"}, "")]
)
async def test_another_models_file_is_refused_and_the_schema_encoded_anew(
    house, change, differs, tmp_path
):
    from tiny_models import save_checkpoint

    await put(house)
    await house.module.SaveSchema(SAVE)
    model = save_checkpoint(tmp_path / "m", "llama", change.get("seed", 0))
    dtype = change.get("dtype", "auto")
    other = EngineOptions(model=str(model), num_pages=64, page_size=PAGE, dtype=dtype)
    async with running_house(other, house.folder) as foreign:
        error = await error_of(foreign.module.RestoreSchema(RESTORE))
        assert error.code() is CODE.FAILED_PRECONDITION
        assert (
            f"does not fit this server: its {differs or 'model, dtype'} differ" in error.details()
        )
        assert foreign.scheduler.counts().used_pages == 0
        await put(foreign)
        [usage] = (await drawn(foreign.generation.Generate(asking()))).usages
        assert usage.encoded_tokens == usage.module_tokens > 0
        await foreign.check()


async def test_a_file_of_another_layout_of_the_same_schema_is_refused(house):
    """As another version of treeserve might have laid it out: its KV is not that of these rows."""
    await put(house)
    await house.module.SaveSchema(SAVE)
    schema = house.backstage.schemas.find("home", "trip")
    kept = await kv_of_modules(house)
    modules = all_modules(schema)
    tensors = [kept[module.key] for module in modules]
    kv = [[LayerCache(*pair) for pair in zip(t[::2], t[1::2], strict=True)] for t in tensors]
    moved = [Module(m.key, m.token_ids, m.positions + 1) for m in modules]
    keeper = house.backstage.schema_keeper
    pieces = pack_schema(SCHEMA, moved, kv, keeper._fingerprint)
    saved_file(house).write_bytes(b"".join(pieces))
    error = await error_of(house.module.RestoreSchema(RESTORE))
    assert error.code() is CODE.FAILED_PRECONDITION
    assert "other tokens or positions" in error.details()
    saved_file(house).write_bytes(b"".join(pack_schema(SCHEMA, modules, kv, keeper._fingerprint)))
    assert (await house.module.RestoreSchema(RESTORE)).restored_tokens == 0


async def test_a_schema_that_does_not_fit_takes_no_page(options, tmp_path):
    async with running_house(options, tmp_path) as house:
        await put(house)
        await house.module.SaveSchema(SAVE)
    small = EngineOptions(model=options.model, num_pages=5, page_size=PAGE)
    async with running_house(small, tmp_path) as house:
        await house.generate("kept")
        error = await error_of(house.module.RestoreSchema(RESTORE))
        assert error.code() is CODE.RESOURCE_EXHAUSTED
        assert "need 6 pages of KV, and 5 of 5 can be had" in error.details()
        assert not (await house.module.ListSchemas(pb.ListSchemasRequest())).schemas
        _, usage = await house.generate("kept")
        assert usage.cached_tokens == 4, "nothing was evicted for a restore that could not be"
        await house.check()


async def test_modules_are_restored_while_others_import_them(house):
    """What prompts wait for is encoded by steps in between; no page has two owners."""
    await put(house)
    expected = await drawn(house.generation.Generate(asking()))
    await house.module.SaveSchema(SAVE)
    for _ in range(4):
        await clear(house)
        prompts = [drawn(house.generation.Generate(asking())) for _ in range(3)]
        restored, *found = await asyncio.gather(house.module.RestoreSchema(RESTORE), *prompts)
        assert all(entry.tokens == expected.tokens for entry in found)
        warmed = await house.module.WarmSchema(pb.WarmSchemaRequest(name="trip"))
        assert warmed.encoded_tokens == 0
        assert restored.restored_tokens <= restored.tokens
        await house.check()


async def test_a_server_without_a_folder_and_a_schema_without_modules_say_so(options, house):
    async with running_house(options) as bare:
        await put(bare)
        for call in (
            bare.module.SaveSchema(SAVE),
            bare.module.RestoreSchema(RESTORE),
            bare.module.ListSavedSchemas(pb.ListSavedSchemasRequest()),
        ):
            error = await error_of(call)
            assert error.code() is CODE.FAILED_PRECONDITION
            assert "--prefix-folder" in error.details()
    await put(house, '<schema name="e"><parameter name="p" length="2"/></schema>')
    error = await error_of(house.module.SaveSchema(pb.SaveSchemaRequest(name="e")))
    assert "'e' has no text that is encoded ahead" in error.details()
    error = await error_of(house.module.SaveSchema(pb.SaveSchemaRequest(name="none")))
    assert error.code() is CODE.NOT_FOUND


async def test_a_disk_budget_holds_for_schemas_too(options, tmp_path):
    async with running_house(options, tmp_path, max_bytes=1000) as house:
        await put(house)
        error = await error_of(house.module.SaveSchema(SAVE))
        assert error.code() is CODE.RESOURCE_EXHAUSTED
        assert "1000 of the 1000 for all that is saved are left" in error.details()

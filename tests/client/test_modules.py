"""ModuleService and prompts of modules through both clients, against a real server."""

import pytest

from treeserve import (
    ImportingPrompt,
    InvalidRequest,
    Message,
    ModuleFields,
    ModuleImport,
    PromptTree,
    SamplingParams,
)
from treeserve.client import RemoteError

SCHEMA = (
    '<schema name="s">ab<module name="m">xyz <parameter name="p" length="3"/></module></schema>'
)
PROMPT = '<prompt schema="s" max_tokens="3"><m p="q"/>go</prompt>'
FIELDS = ModuleFields("s", (ModuleImport("m", {"p": "q"}),), "go")
PARAMS = SamplingParams(max_tokens=4, temperature=0.0, seed=1, ignore_eos=True)


async def test_schemas_are_put_listed_shown_warmed_and_deleted(both):
    first, second = await both.same(lambda client: client.modules.put(SCHEMA))
    assert (first.existed, second.existed) == (False, True)
    for listed in await both.same(lambda client: client.modules.list()):
        assert listed == (first.schema,)
    for shown in await both.same(lambda client: client.modules.show("s")):
        assert [entry.name for entry in shown.modules] == ["", "m"]
        assert shown.schema.num_module_tokens == sum(m.num_tokens for m in shown.modules)
    first, second = await both.same(lambda client: client.modules.warm("s", ["m"]))
    assert (first.num_encoded_tokens, second.num_cached_tokens) == (4, 4)
    await both.same(lambda client: client.modules.put(SCHEMA, overwrite=True))
    names = iter(["s"])

    def delete(client):
        return client.modules.delete(next(names, "none"))

    with pytest.raises(RemoteError, match="NOT_FOUND"):
        await both.same(delete)


async def test_prompts_import_modules_by_pml_and_by_fields(both):
    await both.same(lambda client: client.modules.put(SCHEMA))
    for asked in (ImportingPrompt(PROMPT), ImportingPrompt(FIELDS)):
        for [done] in await both.same(lambda c, a=asked: c.generate(a, PARAMS).collect()):
            assert done.usage.module_tokens == 2 + 4
            assert done.samples[0].num_tokens == 4
    exact = ImportingPrompt(PROMPT, exact=True)
    for [done] in await both.same(lambda client: client.generate(exact, PARAMS).collect()):
        assert (done.usage.module_tokens, done.usage.prompt_tokens) == (0, 2 + 4 + 1 + 2)
    for [done] in await both.same(lambda c: c.generate(ImportingPrompt(PROMPT)).collect()):
        assert done.samples[0].num_tokens <= 3


async def test_a_tree_imports_modules_for_all_its_prompts(both):
    await both.same(lambda client: client.modules.put(SCHEMA))
    tree = PromptTree("go", params=PARAMS, branches=(PromptTree(" on"), PromptTree(" back")))
    modules = ImportingPrompt(ModuleFields("s", (ModuleImport("m", {"p": "q"}),)))
    for done in await both.same(lambda c: c.generate_tree(tree, modules=modules).collect()):
        assert [completion.usage.module_tokens for completion in done] == [6, 6]


async def test_what_does_not_fit_the_message_or_the_schema_is_told(both):
    await both.same(lambda client: client.modules.put(SCHEMA))
    with pytest.raises(InvalidRequest, match="modules: cannot be sent"):
        await both.same(lambda c: c.generate(ImportingPrompt(ModuleFields(7)), PARAMS).collect())
    turns = ImportingPrompt(ModuleFields("s", messages=(Message("user", "go"),)))
    with pytest.raises(RemoteError, match="has no turns"):
        await both.same(lambda client: client.generate(turns, PARAMS).collect())


async def test_prompts_of_modules_are_counted_and_trees_of_them(both):
    await both.same(lambda client: client.modules.put(SCHEMA))
    for asked in (ImportingPrompt(PROMPT), ImportingPrompt(FIELDS)):
        for counts in await both.same(lambda c, a=asked: c.count_tokens(a)):
            assert (counts.num_tokens, counts.num_module_tokens) == (2 + 4 + 1 + 2, 6)
    tree = PromptTree("go", branches=(PromptTree(" on"), PromptTree(" back")))
    modules = ImportingPrompt(ModuleFields("s", (ModuleImport("m", {"p": "q"}),)))
    for counts in await both.same(lambda c: c.count_tokens(tree, modules=modules)):
        assert counts.num_module_tokens == 6
        assert counts.num_tokens == 6 + 1 + len("go ") + len("onback")


async def test_schemas_are_saved_listed_restored_and_deleted(both):
    await both.same(lambda client: client.modules.put(SCHEMA))
    for saved in await both.same(lambda client: client.modules.save("s", overwrite=True)):
        assert (saved.name, saved.num_tokens) == ("s", 6)
        assert saved.num_encoded_tokens in (0, 6)
    for listed in await both.same(lambda client: client.modules.list_saved()):
        assert [entry.name for entry in listed.schemas] == ["s"]
        assert listed.num_bytes_left > 0
    for restored in await both.same(lambda client: client.modules.restore("s")):
        assert (restored.schema.name, restored.num_tokens) == ("s", 6)
        assert restored.num_restored_tokens == 0
    names = iter(["s"])
    with pytest.raises(RemoteError, match="NOT_FOUND"):
        await both.same(lambda client: client.modules.delete_saved(next(names, "none")))

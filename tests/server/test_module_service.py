"""Schemas put, shown and warmed, and prompts that import them, over a real socket."""

import asyncio
from types import SimpleNamespace

import grpc
import pytest
from server.side_house import PAGE, error_of, ids, running_house
from server.trips import PARAMS, PROMPT, asking, drawn, put

from treeserve.config import EngineOptions
from treeserve.forest import NO_PARENT, read_forest, take_forest
from treeserve.inspection import Scope
from treeserve.pb import generation_pb2, prefix_pb2
from treeserve.pb import module_pb2 as pb
from treeserve.schemas.store import SchemaStore

CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(model=str(checkpoint_of("llama")), num_pages=64, page_size=PAGE)


@pytest.fixture
async def house(options):
    async with running_house(options) as running:
        yield running


async def test_a_schema_is_put_once_listed_shown_and_deleted(house):
    first, again = await put(house), await put(house)
    assert not first.existed
    assert again.existed
    assert first.schema == again.schema
    listed = await house.module.ListSchemas(pb.ListSchemasRequest())
    assert list(listed.schemas) == [first.schema]
    shown = await house.module.ShowSchema(pb.ShowSchemaRequest(name="trip"))
    layout = {entry.name: entry for entry in shown.modules}
    assert list(layout) == ["", "plan", "oslo", "rome", "both"]
    assert layout["oslo"].first_position == layout["rome"].first_position
    assert list(layout["both"].members) == ["plan", "oslo"]
    assert layout["both"].tokens == layout["plan"].tokens + layout["oslo"].tokens
    assert shown.schema.positions > layout["oslo"].last_position
    await house.module.DeleteSchema(pb.DeleteSchemaRequest(name="trip"))
    assert not (await house.module.ListSchemas(pb.ListSchemasRequest())).schemas


async def test_another_schema_of_a_name_takes_its_place_only_when_asked(house):
    first = await put(house)
    other = pb.PutSchemaRequest(pml='<schema name="trip"><module name="a">b</module></schema>')
    error = await error_of(house.module.PutSchema(other))
    assert error.code() is CODE.ALREADY_EXISTS
    other.overwrite = True
    replaced = await house.module.PutSchema(other)
    assert replaced.schema.schema_id != first.schema.schema_id
    assert (await error_of(house.generation.Generate(asking()))).code() is CODE.INVALID_ARGUMENT


async def test_a_prompt_says_which_tokens_came_from_modules(house):
    await put(house)
    first = await drawn(house.generation.Generate(asking()))
    again = await drawn(house.generation.Generate(asking()))
    [usage], [later] = first.usages, again.usages
    assert usage.module_tokens == usage.encoded_tokens > 0
    assert usage.prompt_tokens == usage.module_tokens + usage.computed_tokens
    assert (later.module_tokens, later.encoded_tokens) == (usage.module_tokens, 0)
    assert later.cached_tokens > 0, "the same own tokens beneath the same modules"
    assert first.tokens == again.tokens
    await house.check()


async def test_fields_are_the_same_prompt_as_pml(house):
    await put(house)
    fields = generation_pb2.ModuleFields(
        schema="trip",
        imports=[
            generation_pb2.ModuleImport(name="rome"),
            generation_pb2.ModuleImport(name="plan", arguments={"days": "two"}),
        ],
        text="Where first?",
    )
    by_pml = await drawn(house.generation.Generate(asking()))
    by_fields = await drawn(house.generation.Generate(asking(fields=fields)))
    assert by_fields.tokens == by_pml.tokens
    assert by_fields.usages[0].encoded_tokens == 0


async def test_exact_is_the_very_text_as_a_plain_prompt(house):
    await put(house)
    exact = await drawn(house.generation.Generate(asking(exact=True)))
    [usage] = exact.usages
    assert usage.module_tokens == 0
    text = "You plan trips.\nPlan two days.To Rome!Where first?"
    tokens, plain = await house.generate(text, max_tokens=6)
    assert exact.tokens[(), 0] == tokens
    assert plain.cached_tokens >= usage.prompt_tokens - 1


async def test_the_prompts_own_max_tokens_holds_where_the_request_has_none(house):
    await put(house)
    params = generation_pb2.Parameters(stopping=generation_pb2.Stopping(ignore_eos=True))
    found = await drawn(house.generation.Generate(asking(params=params)))
    assert len(found.tokens[(), 0]) == 5
    found = await drawn(house.generation.Generate(asking()))
    assert len(found.tokens[(), 0]) == 6


async def test_a_tree_imports_modules_for_all_its_prompts(house):
    await put(house)
    imports = '<prompt schema="trip"><plan days="two"/><rome/></prompt>'
    tree = generation_pb2.TreeNode(
        text="Where ",
        params=PARAMS,
        branches=[generation_pb2.TreeNode(text=end) for end in ("first?", "then?")],
    )
    request = generation_pb2.GenerateTreeRequest(
        tree=tree, modules=generation_pb2.ModulePrompt(pml=imports)
    )
    found = await drawn(house.generation.GenerateTree(request))
    alone = await drawn(house.generation.Generate(asking()))
    assert found.tokens[(0,), 0] == alone.tokens[(), 0]
    total = found.tree_usage
    assert {usage.module_tokens for usage in found.usages} == {total.module_tokens}
    parts = total.cached_tokens + total.shared_in_flight_tokens + total.computed_tokens
    assert total.prompt_tokens == total.module_tokens + parts
    request.public_trunk = True
    error = await error_of(house.generation.GenerateTree(request))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert "public_trunk" in error.details()


async def test_a_fork_of_a_sample_that_has_ended_still_reads_its_modules(house):
    await put(house)
    whole = await drawn(house.generation.Generate(asking()))
    parent = generation_pb2.ForkParent(request_id=whole.request_id, num_tokens=2)
    stopping = generation_pb2.Stopping(max_tokens=4, ignore_eos=True)
    params = generation_pb2.Parameters(sampling=PARAMS.sampling, stopping=stopping)
    fork = generation_pb2.ForkRequest(parent=parent, params=params)
    branch = await drawn(house.generation.Fork(fork))
    assert branch.tokens[(), 0] == whole.tokens[(), 0][2:]
    assert branch.usages[0].module_tokens == whole.usages[0].module_tokens


async def test_warmed_modules_are_not_encoded_again_until_they_are_evicted(house):
    await put(house)
    request = pb.WarmSchemaRequest(name="trip")
    warmed = await house.module.WarmSchema(request)
    assert warmed.tokens == warmed.encoded_tokens > 0
    assert (await house.module.WarmSchema(request)).cached_tokens == warmed.tokens
    found = await drawn(house.generation.Generate(asking()))
    assert found.usages[0].encoded_tokens == 0
    await house.loop.call(lambda engine: engine.scheduler.clear_cache())
    some = pb.WarmSchemaRequest(name="trip", modules=["rome", "rome"])
    assert (await house.module.WarmSchema(some)).encoded_tokens == len("To Rome!")
    await house.check()


async def test_an_evicted_module_is_encoded_once_for_all_who_wait(house):
    """Twelve callers with own texts of their own, of whom some import another module too."""
    await put(house)
    warmed = await house.module.WarmSchema(pb.WarmSchemaRequest(name="trip"))
    texts = [f"Where {number}?" for number in range(12)]
    prompts = [
        PROMPT.replace("Where first?", text).replace("<rome/>", "<rome/>" * (index % 3 > 0))
        for index, text in enumerate(texts)
    ]
    alone = [await drawn(house.generation.Generate(asking(prompt))) for prompt in prompts]
    scaffold = len("Plan  days.It goes to Oslo.")
    one_of_each = warmed.tokens - scaffold - len("It goes to Oslo.")
    for _ in range(3):
        assert await house.loop.call(lambda engine: engine.scheduler.clear_cache()) > 0
        before = await house.loop.look(num_encoded)
        streams = [house.generation.Generate(asking(prompt)) for prompt in prompts]
        found = await asyncio.gather(*(drawn(stream) for stream in streams))
        assert [entry.tokens for entry in found] == [entry.tokens for entry in alone]
        assert await house.loop.look(num_encoded) - before == one_of_each
        for each in found:
            [usage] = each.usages
            assert 0 <= usage.encoded_tokens <= usage.module_tokens
    await house.check()


def num_encoded(engine) -> int:
    """Tokens of modules that the engine has computed, for whomever."""
    return engine.scheduler.counts().tally.encoded_module_tokens


async def test_nobody_sees_or_uses_or_deletes_another_tenants_schema(house):
    await put(house)
    other = house.new_key("other")
    assert not (await house.module.ListSchemas(pb.ListSchemasRequest(), metadata=other)).schemas
    for call in (
        house.module.ShowSchema(pb.ShowSchemaRequest(name="trip"), metadata=other),
        house.module.DeleteSchema(pb.DeleteSchemaRequest(name="trip"), metadata=other),
        house.module.WarmSchema(pb.WarmSchemaRequest(name="trip"), metadata=other),
        house.generation.Generate(asking(), metadata=other),
    ):
        assert (await error_of(call)).code() is CODE.NOT_FOUND
    await put(house, metadata=other)
    await drawn(house.generation.Generate(asking()))
    theirs = await drawn(house.generation.Generate(asking(), metadata=other))
    assert theirs.usages[0].encoded_tokens > 0, "their own copies, so that no timing tells"


async def test_schemas_need_the_permission_and_prompts_do_not(house):
    await put(house)
    caller = house.new_key(permissions="generate")
    error = await error_of(house.module.ListSchemas(pb.ListSchemasRequest(), metadata=caller))
    assert error.code() is CODE.PERMISSION_DENIED
    found = await drawn(house.generation.Generate(asking(), metadata=caller))
    assert found.usages[0].module_tokens > 0


async def test_a_tenant_has_only_so_many_schemas_and_bytes(house):
    store = house.backstage.schemas
    small = SchemaStore(house.built.prompter, "", max_schemas=2, max_bytes=120)
    house.server.side._module.backstage = SimpleNamespace(schemas=small)
    for name in ("a", "b"):
        await put(house, f'<schema name="{name}">text</schema>')
    error = await error_of(put(house, '<schema name="c">text</schema>'))
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    assert "2 schemas are kept" in error.details()
    long = f'<schema name="b">{"x" * 200}</schema>'
    request = pb.PutSchemaRequest(pml=long, overwrite=True)
    error = await error_of(house.module.PutSchema(request))
    assert "bytes, and" in error.details()
    assert store.schemas("home") == []


@pytest.mark.parametrize(
    ("pml", "said"),
    [
        ("", "pml: must be given, a <schema>"),
        ("<schema", "pml: <schema>:1:1: "),
        ('<schema name="a"><modul/></schema>', "pml: <schema>:1:18: "),
        ('<schema name="a"><module name="b" src="c.txt"/></schema>', "pml: <schema>:1:18: "),
        (f'<schema name="a">{"x" * 5000}</schema>', "expected at most"),
    ],
)
async def test_a_malformed_schema_is_one_clear_error(house, pml, said):
    error = await error_of(put(house, pml))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert said in error.details()


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (generation_pb2.ModulePrompt(), "modules: must be given, as pml or as fields"),
        (generation_pb2.ModulePrompt(pml="<prompt"), "modules: <prompt>:1:1: "),
        (
            generation_pb2.ModulePrompt(pml='<prompt schema="trip"><plan/>x</prompt>'),
            "modules: <prompt>:1:23: missing argument 'days'",
        ),
        (
            generation_pb2.ModulePrompt(fields=generation_pb2.ModuleFields(text="x")),
            "modules.fields.schema: must be given",
        ),
        (
            generation_pb2.ModulePrompt(fields=generation_pb2.ModuleFields(schema="trip")),
            "modules: the prompt has no text of its own",
        ),
        (
            generation_pb2.ModulePrompt(
                fields=generation_pb2.ModuleFields(
                    schema="trip",
                    text="x",
                    imports=[generation_pb2.ModuleImport(name=n) for n in ("oslo", "rome")],
                )
            ),
            "modules: modules 'oslo' and 'rome' are of one union",
        ),
    ],
)
async def test_a_malformed_prompt_is_one_clear_error(house, request_, said):
    await put(house)
    request = generation_pb2.GenerateRequest(modules=request_)
    error = await error_of(house.generation.Generate(request))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert said in error.details()
    await house.check()


async def test_token_ids_do_not_follow_modules_in_a_tree_and_unknown_names_are_told(house):
    await put(house)
    modules = generation_pb2.ModulePrompt(pml=PROMPT)
    tree = generation_pb2.TreeNode(token_ids=ids([5, 6]))
    request = generation_pb2.GenerateTreeRequest(tree=tree, modules=modules)
    error = await error_of(house.generation.GenerateTree(request))
    assert "must be text or messages" in error.details()
    warm = pb.WarmSchemaRequest(name="trip", modules=["plan", "paris"])
    error = await error_of(house.module.WarmSchema(warm))
    assert "modules[1]: 'paris' is unknown; there are: both, oslo, plan, rome" in error.details()


async def test_a_model_that_cannot_read_modules_says_so(checkpoint_of):
    options = EngineOptions(model=str(checkpoint_of("mistral")), num_pages=16, page_size=PAGE)
    async with running_house(options) as house:
        for call in (put(house), house.generation.Generate(asking())):
            error = await error_of(call)
            assert error.code() is CODE.FAILED_PRECONDITION
            assert "sliding window" in error.details()


async def test_a_warm_prefix_and_a_module_of_the_same_text_are_apart(house):
    await put(house)
    await house.module.WarmSchema(pb.WarmSchemaRequest(name="trip"))
    text = prefix_pb2.Prefix(text="You plan trips.\n")
    warmed = await house.prefix.Warm(prefix_pb2.WarmRequest(prefix=text))
    assert warmed.computed_tokens == warmed.tokens, "exact and approximate KV never mix"


async def test_the_live_tree_tells_modules_from_what_is_exact(house):
    """Three modules were imported: the schema's own text and two by name."""
    await put(house)
    await drawn(house.generation.Generate(asking()))
    scope = Scope(None)

    def look(engine):
        return read_forest(take_forest(engine, scope, shows_tokens=False), scope)

    forest = await house.loop.look(look)
    modules = [node for node in forest.nodes if node.is_module]
    assert len(modules) == 3
    assert all(node.parent == NO_PARENT for node in modules)
    assert len(forest.nodes) > 3

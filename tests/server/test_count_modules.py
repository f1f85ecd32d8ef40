"""CountTokens counts prompts that import modules, exact and approximate tokens apart."""

import grpc
import pytest
from server.side_house import PAGE, error_of, running_house
from server.trips import PROMPT, asking, drawn, put

from treeserve.config import EngineOptions
from treeserve.pb import generation_pb2 as pb

CODE = grpc.StatusCode
OWN = len("two") + len("Where first?")
MODULES = len("You plan trips.\n") + len("Plan  days.") + len("To Rome!")


@pytest.fixture(scope="module")
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(model=str(checkpoint_of("llama")), num_pages=64, page_size=PAGE)


@pytest.fixture
async def house(options):
    async with running_house(options) as running:
        await put(running)
        yield running


def count(house, **request):
    return house.generation.CountTokens(pb.CountTokensRequest(**request))


async def test_a_prompt_counts_its_modules_apart_and_as_usage_does(house):
    counts = await count(house, modules=pb.ModulePrompt(pml=PROMPT))
    assert (counts.num_tokens, counts.num_module_tokens) == (OWN + MODULES, MODULES)
    assert counts.num_unshared_tokens == counts.num_tokens
    assert [(list(p.path), p.num_tokens) for p in counts.prompts] == [([], OWN + MODULES)]
    assert house.scheduler.counts().used_pages == 0, "nothing is encoded for it"
    [usage] = (await drawn(house.generation.Generate(asking()))).usages
    assert (usage.prompt_tokens, usage.module_tokens) == (counts.num_tokens, MODULES)
    exact = await count(house, modules=pb.ModulePrompt(pml=PROMPT, exact=True))
    assert (exact.num_tokens, exact.num_module_tokens) == (OWN + MODULES, 0)
    fields = pb.ModuleFields(
        schema="trip",
        imports=[
            pb.ModuleImport(name="plan", arguments={"days": "two"}),
            pb.ModuleImport(name="rome"),
        ],
        text="Where first?",
    )
    assert await count(house, modules=pb.ModulePrompt(fields=fields)) == counts


async def test_a_tree_counts_its_modules_once_and_alone_for_every_sample(house):
    imports = pb.ModulePrompt(pml='<prompt schema="trip"><plan days="two"/><rome/></prompt>')
    ends = ("first?", "then?")
    tree = pb.TreeNode(text="Where ", branches=[pb.TreeNode(text=end, n=3) for end in ends])
    counts = await count(house, tree=tree, tree_modules=imports)
    trunk = len("two") + len("Where ")
    assert counts.num_module_tokens == MODULES
    assert counts.num_tokens == MODULES + trunk + sum(map(len, ends))
    lengths = [MODULES + trunk + len(end) for end in ends]
    assert [p.num_tokens for p in counts.prompts] == lengths
    assert counts.num_unshared_tokens == 3 * sum(lengths)
    request = pb.GenerateTreeRequest(tree=tree, modules=imports)
    usage = (await drawn(house.generation.GenerateTree(request))).tree_usage
    assert (usage.prompt_tokens, usage.module_tokens) == (counts.num_tokens, MODULES)


WRONG = [
    ({}, CODE.INVALID_ARGUMENT, "prompt: must be given, as text, token_ids, chat, tree or"),
    ({"modules": pb.ModulePrompt()}, CODE.INVALID_ARGUMENT, "as pml or as fields"),
    (
        {"modules": pb.ModulePrompt(pml="<prompt")},
        CODE.INVALID_ARGUMENT,
        "modules: <prompt>:1:1: ",
    ),
    (
        {"modules": pb.ModulePrompt(pml='<prompt schema="trip"><paris/>x</prompt>')},
        CODE.INVALID_ARGUMENT,
        "'paris'",
    ),
    (
        {"modules": pb.ModulePrompt(pml='<prompt schema="none">x</prompt>')},
        CODE.NOT_FOUND,
        "no schema has the name 'none'",
    ),
    (
        {"text": "a", "tree_modules": pb.ModulePrompt(pml=PROMPT)},
        CODE.INVALID_ARGUMENT,
        "tree_modules: must be given with a tree alone",
    ),
    (
        {
            "tree": pb.TreeNode(token_ids=pb.TokenIds(ids=[5])),
            "tree_modules": pb.ModulePrompt(pml=PROMPT),
        },
        CODE.INVALID_ARGUMENT,
        "must be text or messages",
    ),
]


async def test_what_cannot_be_counted_is_one_clear_error(house):
    for request, code, said in WRONG:
        error = await error_of(count(house, **request))
        assert (error.code(), said in error.details()) == (code, True), error.details()
    await house.check()


async def test_another_tenants_schema_is_not_counted(house):
    request = pb.CountTokensRequest(modules=pb.ModulePrompt(pml=PROMPT))
    call = house.generation.CountTokens(request, metadata=house.new_key("other"))
    assert (await error_of(call)).code() is CODE.NOT_FOUND

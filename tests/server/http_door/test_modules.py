"""Prompts that import modules through the HTTP door: the same as over gRPC, told apart in usage."""

import asyncio
import re
from pathlib import Path

import openai
import pytest
import tiny_models
from server.side_house import HOME, PAGE, running_house
from server.trips import PROMPT, asking, drawn, put

from treeserve.config import EngineOptions

FIELDS = {
    "schema": "trip",
    "imports": [{"name": "rome"}, {"name": "plan", "arguments": {"days": "two"}}],
    "text": "Where first?",
}
PML = {"pml": PROMPT}
GREEDY = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
MODULE_TOKENS = len("You plan trips.\n") + len("Plan  days.") + len("To Rome!")
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
OWN_TOKENS = len("two") + len("Where first?")


@pytest.fixture(scope="module")
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(model=str(checkpoint_of("llama")), num_pages=64, page_size=PAGE)


@pytest.fixture
async def house(options):
    async with running_house(options) as running:
        await put(running)
        yield running


@pytest.fixture
async def http(house):
    async with client_of(house, house.key_of(HOME)) as client:
        yield client


def client_of(house, metadata) -> openai.AsyncOpenAI:
    [(_, bearer)] = metadata
    key, url = bearer.removeprefix("Bearer "), f"http://{house.server.http_address}/v1"
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)


async def post(client, path: str = "/completions", **body):
    return await client.post(path, body=body, cast_to=object)


@pytest.mark.parametrize("modules", [PML, FIELDS])
async def test_a_completion_draws_what_grpc_draws_and_tells_modules_from_exact(
    house, http, modules
):
    first = await post(http, modules=modules, return_token_ids=True, **GREEDY)
    told = await drawn(house.generation.Generate(asking()))
    assert first["choices"][0]["token_ids"] == told.tokens[(), 0]
    usage = first["usage"]
    assert usage["prompt_tokens"] == MODULE_TOKENS + OWN_TOKENS
    assert usage["prompt_tokens_details"] == {
        "cached_tokens": 0,
        "shared_in_flight_tokens": 0,
        "computed_tokens": OWN_TOKENS,
        "module_tokens": MODULE_TOKENS,
        "encoded_tokens": MODULE_TOKENS,
    }
    again = (await post(http, modules=modules, **GREEDY))["usage"]["prompt_tokens_details"]
    assert (again["cached_tokens"], again["encoded_tokens"]) == (OWN_TOKENS, 0)
    assert again["module_tokens"] == MODULE_TOKENS
    await house.check()


async def test_exact_computes_the_same_text_without_modules(http):
    exact = await post(http, modules={**FIELDS, "exact": True}, **GREEDY)
    plain = await post(http, prompt="You plan trips.\nPlan two days.To Rome!Where first?", **GREEDY)
    assert exact["choices"][0]["text"] == plain["choices"][0]["text"]
    assert exact["usage"]["prompt_tokens_details"]["module_tokens"] == 0
    assert plain["usage"]["prompt_tokens_details"]["module_tokens"] == 0


async def test_the_prompts_own_max_tokens_holds_where_the_request_has_none(http):
    asked = {"temperature": 0, "ignore_eos": True}
    answer = await post(http, modules=PML, **asked)
    assert answer["usage"]["completion_tokens"] == 5
    assert (await post(http, modules=PML, max_tokens=3, **asked))["usage"]["completion_tokens"] == 3
    assert (await post(http, modules=FIELDS, **asked))["usage"]["completion_tokens"] == 16


async def test_a_stream_ends_with_the_same_usage(http):
    whole = await post(http, modules=FIELDS, n=2, seed=1, **{**GREEDY, "temperature": 1})
    stream = await http.completions.create(
        model="treeserve",
        prompt=None,
        n=2,
        seed=1,
        max_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"modules": FIELDS, "ignore_eos": True},
    )
    texts, usage = ["", ""], None
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
        usage = chunk.usage or usage
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert usage.prompt_tokens_details.module_tokens == MODULE_TOKENS


async def test_all_prompts_of_a_tree_import_the_same_modules(http):
    modules = {key: value for key, value in FIELDS.items() if key != "text"}
    params = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
    branches = [{"text": "first?"}, {"text": "then?"}]
    tree = {"text": "Where ", "params": params, "branches": branches}
    answer = await post(http, "/trees", tree=tree, modules=modules)
    alone = await post(http, modules=FIELDS, **GREEDY)
    assert answer["nodes"][0]["choices"][0]["text"] == alone["choices"][0]["text"]
    for usage in (*(node["usage"] for node in answer["nodes"]), answer["tree_usage"]):
        assert usage["prompt_tokens_details"]["module_tokens"] == MODULE_TOKENS


async def test_turns_are_own_text_where_the_schema_has_none_is_refused(http):
    messages = [{"role": "user", "content": "Where?"}]
    modules = {"schema": "trip", "imports": FIELDS["imports"], "messages": messages}
    with pytest.raises(openai.BadRequestError, match="has no turns"):
        await post(http, modules=modules)


async def test_turns_are_own_text_where_the_schema_has_turns(tmp_path):
    tiny_models.save_checkpoint(tmp_path, "llama")
    tokenizer = tiny_models.byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    town = '<module name="town">Towns only.</module>'
    schema = f'<schema name="chat"><system>Be brief.{town}</system></schema>'
    prompt = '<prompt schema="chat"><town/><user>Where first?</user></prompt>'
    messages = [{"role": "user", "content": "Where first?"}]
    fields = {"schema": "chat", "imports": [{"name": "town"}], "messages": messages}
    chatty = EngineOptions(model=str(tmp_path), num_pages=64, page_size=PAGE)
    async with running_house(chatty) as house, client_of(house, house.key_of(HOME)) as client:
        await put(house, schema)
        by_pml = await post(client, modules={"pml": prompt}, **GREEDY)
        by_fields = await post(client, modules=fields, **GREEDY)
        assert by_fields["choices"] == by_pml["choices"]
        details = by_fields["usage"]["prompt_tokens_details"]
        assert details["module_tokens"] >= len("Be brief.Towns only.")
        assert details["encoded_tokens"] == 0
        await house.check()


def nested(levels: int) -> dict:
    entry = {"name": "plan"}
    for _ in range(levels):
        entry = {"name": "plan", "imports": [entry]}
    return entry


WRONG = [
    ({}, "prompt", "must be given, or modules, and not both"),
    ({"prompt": "p", "modules": FIELDS}, "prompt", "must be given, or modules, and not both"),
    ({"modules": {}}, "modules.schema", "must be given, a schema's name; or pml"),
    ({"modules": {"schema": ""}}, "modules.schema", "must be given"),
    ({"modules": {**PML, "text": "x"}}, "modules.text", "must not be given with pml"),
    ({"modules": {**PML, "schema": "trip"}}, "modules.schema", "must not be given with pml"),
    (
        {"modules": {**FIELDS, "messages": []}},
        "modules.text",
        "must not be given together with messages",
    ),
    ({"modules": {**FIELDS, "wheel": 1}}, "modules.wheel", "is not a field"),
    ({"modules": {"schema": "trip", "imports": [{}]}}, "modules.imports[0].name", "must be given"),
    (
        {"modules": {"schema": "trip", "imports": [{"name": "plan", "arguments": {"days": 2}}]}},
        "modules.imports[0].arguments.days",
        "valid string",
    ),
    ({"modules": {"schema": "trip", "imports": [nested(32)]}}, "modules.imports", "deeper than 32"),
    ({"modules": {"pml": "<prompt"}}, "modules", "<prompt>:1:1"),
    (
        {"modules": {"pml": '<prompt schema="trip"><plan/>x</prompt>'}},
        "modules",
        "<prompt>:1:23: missing argument 'days'",
    ),
    ({"modules": {"schema": "trip"}}, "modules", "no text of its own"),
    (
        {"modules": FIELDS, "prompt_cache_retention": "24h"},
        "prompt_cache_retention",
        "must not be given with modules",
    ),
]


async def test_a_malformed_prompt_is_one_clear_error_that_names_the_field(house, http):
    for body, param, said in WRONG:
        with pytest.raises(openai.BadRequestError) as caught:
            await post(http, **body)
        assert (caught.value.param, said in str(caught.value)) == (param, True), (
            body,
            caught.value,
        )
    await house.check()


async def test_a_schema_that_the_caller_has_not_put_is_not_found(house, http):
    with pytest.raises(openai.NotFoundError, match="no schema has the name 'none'"):
        await post(http, modules={"schema": "none", "text": "x"})
    async with client_of(house, house.new_key("other")) as stranger:
        with pytest.raises(openai.NotFoundError, match="no schema has the name 'trip'"):
            await post(stranger, modules=PML)
        with pytest.raises(openai.NotFoundError, match="no schema has the name 'trip'"):
            await post(stranger, "/trees", tree={"text": "x"}, modules=PML)


async def test_a_public_trunk_and_modules_do_not_go_together(http):
    modules = {key: value for key, value in FIELDS.items() if key != "text"}
    with pytest.raises(openai.BadRequestError) as caught:
        await post(http, "/trees", tree={"text": "x"}, modules=modules, public_trunk=True)
    assert caught.value.param == "public_trunk"


async def test_the_example_of_the_documentation_runs(house, monkeypatch, capsys):
    page = (Path(__file__).parents[3] / "docs" / "clients.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    [code] = [block for block in blocks if "modules" in block]
    [(_, bearer)] = house.new_key("reader")
    key = bearer.removeprefix("Bearer ")
    monkeypatch.setenv("TREESERVE_API_KEY", key)
    code = code.replace("127.0.0.1:8000", str(house.server.http_address))
    code = code.replace("127.0.0.1:50051", str(house.server.grpc_address))
    code = code.replace("none is asked for", key)
    await asyncio.to_thread(exec, compile(code, "docs/clients.md", "exec"), {})
    assert f"'module_tokens': {MODULE_TOKENS}" in capsys.readouterr().out
    await house.check()

"""`treeserve generate --pml`, here and at a server: the three examples, and what is refused."""

import asyncio
from pathlib import Path

import pytest
from server.side_house import HOME, running_house

from treeserve import LLM, SamplingParams
from treeserve.commands.main import main
from treeserve.config import EngineOptions
from treeserve.pml import read_prompt, read_schema

FOLDER = Path(__file__).parents[2] / "examples" / "modules"
EXAMPLES = ("code", "traits", "travel")
GREEDY = ("--temperature", "0", "--seed", "1")


def files(name: str) -> tuple[str, ...]:
    return ("--pml", str(FOLDER / f"{name}-prompt.pml"), "--schema", str(FOLDER / f"{name}.pml"))


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("embedded")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_its_modules_lead_to(name, llm, capsys):
    prompt = llm.compile_schema(read_schema(FOLDER / f"{name}.pml")).prompt(
        read_prompt(FOLDER / f"{name}-prompt.pml")
    )
    params = SamplingParams(temperature=0, max_tokens=8, seed=1)
    [apart] = llm.generate_modules([prompt], params)
    [exact] = llm.generate_modules([prompt], params, exact=True)
    shown = (*GREEDY, "--max-tokens", "8")
    assert main(["generate", *files(name), *shown]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == apart.samples[0].text.strip()
    modules = prompt.module_set.num_tokens
    assert f"prompt {len(prompt.exact_token_ids)} tokens: {modules} of modules" in captured.err
    assert main(["generate", *files(name), *shown, "--exact"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == exact.samples[0].text.strip()
    assert "of modules" not in captured.err


def test_a_prompts_own_max_tokens_holds_without_one_on_the_command_line(llm):
    prompt = llm.compile_schema(read_schema(FOLDER / "travel.pml")).prompt(
        read_prompt(FOLDER / "travel-prompt.pml")
    )
    assert prompt.max_tokens == 48
    [generation] = llm.generate_modules([prompt])
    assert generation.usage.completion_tokens <= 48
    assert generation.usage.module_tokens == prompt.module_set.num_tokens


def drawn_here(model: str) -> str:
    """What the traits example leads to in this process."""
    llm = LLM(model)
    prompt = llm.compile_schema(read_schema(FOLDER / "traits.pml")).prompt(
        read_prompt(FOLDER / "traits-prompt.pml")
    )
    params = SamplingParams(temperature=0, max_tokens=6, seed=1)
    [generation] = llm.generate_modules([prompt], params)
    return generation.samples[0].text


async def test_a_server_is_given_the_schema_and_draws_the_same(checkpoint_of, capsys, monkeypatch):
    model = str(checkpoint_of("llama"))
    here = drawn_here(model)
    async with running_house(EngineOptions(model=model, num_pages=128)) as house:
        [(_, bearer)] = house.key_of(HOME)
        monkeypatch.setenv("TREESERVE_API_KEY", bearer.removeprefix("Bearer "))
        server = ("--server", str(house.server.grpc_address))
        command = ["generate", *files("traits"), *GREEDY, "--max-tokens", "6", *server]
        assert await asyncio.to_thread(main, command) == 0
        captured = capsys.readouterr()
        assert captured.out.rstrip("\n") == here.rstrip("\n")
        assert "of modules" in captured.err
        await house.check()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--pml", "p.pml"), "--schema: must be given with --pml"),
        (("text", "--schema", "s.pml"), "--schema: needs --pml"),
        (("text", "--exact"), "--exact: needs --pml"),
        (("text", *files("travel")), "prompt: give exactly one of"),
        (("--pml", "none.pml", "--schema", "none.pml"), "none.pml: cannot be read"),
        ((*files("travel")[:2], *files("traits")[2:]), "a prompt for schema 'travel'"),
    ],
)
def test_options_that_do_not_fit_are_one_clear_error(options, said, checkpoint_of, capsys):
    model = str(checkpoint_of("llama"))
    try:
        status = main(["generate", *options, "--model", model])
    except SystemExit as ended:
        status = ended.code
    assert status != 0
    assert said in capsys.readouterr().err

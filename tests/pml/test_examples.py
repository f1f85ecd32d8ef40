"""The examples hold: PML and Python say the same, and every prompt fits its schema."""

import runpy
from pathlib import Path

import pytest

from treeserve.embedded import MODEL_FOLDER
from treeserve.pml import compile_schema, read_prompt, read_schema
from treeserve.tokenizer import Tokenizer

FOLDER = Path(__file__).parents[2] / "examples" / "modules"


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("code", ("unit", "board")),
        ("traits", ("student", "crime", "brief")),
        ("travel", ("trip", "miami", "low_budget")),
    ],
)
def test_an_example_is_the_same_in_pml_and_in_python(name, imported):
    schema = read_schema(FOLDER / f"{name}.pml")
    assert runpy.run_path(str(FOLDER / f"{name}.py"))[name].build() == schema
    tokenizer = Tokenizer.load(MODEL_FOLDER)
    compiled = compile_schema(schema, tokenizer, model_fingerprint="", max_positions=4096)
    prompt = compiled.prompt(read_prompt(FOLDER / f"{name}-prompt.pml"))
    assert prompt.imported == imported


def test_the_travel_plan_reads_as_one_text():
    tokenizer = Tokenizer.load(MODEL_FOLDER)
    schema = read_schema(FOLDER / "travel.pml")
    compiled = compile_schema(schema, tokenizer, model_fingerprint="", max_positions=4096)
    prompt = compiled.prompt(read_prompt(FOLDER / "travel-prompt.pml"))
    assert tokenizer.decode(prompt.exact_token_ids) == (
        "You plan trips and know every town.\n"
        "Plan a trip of three days for a family of four.\n"
        "The trip goes to Miami: beaches, art deco, and the Everglades an hour away.\n"
        "Money is short: choose what costs nothing.\n"
        "Where do they go on the first morning?"
    )

"""Every mistake in a schema or a prompt has its own error: file, line, column, what was expected.

The first line of each file of the corpus is that error, without the folder.
"""

from pathlib import Path

import pytest

from treeserve.embedded import MODEL_FOLDER
from treeserve.pml import (
    CompiledSchema,
    PmlError,
    compile_schema,
    read_prompt,
    read_schema,
)
from treeserve.tokenizer import Tokenizer

FOLDER = Path(__file__).parent
SCHEMAS = sorted((FOLDER / "schemas").glob("*.pml"))
PROMPTS = sorted((FOLDER / "prompts").glob("*.pml"))


def expected_error(file: Path) -> str:
    first = file.read_text().split("\n")[0]
    return first.removeprefix("<!-- ").removesuffix(" -->")


def without_folder(error: PmlError, file: Path) -> str:
    return str(error).replace(f"{file.parent}/", "")


def test_the_corpus_is_where_it_is_looked_for():
    assert len(SCHEMAS) > 60
    assert len(PROMPTS) > 20


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.stem)
def test_a_mistake_in_a_schema_is_named(file):
    with pytest.raises(PmlError) as caught:
        read_schema(file)
    assert without_folder(caught.value, file) == expected_error(file)


@pytest.fixture(scope="module")
def trip(trip) -> CompiledSchema:
    tokenizer = Tokenizer.load(MODEL_FOLDER)
    return compile_schema(trip, tokenizer, model_fingerprint="", max_positions=4096)


@pytest.mark.parametrize("file", PROMPTS, ids=lambda file: file.stem)
def test_a_mistake_in_a_prompt_is_named(file, trip):
    with pytest.raises(PmlError) as caught:
        trip.prompt(read_prompt(file))
    assert without_folder(caught.value, file) == expected_error(file)

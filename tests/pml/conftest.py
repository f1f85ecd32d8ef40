"""What tests of prompt modules read: a tokenizer with a chat template, and a schema."""

import functools
from pathlib import Path

import pytest
import tiny_models

from treeserve.pml import CompiledSchema, Schema, compile_schema, read_schema
from treeserve.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('system comes first') }}{% endif %}"
    "<end>{{ m.role }}: {{ m.content }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<end>assistant: {% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """One token for each byte, token 0 for "<end>"; and a template."""
    pretrained = tiny_models.byte_tokenizer()
    pretrained.chat_template = TEMPLATE
    return Tokenizer(pretrained)


@pytest.fixture(scope="session")
def compiled(tokenizer) -> "functools.partial[CompiledSchema]":
    """A function from a schema to what it compiles to, with a token for each byte."""
    return functools.partial(
        compile_schema, tokenizer=tokenizer, model_fingerprint="tiny", max_positions=1024
    )


@pytest.fixture(scope="session")
def trip() -> Schema:
    return read_schema(Path(__file__).parent / "trip.pml")

"""Whatever a schema says: its layout holds together, PML says it back, its hashes are its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pml.random_schemas import prompts_of, schemas

from treeserve.embedded import MODEL_FOLDER
from treeserve.pml import (
    CompiledSchema,
    ModulePrompt,
    PmlError,
    PromptTag,
    Schema,
    compile_schema,
    parse_prompt,
    parse_schema,
    write_prompt,
    write_schema,
)
from treeserve.pml.layout import (
    PlacedModule,
    PlacedParameter,
    PlacedUnion,
    Run,
    walk_modules,
)
from treeserve.pml.tags import TurnTag
from treeserve.tokenizer import Tokenizer

EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@EXAMPLES
@given(schema=schemas())
def test_what_is_built_and_written_is_read_back_as_the_same(schema: Schema):
    assert parse_schema(write_schema(schema)) == schema


@EXAMPLES
@given(schema=schemas())
def test_positions_are_covered_once_and_unions_start_together(compiled, schema: Schema):
    laid_out = compiled(schema)
    for module in walk_modules(laid_out.root):
        position = module.start
        for node in module.content:
            assert node.start == position
            position = check_node(node)
        assert position == module.end
    for name, module in laid_out.modules.items():
        assert np.all(np.diff(module.positions) > 0), name
        assert len(module.token_ids) == len(module.positions) > 0
        assert module.positions[-1] < laid_out.base_position


def check_node(node: Run | PlacedParameter | PlacedModule | PlacedUnion) -> int:
    if isinstance(node, PlacedParameter):
        assert node.end == node.start + node.length
    if isinstance(node, PlacedUnion):
        assert {member.start for member in node.members} == {node.start}
        assert node.end == max(member.end for member in node.members)
    return node.end


@EXAMPLES
@given(data=st.data(), schema=schemas())
def test_no_two_tokens_of_a_prompt_stand_at_one_position(compiled, data, schema: Schema):
    assume(not any(isinstance(node, TurnTag) for node in schema.content))
    laid_out = compiled(schema)
    prompt_tag = data.draw(prompts_of(laid_out.root, "own"))
    assert parse_prompt(write_prompt(prompt_tag)) == prompt_tag
    prompt = compiled_prompt(laid_out, prompt_tag)
    assume(prompt is not None)
    modules = prompt.module_set
    num_inserted = len(modules.argument_positions)
    own = [*modules.argument_positions.tolist()]
    own += range(modules.base_position, modules.base_position + 3)
    assert len(own) == len(prompt.own_token_ids) == num_inserted + 3
    assert own == sorted(own)
    positions = [p for module in modules.modules for p in module.positions.tolist()] + own
    assert len(set(positions)) == len(positions)
    tokens = [t for module in modules.modules for t in module.token_ids.tolist()]
    by_position = sorted(zip(positions, tokens + prompt.own_token_ids, strict=True))
    assert prompt.exact_token_ids == [token for _, token in by_position]
    assert len({module.key for module in modules.modules}) == len(modules.modules)


def compiled_prompt(schema: CompiledSchema, prompt: PromptTag) -> ModulePrompt | None:
    """None where it imports nothing that is cached, and is refused for that alone."""
    try:
        return schema.prompt(prompt)
    except PmlError as error:
        if "imports no cached text" in str(error):
            return None
        raise


HASHES = """
import json, sys
from treeserve.embedded import MODEL_FOLDER
from treeserve.pml import compile_schema, parse_schema
from treeserve.tokenizer import Tokenizer
compiled = compile_schema(
    parse_schema(sys.stdin.read()), Tokenizer.load(MODEL_FOLDER),
    model_fingerprint="embedded", max_positions=4096,
)
print(json.dumps([compiled.schema_id, [m.key for m in compiled.modules.values()]]))
"""


@pytest.mark.slow
def test_hashes_are_equal_in_every_process(trip):
    """Python's own hashes of strings differ from process to process."""
    own_seed = os.environ.get("PYTHONHASHSEED")
    done = subprocess.run(
        [sys.executable, "-c", HASHES],
        input=write_schema(trip),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "2" if own_seed == "1" else "1"},
    )
    own = compile_schema(
        trip, Tokenizer.load(MODEL_FOLDER), model_fingerprint="embedded", max_positions=4096
    )
    schema_id, keys = json.loads(done.stdout)
    assert schema_id == own.schema_id
    assert keys == [module.key for module in own.modules.values()]
    assert len({schema_id, *keys}) == 1 + 5


@EXAMPLES
@given(one=schemas(), other=schemas())
def test_schemas_have_one_id_exactly_where_they_say_the_same(compiled, one, other):
    again = compiled(parse_schema(write_schema(one)))
    assert again.schema_id == compiled(one).schema_id
    assert (compiled(one).schema_id == compiled(other).schema_id) == (one == other)

"""Schemas saved to a file by one process and restored by another, in the Python API."""

import pytest
import torch

from treeserve import LLM, SamplingParams
from treeserve.errors import Damaged, NoRoom, NotPossible
from treeserve.pml import parse_prompt, parse_schema
from treeserve.scheduler.tree.imports import find_module
from treeserve.schemas.warming import all_modules

SCHEMA = parse_schema(
    """<schema name="trip">You plan trips.
<module name="plan">Plan <parameter name="days" length="4"/> days.</module>
<union><module name="oslo">It goes to Oslo.</module><module name="rome">To Rome!</module></union>
<scaffold name="both" modules="plan oslo"/>
</schema>"""
)
PROMPT = parse_prompt('<prompt schema="trip"><plan days="two"/><rome/>Where first?</prompt>')
PARAMS = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)


def make(checkpoint_of, family: str = "llama", **options) -> LLM:
    return LLM(str(checkpoint_of(family)), **{"num_pages": 64, "page_size": 16, **options})


def kv_of(llm: LLM, schema) -> list[torch.Tensor]:
    tree, _ = llm.engine.scheduler.insides()
    segments = [find_module(tree, module, "") for module in all_modules(schema)]
    return [
        tensor
        for segment in segments
        for layer in llm._built.kv_cache.read_slots(segment.slots)
        for tensor in layer
    ]


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_a_restored_schema_has_the_same_bits_and_encodes_nothing(checkpoint_of, tmp_path, overlap):
    file = tmp_path / "trip.schema"
    first = make(checkpoint_of, overlap=overlap)
    schema = first.save_schema(SCHEMA, file)
    [expected] = first.generate_modules([schema.prompt(PROMPT)], PARAMS)
    assert expected.usage.encoded_tokens == 0
    second = make(checkpoint_of, overlap=overlap)
    restored = second.restore_schema(file)
    assert restored.schema_id == schema.schema_id
    for old, new in zip(kv_of(first, schema), kv_of(second, restored), strict=True):
        assert torch.equal(old, new)
    [found] = second.generate_modules([restored.prompt(PROMPT)], PARAMS)
    assert found.samples[0].token_ids == expected.samples[0].token_ids
    assert found.usage.encoded_tokens == 0
    assert found.usage.module_tokens == expected.usage.module_tokens > 0
    second.engine.scheduler.check()


def test_a_schema_is_saved_and_restored_while_a_stream_is_being_read(checkpoint_of, tmp_path):
    llm = make(checkpoint_of, overlap="on")
    [alone] = llm.generate("read slowly", SamplingParams(seed=3, max_tokens=20))
    stream = llm.stream("read slowly", SamplingParams(seed=3, max_tokens=20))
    texts = [next(stream).text]
    llm.save_schema(SCHEMA, tmp_path / "s")
    llm.engine.scheduler.clear_cache()
    llm.restore_schema(tmp_path / "s")
    texts += [item.text for item in stream if hasattr(item, "text")]
    assert "".join(texts) == alone.samples[0].text
    llm.engine.scheduler.check()


def test_what_cannot_be_used_is_one_clear_error_and_changes_nothing(checkpoint_of, tmp_path):
    llm, file = make(checkpoint_of), tmp_path / "trip.schema"
    llm.save_schema(SCHEMA, file)
    whole = file.read_bytes()
    for other, what in (
        (make(checkpoint_of, "qwen3"), "its model"),
        (make(checkpoint_of, dtype="bfloat16"), "its model, dtype"),
    ):
        with pytest.raises(NotPossible, match=what):
            other.restore_schema(file)
        assert other.engine.scheduler.counts().used_pages == 0
    small = make(checkpoint_of, num_pages=5)
    with pytest.raises(NoRoom, match="need 6 pages of KV, and 5 of 5 can be had"):
        small.restore_schema(file)
    assert small.engine.scheduler.counts().used_pages == 0
    file.write_bytes(whole[:-1])
    with pytest.raises(Damaged, match="the saved schema is damaged"):
        llm.restore_schema(file)
    with pytest.raises(NotPossible, match="cannot be read: No such file"):
        llm.restore_schema(tmp_path / "none")
    with pytest.raises(NotPossible, match="cannot be written: No such file"):
        llm.save_schema(SCHEMA, tmp_path / "none" / "s")
    empty = parse_schema('<schema name="e"><parameter name="p" length="2"/></schema>')
    with pytest.raises(NotPossible, match="no text that is encoded ahead"):
        llm.save_schema(empty, tmp_path / "e")
    assert [entry.name for entry in tmp_path.iterdir()] == ["trip.schema"]

"""Random schemas, and random prompts of them in scarce memory: each module as encoded alone."""

import functools

import pytest
import tiny_models
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kv_on_paper import (
    complete,
    contents_of,
    drawn,
    make_device,
    refused,
    request,
    run_alone,
)
from pml.random_schemas import prompts_of, schemas

from treeserve.config import SchedulerConfig
from treeserve.pml import CompiledSchema, PmlError, PromptTag, compile_schema
from treeserve.pml.tags import TurnTag
from treeserve.scheduler.modules import ModuleSet
from treeserve.scheduler.scheduler import Scheduler
from treeserve.tokenizer import Tokenizer

ALPHABET = 3
NUM_SCHEMAS = 50


@pytest.fixture(scope="module")
def compiled() -> "functools.partial[CompiledSchema]":
    """A function from a schema to what it compiles to, with a token for each byte."""
    tokenizer = Tokenizer(tiny_models.byte_tokenizer())
    return functools.partial(
        compile_schema, tokenizer=tokenizer, model_fingerprint="", max_positions=1024
    )


class Traffic:
    """Prompts of one schema that come one after the other, in a pool that cannot hold them all."""

    def __init__(self, num_slots: int, page_size: int, token_budget: int) -> None:
        config = SchedulerConfig(
            num_pages=num_slots // page_size, page_size=page_size, token_budget=token_budget
        )
        self.scheduler = Scheduler(config)
        self.device = make_device(config, ALPHABET)
        self.requests = {}
        self.updates = []

    def send(self, own: list[int], modules: ModuleSet, namespace: str) -> None:
        each = request(
            f"r{len(self.requests)}", own, n=2, max_tokens=3, namespace=namespace, modules=modules
        )
        if refused(lambda: self.scheduler.add(each), "modules") is None:
            self.requests[each.request_id] = each

    def step(self) -> bool:
        """Whether there was one; every module that is there lies in its slots as encoded alone."""
        step = self.scheduler.schedule()
        if step is None:
            return False
        self.updates += complete(self.scheduler, step, self.device.run(step))
        self.scheduler.check()
        for segment in self.scheduler.insides()[0].segments():
            if segment.is_module and not segment.is_pending:
                alone = contents_of(segment.tokens.tolist(), segment.layout.positions.tolist())
                slots = [self.device.slots[slot].content for slot in segment.slots.tolist()]
                assert slots == alone
        return True

    def assert_as_alone(self) -> None:
        """What a prompt drew says what it read: its own modules' KV, slot by slot, and no other."""
        outputs = drawn(self.updates)
        for request_id, each in self.requests.items():
            for index in range(2):
                assert outputs[request_id, index] == run_alone(each, index, ALPHABET)


@settings(max_examples=NUM_SCHEMAS, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    schema=schemas(),
    spare=st.sampled_from([8, 30, 400]),
    page_size=st.sampled_from([1, 4]),
    token_budget=st.sampled_from([4, 40]),
)
def test_whatever_is_imported_after_whatever_reads_modules_as_encoded_alone(
    compiled, data, schema, spare, page_size, token_budget
):
    assume(not any(isinstance(node, TurnTag) for node in schema.content))
    laid_out = compiled(schema)
    tags = data.draw(st.lists(prompts_of(laid_out.root, "own"), min_size=3, max_size=8))
    prompts = [found for tag in tags if (found := prompt_of(laid_out, tag)) is not None]
    assume(prompts)
    largest = max(
        sum(-(-len(m) // page_size) for m in p.module_set.modules) * page_size
        + len(p.own_token_ids)
        for p in prompts
    )
    traffic = Traffic(largest + 2 * (3 + page_size) + spare, page_size, token_budget)
    for prompt in prompts:
        namespace = data.draw(st.sampled_from(["a", "a", "b"]))
        traffic.send([t % 256 for t in prompt.own_token_ids], prompt.module_set, namespace)
        for _ in range(data.draw(st.integers(0, 6))):
            traffic.step()
        if data.draw(st.integers(0, 4)) == 0:
            traffic.scheduler.clear_cache()
    while traffic.step():
        pass
    assert traffic.requests, "the pool holds the largest prompt alone"
    traffic.assert_as_alone()
    counts = traffic.scheduler.counts()
    assert counts.used_pages == counts.cached_pages


def prompt_of(schema: CompiledSchema, tag: PromptTag):
    """None where it imports nothing that is cached."""
    try:
        return schema.prompt(tag)
    except PmlError as error:
        if "imports no cached text" in str(error):
            return None
        raise

"""What the engine promises: prompts computed once, pages freed at once, errors kept apart."""

import asyncio

import pytest
import torch
from held_engine import held_after

from treeserve import LLM, Delta, Finished, FinishReason, InvalidRequest, PromptTree, SamplingParams
from treeserve.engine import Engine, RequestEnded
from treeserve.errors import EngineStopped
from treeserve.generation import TextService
from treeserve.loop import EngineLoop
from treeserve.types import StepNumbers

PROMPT = "the same text again and again " * 17
LONG = SamplingParams(max_tokens=400, ignore_eos=True)
FEW_STEPS = 20
"""Enough for the first text, and far from the end of a long sample."""


@pytest.fixture
def llm(checkpoint_of) -> LLM:
    return LLM(str(checkpoint_of("llama")), num_pages=400, page_size=4)


def assert_drained(engine: Engine) -> None:
    """Nothing but the tree holds pages, and without the cache nothing does."""
    engine.scheduler.check()
    counts = engine.scheduler.counts()
    assert (counts.running_samples, counts.waiting_requests) == (0, 0)
    assert counts.used_pages == counts.cached_pages
    engine.scheduler.clear_cache()
    assert engine.scheduler.counts().used_pages == 0


def test_usage_adds_up_and_equal_prompts_are_computed_once(llm):
    prompt = PROMPT[:500]
    results = llm.generate([prompt] * 64, SamplingParams(max_tokens=4))
    for result in results:
        usage = result.usage
        assert usage.prompt_tokens == 500
        assert usage.prompt_tokens == (
            usage.cached_tokens + usage.shared_tokens + usage.computed_tokens
        )
    assert sum(result.usage.computed_tokens for result in results) == 500
    assert llm.sharing().prompt_tokens == 32_000
    assert llm.sharing().computed_prompt_tokens == 500

    [again] = llm.generate(prompt, SamplingParams(n=3, max_tokens=4))
    assert again.usage.cached_tokens == 500
    assert_drained(llm.engine)


def test_samples_depend_on_seed_and_index_not_on_neighbours(llm):
    params = SamplingParams(n=3, seed=11, max_tokens=10)
    [alone] = llm.generate("a prompt", params)
    crowd = llm.generate(["a prompt", "a promise", "b"], [params, SamplingParams(n=8), LONG])
    assert [s.token_ids for s in crowd[0].samples] == [s.token_ids for s in alone.samples]
    assert len({s.token_ids for s in alone.samples}) == 3
    other = llm.generate("a prompt", SamplingParams(n=3, seed=12, max_tokens=10))[0]
    assert [s.token_ids for s in other.samples] != [s.token_ids for s in alone.samples]


def test_sharing_on_and_off_draw_the_same_samples(checkpoint_of):
    params = SamplingParams(n=4, seed=3, max_tokens=20, ignore_eos=True)
    prompts = [PROMPT + ending for ending in ("x", "y", "z")]
    token_ids = {}
    for sharing in ("on", "always", "off"):
        llm = LLM(str(checkpoint_of("qwen2")), sharing=sharing, num_pages=400, page_size=8)
        results = llm.generate(prompts, params)
        token_ids[sharing] = [sample.token_ids for r in results for sample in r.samples]
        read = llm.sharing()
        assert (read.kv_tokens_read < read.kv_tokens_read_flat) == (sharing != "off")
    assert token_ids["on"] == token_ids["always"] == token_ids["off"]


@pytest.mark.parametrize(("prompt", "num_samples"), [(PROMPT, 1), (PROMPT[:64], 4), ("x", 16)])
def test_attention_is_not_shared_where_it_cannot_pay(llm, prompt, num_samples):
    llm.generate(prompt, SamplingParams(n=num_samples, max_tokens=8, ignore_eos=True))
    read = llm.sharing()
    assert read.kv_tokens_read == read.kv_tokens_read_flat


def test_stop_strings_and_stop_ids_end_a_sample(llm):
    greedy = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    [plain] = llm.generate("stop here", greedy)
    tokens = plain.samples[0].token_ids
    [by_id] = llm.generate(
        "stop here",
        SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, stop_token_ids=(tokens[5],)),
    )
    first = tokens.index(tokens[5])
    assert by_id.samples[0].token_ids == tokens[: first + 1]
    assert by_id.samples[0].finish_reason is FinishReason.STOP
    assert_drained(llm.engine)


def test_a_stop_string_frees_the_sample_within_the_next_step(llm):
    greedy = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    [plain] = llm.generate("p", greedy)
    text = plain.samples[0].text
    stop = text[3:5]
    [stopped] = llm.generate(
        "p", SamplingParams(temperature=0, max_tokens=60, ignore_eos=True, stop=(stop,))
    )
    assert stopped.samples[0].text == text[: text.find(stop)]
    assert stopped.samples[0].finish_reason is FinishReason.STOP
    assert stopped.usage.completion_tokens == len(stopped.samples[0].token_ids) < 60
    assert_drained(llm.engine)


def test_closing_a_stream_frees_its_pages_at_once(llm):
    stream = llm.stream("a prompt", LONG)
    assert isinstance(next(stream), Delta)
    stream.close()
    assert not llm.engine.has_work()
    assert_drained(llm.engine)


def test_two_streams_can_be_read_in_turn(llm):
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    expected = [result.samples[0].text for result in llm.generate(["one", "another"], params)]
    streams = [llm.stream("one", params), llm.stream("another", params)]
    texts = ["", ""]
    for items in zip(*streams, strict=False):
        for index, item in enumerate(items):
            texts[index] += item.text if isinstance(item, Delta) else ""
    for index, stream in enumerate(streams):
        texts[index] += "".join(item.text for item in stream if isinstance(item, Delta))
    assert texts == expected
    assert_drained(llm.engine)


def test_closing_one_stream_leaves_the_other(llm):
    first, second = (llm.stream("one", SamplingParams(max_tokens=20, seed=1)) for _ in range(2))
    next(first)
    next(second)
    first.close()
    assert isinstance(list(second)[-1], Finished)


def test_a_tree_streams_paths_and_one_usage_per_prompt(llm):
    branches = (PromptTree(" left", n=2), PromptTree(" right"))
    tree = PromptTree("trunk", params=SamplingParams(max_tokens=3), branches=branches)
    items = list(llm.stream(tree))
    assert {item.path for item in items if isinstance(item, Finished)} == {(0,), (1,)}
    ended = {(i.path, i.sample_index) for i in items if isinstance(i, Delta) and i.finish_reason}
    assert ended == {((0,), 0), ((0,), 1), ((1,), 0)}


def test_what_can_never_fit_is_refused_and_nothing_is_lost(checkpoint_of):
    llm = LLM(str(checkpoint_of("llama")), num_pages=8, page_size=4)
    with pytest.raises(InvalidRequest, match=r"^prompt: .*pool holds 32 tokens"):
        llm.generate("x" * 100, SamplingParams(max_tokens=1))
    with pytest.raises(InvalidRequest, match=r"^max_tokens: .*pool holds 32 tokens"):
        llm.generate("x", SamplingParams(max_tokens=100))
    [result] = llm.generate("x", SamplingParams(max_tokens=8))
    assert result.samples[0].token_ids
    assert_drained(llm.engine)


def test_a_refused_prompt_keeps_the_others_of_its_call_from_running(llm):
    with pytest.raises(InvalidRequest, match=r"prompts\[1\]\.prompt"):
        llm.generate(["fine", ""])
    assert not llm.engine.has_work()


def test_a_failed_step_ends_its_requests_and_the_engine_goes_on(llm, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("out of memory, say")

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine._runner._model.module, "forward", broken)
        [failed] = llm.generate("a prompt", SamplingParams(n=2))
    assert [sample.finish_reason for sample in failed.samples] == [FinishReason.ERROR] * 2
    [result] = llm.generate("a prompt", SamplingParams(max_tokens=2))
    assert result.samples[0].finish_reason in (FinishReason.LENGTH, FinishReason.STOP)
    assert_drained(llm.engine)


def test_an_interrupt_leaves_an_engine_that_can_go_on(llm, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine._runner._model.module, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate("a prompt")
    assert not llm.engine.has_work()
    assert llm.generate("a prompt", SamplingParams(max_tokens=2))
    assert_drained(llm.engine)


def test_logits_that_are_not_numbers_end_the_request(llm, monkeypatch):
    def nan_logits(_model, token_ids, _positions, rows, _attend):
        return torch.full((len(rows), 320), torch.nan)

    with monkeypatch.context() as patch:
        patch.setattr(type(llm.engine._runner._model), "forward", nan_logits)
        [failed] = llm.generate("a prompt")
    assert failed.samples[0].finish_reason is FinishReason.ERROR
    [result] = llm.generate("a prompt", SamplingParams(max_tokens=2))
    assert result.samples[0].finish_reason is not FinishReason.ERROR


def test_two_engines_in_one_process_do_not_meet(checkpoint_of):
    first, second = (LLM(str(checkpoint_of("llama")), num_pages=100) for _ in range(2))
    greedy = SamplingParams(temperature=0, max_tokens=5)
    assert first.generate("x", greedy)[0].samples == second.generate("x", greedy)[0].samples
    assert second.generate("x", greedy)[0].usage.cached_tokens == 1
    assert first.sharing().prompt_tokens == 1


class TestLoop:
    @pytest.fixture
    def numbers(self) -> list[StepNumbers]:
        return []

    @pytest.fixture
    def loop(self, llm, numbers):
        loop = EngineLoop(llm.engine, numbers.append)
        loop.start()
        yield loop
        loop.stop()

    async def test_streams_run_side_by_side(self, loop, llm):
        service = TextService(loop, llm.prompter)

        params = SamplingParams(seed=1, max_tokens=24)

        async def collect(prompt: str) -> str:
            items = [item async for item in service.generate(prompt, params)]
            assert isinstance(items[-1], Finished)
            return "".join(item.text for item in items if isinstance(item, Delta))

        together = await asyncio.gather(*(collect(f"prompt {i}") for i in range(8)))
        alone = [await collect(f"prompt {i}") for i in range(8)]
        assert together == alone

    async def test_closing_a_stream_aborts_before_the_next_step(self, loop, llm, numbers):
        service, held = TextService(loop, llm.prompter), held_after(FEW_STEPS, llm.engine)
        stream = service.generate("x", LONG)
        await anext(stream)
        await stream.aclose()
        held.release()
        assert await loop.drain(60)
        assert numbers[-1].num_drawn <= 1
        # At most one more than it was let: it may have been on its way to that one already.
        assert sum(entry.num_drawn for entry in numbers) <= FEW_STEPS + 1

    async def test_draining_finishes_what_runs_and_takes_nothing_new(self, loop, llm):
        service, held = TextService(loop, llm.prompter), held_after(FEW_STEPS, llm.engine)
        stream = service.generate("x", SamplingParams(max_tokens=50, ignore_eos=True))
        items = [await anext(stream)]
        drained = asyncio.create_task(loop.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(EngineStopped):
            await anext(service.generate("y"))
        assert not drained.done()
        held.release()
        items += [item async for item in stream]
        assert await drained
        assert items[-1].usage.completion_tokens == 50

    async def test_stopping_ends_running_streams_with_abort(self, loop, llm):
        service = TextService(loop, llm.prompter)
        held_after(FEW_STEPS, llm.engine)
        stream = service.generate("x", LONG)
        await anext(stream)
        await asyncio.to_thread(loop.stop)
        items = [item async for item in stream]
        assert items[-2].finish_reason is FinishReason.ABORT
        assert not loop.healthy

    async def test_a_refused_request_raises_in_the_caller_and_the_loop_lives(self, checkpoint_of):
        llm = LLM(str(checkpoint_of("llama")), num_pages=8, page_size=4)
        loop = EngineLoop(llm.engine)
        loop.start()
        service = TextService(loop, llm.prompter)
        branches = (PromptTree("fits"), PromptTree("does not fit" * 9))
        with pytest.raises(InvalidRequest, match="pool"):
            await anext(service.generate_tree(PromptTree("trunk", branches=branches)))
        assert [item async for item in service.generate("x", SamplingParams(max_tokens=2))]
        assert await loop.drain(60)
        loop.stop()
        assert_drained(llm.engine)

    @pytest.mark.parametrize("method", ["schedule", "complete"])
    async def test_an_engine_that_cannot_go_on_says_so(self, llm, monkeypatch, method):
        loop, held = EngineLoop(llm.engine), held_after(FEW_STEPS, llm.engine)
        loop.start()
        service = TextService(loop, llm.prompter)
        stream = service.generate("x", LONG)
        await anext(stream)

        def broken(*_arguments):
            raise RuntimeError("books out of balance")

        monkeypatch.setattr(llm.engine.scheduler, method, broken)
        held.release()
        with pytest.raises(EngineStopped, match="failed before the call had ended"):
            [item async for item in stream]
        assert not loop.healthy
        with pytest.raises(EngineStopped):
            await anext(service.generate("y"))
        loop.stop()


def test_events_of_a_request_end_with_its_usage(llm):
    encoded = llm.prompter.encode("x", SamplingParams(n=2, max_tokens=3, ignore_eos=True))
    llm.engine.add(encoded.request)
    events = []
    while llm.engine.has_work():
        events += llm.engine.step()[0]
    assert [isinstance(event, RequestEnded) for event in events] == [False] * 6 + [True]

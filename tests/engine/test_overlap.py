"""Steps decided while the device works on the one before: nobody notices but by the clock."""

from dataclasses import replace

import pytest
import torch
from engine.overlap_calls import SAMPLED, Script, assert_at_rest, events_of, make, run, tokens
from held_engine import held_after

from treeserve import ConfigError, FinishReason
from treeserve.engine import EngineFork, EngineRequest, RequestEnded, TokenEvent
from treeserve.generation import TextService
from treeserve.loop import EngineLoop
from treeserve.runner import BrokenLogits


@pytest.mark.parametrize("num_pages", [400, 15])
@pytest.mark.parametrize("seed", range(4))
def test_the_same_calls_draw_the_same_samples_with_overlap_and_without(
    checkpoint_of, seed, num_pages
):
    scripts = {}
    for overlap in ("on", "off"):
        options = {"overlap": overlap, "num_pages": num_pages, "token_budget": 9, "reserve": 0.0}
        scripts[overlap] = Script(make(checkpoint_of, **options), seed)
        scripts[overlap].run(30)
        assert_at_rest(scripts[overlap].engine)
    on, off = scripts["on"], scripts["off"]
    assert on.names == off.names
    assert on.usages().keys() & off.usages().keys() >= set(on.names) - on.forks
    drawn = [tokens(on.events), tokens(off.events)]
    sent_to_both = on.usages().keys() & off.usages().keys()
    for key in drawn[0].keys() | drawn[1].keys():
        got, expected = (each.get(key, []) for each in drawn)
        if key[0] in on.aborted:
            num_both = min(len(got), len(expected))
            assert got[:num_both] == expected[:num_both]
        elif key[0] in sent_to_both:
            assert got == expected
            assert on.reasons()[key] == off.reasons()[key]
    for usage in on.usages().values():
        parts = (usage.cached_tokens, usage.shared_tokens, usage.computed_tokens)
        assert min(parts) >= 0
        assert sum(parts) == usage.prompt_tokens
    counts = on.engine.scheduler.counts()
    if num_pages == 15:
        assert counts.preempted_samples > 0
    else:
        assert counts.tally.num_forked > 2


def test_usage_is_the_same_with_overlap_where_nobody_is_aborted_or_branched(checkpoint_of):
    prompts = ["one trunk for all " * 3 + ending for ending in ("a", "b", "a", "", "ccc")]
    results = {}
    for overlap in ("on", "off"):
        llm = make(checkpoint_of, overlap=overlap, token_budget=16)
        first = llm.generate(prompts, SAMPLED)
        again = llm.generate(prompts[::-1], replace(SAMPLED, max_tokens=1))
        results[overlap] = [*first, *again]
        assert_at_rest(llm.engine)
    assert results["on"] == results["off"]


class Recorder:
    """The real runner and scheduler of an engine, and the order in which they are called."""

    def __init__(self, engine, monkeypatch) -> None:
        self.calls: list[tuple[str, int]] = []
        self.origins: list[str] = []
        schedule, launch = engine.scheduler.schedule, engine._runner.launch

        def schedule_and_note():
            step = schedule()
            if step is not None:
                self.calls.append(("schedule", step.number))
                self.origins.append(step.plan.counts.origin)
            return step

        def launch_and_note(step, draws):
            self.calls.append(("launch", step.number))
            launched = launch(step, draws)
            return Reading(launched, self.calls)

        monkeypatch.setattr(engine.scheduler, "schedule", schedule_and_note)
        monkeypatch.setattr(engine._runner, "launch", launch_and_note)


class Reading:
    def __init__(self, launched, calls) -> None:
        self.launched, self.calls = launched, calls

    def read_sync(self):
        self.calls.append(("read", self.launched.step_number))
        return self.launched.read_sync()


def test_a_step_is_decided_and_launched_before_the_last_one_is_read_and_plans_go_on(
    checkpoint_of, monkeypatch
):
    llm = make(checkpoint_of)
    record = Recorder(llm.engine, monkeypatch)
    llm.generate("a prompt", SAMPLED)
    steady = [("schedule", 0), ("launch", 0)]
    for number in range(1, 20):
        steady += [("schedule", number), ("launch", number), ("read", number - 1)]
    assert record.calls == [*steady, ("read", 19)]
    assert record.origins == ["rebuilt"] * 2 + ["reused"] * 18
    assert_at_rest(llm.engine)


def test_without_overlap_each_step_is_read_before_the_next_is_decided(checkpoint_of, monkeypatch):
    llm = make(checkpoint_of, overlap="auto")
    record = Recorder(llm.engine, monkeypatch)
    llm.generate("a prompt", replace(SAMPLED, max_tokens=3))
    each = [("schedule", "launch", "read")] * 3
    assert [name for name, _ in record.calls] == [name for names in each for name in names]


def test_requests_and_aborts_do_not_wait_for_the_device(checkpoint_of, monkeypatch):
    llm = make(checkpoint_of)
    record = Recorder(llm.engine, monkeypatch)
    for name in ("a", "b"):
        llm.engine.add(EngineRequest(name, (1, 2, 3), SAMPLED))
        llm.engine.step()
    llm.engine.step()
    before = list(record.calls)
    llm.engine.add(EngineRequest("c", (1, 2, 4), SAMPLED))
    llm.engine.fork(EngineFork("d", "a", 1, 1, SAMPLED))
    llm.engine.abort("b")
    llm.engine.abort("a", 0)
    assert record.calls == before
    events = llm.engine.step()[0] + run(llm.engine)
    ended = [event.request_id for event in events if isinstance(event, RequestEnded)]
    assert sorted(ended) == ["a", "b", "c", "d"]
    assert [key for key in tokens(events) if key[0] == "b" or key == ("a", 0)] == []
    reads = [number for name, number in record.calls if name == "read"]
    assert reads == [number for name, number in record.calls if name == "launch"]
    assert_at_rest(llm.engine)


def test_an_id_that_is_used_again_gets_no_token_of_the_request_before(checkpoint_of):
    alone = tokens(events_of(make(checkpoint_of), EngineRequest("a", (9, 9), SAMPLED)))
    llm = make(checkpoint_of)
    llm.engine.add(EngineRequest("a", (1, 2, 3), SAMPLED))
    llm.engine.step()
    llm.engine.step()
    llm.engine.abort("a")
    llm.engine.take_ended()
    assert tokens(events_of(llm, EngineRequest("a", (9, 9), SAMPLED))) == alone


def test_numbers_count_every_token_that_is_told_and_no_other(checkpoint_of):
    llm = make(checkpoint_of)
    events, numbers = [], []
    stops = frozenset(range(0, 320, 9))
    llm.engine.add(EngineRequest("a", (1, 2, 3), replace(SAMPLED, n=4), stops))
    while llm.engine.has_work():
        told, number = llm.engine.step()
        events += told
        numbers += [] if number is None else [number]
    assert {e.finish_reason for e in events if isinstance(e, TokenEvent)} > {FinishReason.STOP}
    num_told = sum(isinstance(event, TokenEvent) for event in events)
    assert sum(number.num_drawn for number in numbers) == num_told
    assert sum(number.num_rows for number in numbers) > 3 + num_told - 4, "and rows of ended ones"
    assert all(0 <= n.hidden_seconds <= n.schedule_seconds for n in numbers)
    assert any(n.hidden_seconds > 0 for n in numbers)


class Broken:
    def __init__(self, error) -> None:
        self.error = error

    def read_sync(self):
        raise self.error


@pytest.mark.parametrize("what", ["read", "launch"])
@pytest.mark.parametrize("number", [0, 1, 5])
def test_a_step_that_fails_on_its_way_ends_its_requests_and_no_other(
    checkpoint_of, monkeypatch, what, number
):
    late = EngineRequest("late", (1, 2, 3, 4, 5, 6, 7, 8, 7), SAMPLED)
    expected = tokens(events_of(make(checkpoint_of), late))
    llm = make(checkpoint_of)
    launch = llm.engine._runner.launch

    def launch_or_fail(step, draws):
        if step.number != number:
            return launch(step, draws)
        if what == "launch":
            raise RuntimeError("out of luck")
        launch(step, draws)
        return Broken(BrokenLogits("not finite"))

    monkeypatch.setattr(llm.engine._runner, "launch", launch_or_fail)
    llm.engine.add(EngineRequest("early", (1, 2, 3, 4, 5, 6), SAMPLED))
    events = []
    while not any(isinstance(event, RequestEnded) for event in events):
        if what == "read" and llm.engine._flying and llm.engine._flying.step.number == number:
            # Its trunk counts as computed, by a step that fails; the next one is launched on it.
            llm.engine.add(late)
        events += llm.engine.step()[0]
        llm.engine.scheduler.check()
    if what == "launch":
        llm.engine.add(late)
    events += run(llm.engine)
    ends = {event.request_id: event for event in events if isinstance(event, RequestEnded)}
    assert ends["early"].reason is FinishReason.ERROR
    assert ends["early"].error
    assert len(tokens(events).get(("early", 0), ())) == number
    assert ends["late"].error is None
    assert {key: drawn for key, drawn in tokens(events).items() if key[0] == "late"} == expected
    assert_at_rest(llm.engine)


def test_logits_that_are_not_numbers_are_found_when_they_are_read(checkpoint_of, monkeypatch):
    llm = make(checkpoint_of)
    model = type(llm.engine._runner._model)
    forward, calls = model.forward, []

    def nan_logits(self, *args):
        logits = forward(self, *args)
        calls.append(None)
        return logits * torch.nan if len(calls) == 4 else logits

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", nan_logits)
        [failed] = llm.generate("a prompt", SAMPLED)
    assert {sample.finish_reason for sample in failed.samples} == {FinishReason.ERROR}
    assert {len(sample.token_ids) for sample in failed.samples} == {3}
    [again] = llm.generate("a prompt", SAMPLED)
    [fresh] = make(checkpoint_of).generate("a prompt", SAMPLED)
    assert again.samples == fresh.samples


def test_an_interrupt_while_waiting_leaves_an_engine_that_can_go_on(checkpoint_of, monkeypatch):
    llm = make(checkpoint_of)
    launch = llm.engine._runner.launch

    def launch_interrupted(step, draws):
        launch(step, draws)
        return Broken(KeyboardInterrupt())

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine._runner, "launch", launch_interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate("a prompt", SAMPLED)
    assert_at_rest(llm.engine)
    assert llm.generate("a prompt", SAMPLED)


def test_closing_a_stream_or_ending_all_leaves_no_step_unread(checkpoint_of, monkeypatch):
    llm = make(checkpoint_of)
    record = Recorder(llm.engine, monkeypatch)
    stream = llm.stream("a prompt", SAMPLED)
    next(stream)
    stream.close()
    assert_at_rest(llm.engine)
    llm.engine.add(EngineRequest("a", (1, 2, 3), SAMPLED))
    llm.engine.step()
    assert llm.engine.has_work()
    llm.engine.abort_all()
    assert [event.request_id for event in llm.engine.take_ended()] == ["a"]
    assert_at_rest(llm.engine)
    names = [name for name, _ in record.calls]
    assert names.count("read") == names.count("launch") > 0


async def test_a_loop_drains_and_stops_with_nothing_on_its_way(checkpoint_of):
    llm = make(checkpoint_of)
    loop = EngineLoop(llm.engine)
    loop.start()
    service = TextService(loop, llm.prompter)
    params = replace(SAMPLED, n=1)
    items = [item async for item in service.generate("x", params)]
    held_after(20, llm.engine)
    stream = service.generate("x", replace(params, max_tokens=300))
    await anext(stream)
    loop.stop()
    assert [item async for item in stream][-2].finish_reason is FinishReason.ABORT
    assert items
    assert_at_rest(llm.engine)


def test_the_option_is_checked_and_off_with_a_cpu_unless_asked_for(checkpoint_of):
    with pytest.raises(ConfigError, match=r"overlap: 'maybe' is not one of auto, on, off"):
        make(checkpoint_of, overlap="maybe")

"""Whatever ends a request, its last event comes once, and no other after it."""

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from held_engine import held_after

from treeserve import LLM, InvalidRequest, SamplingParams
from treeserve.engine import EngineFork, EngineRequest, RequestEnded, TokenEvent
from treeserve.errors import EngineStopped
from treeserve.loop import EngineLoop

PARAMS = SamplingParams(n=2, seed=3, max_tokens=12, ignore_eos=True)


def make(checkpoint_of, **options) -> LLM:
    return LLM(str(checkpoint_of("llama")), page_size=4, dtype="float32", **options)


class Calls:
    """Random calls of one engine, and every event that came of them."""

    def __init__(self, llm: LLM, seed: int) -> None:
        self.engine = llm.engine
        self.random = np.random.default_rng(seed)
        self.sent: list[str] = []
        self.events: list = []

    def params(self) -> SamplingParams:
        return replace(PARAMS, n=int(self.random.integers(1, 4)))

    def deadline(self) -> float | None:
        soon = self.random.choice([-1.0, 0.002, 3600.0])
        return None if self.random.random() < 0.6 else time.monotonic() + soon

    def add(self) -> None:
        name = f"r{len(self.sent)}"
        prompt = tuple(self.random.integers(0, 20, self.random.integers(1, 12)).tolist())
        self.engine.add(EngineRequest(name, prompt, self.params(), deadline=self.deadline()))
        self.sent.append(name)

    def fork(self) -> None:
        if not self.sent:
            return
        name, parent = f"r{len(self.sent)}", self.pick()
        index, num_tokens = int(self.random.integers(0, 3)), int(self.random.integers(0, 6))
        fork = EngineFork(name, parent, index, num_tokens, self.params(), deadline=self.deadline())
        try:
            self.engine.fork(fork)
        except InvalidRequest:
            return
        self.sent.append(name)

    def abort(self) -> None:
        if self.sent:
            index = None if self.random.random() < 0.5 else int(self.random.integers(0, 4))
            self.engine.abort(self.pick(), index)

    def step(self) -> None:
        for _ in range(3):
            self.events += self.engine.step()[0]
            self.engine.scheduler.check()

    def pick(self) -> str:
        return self.sent[self.random.integers(len(self.sent))]


@pytest.mark.parametrize("seed", range(4))
def test_every_request_ends_once_whatever_happens(checkpoint_of, monkeypatch, seed):
    llm = make(checkpoint_of, num_pages=24, reserve=0.0, token_budget=9)
    calls = Calls(llm, seed)
    launch = llm.engine._runner.launch

    def launch_or_fail(step, params):
        if step.number % 17 == 16:
            raise RuntimeError("out of luck")
        return launch(step, params)

    monkeypatch.setattr(llm.engine._runner, "launch", launch_or_fail)
    for _ in range(60):
        [calls.add, calls.fork, calls.abort, calls.step][calls.random.integers(4)]()
    while llm.engine.has_work():
        calls.step()
    ended = Counter(e.request_id for e in calls.events if isinstance(e, RequestEnded))
    assert ended == Counter(calls.sent)
    over: set[str] = set()
    for event in calls.events:
        assert event.request_id not in over, "an event after the last one"
        if isinstance(event, RequestEnded):
            over.add(event.request_id)
    finished = Counter(
        (e.request_id, e.sample_index)
        for e in calls.events
        if isinstance(e, TokenEvent) and e.finish_reason
    )
    assert set(finished.values()) <= {1}
    reasons = {e.reason.value for e in calls.events if isinstance(e, RequestEnded)}
    assert {"abort", "deadline", "error"} <= reasons
    assert llm.engine.step() == ([], None)


def test_an_abort_after_the_deadline_changes_nothing(checkpoint_of):
    llm = make(checkpoint_of, num_pages=100)
    llm.engine.add(EngineRequest("late", (1, 2, 3), PARAMS, deadline=time.monotonic() - 1))
    events, _ = llm.engine.step()
    assert [event.request_id for event in events] == ["late"]
    llm.engine.abort("late")
    llm.engine.abort("late", 0)
    assert not llm.engine.has_work()


@pytest.mark.parametrize("bad", [{"request_id": "in use"}, {"num_public_tokens": 9}])
async def test_a_malformed_request_is_refused_and_nobody_else_is_disturbed(checkpoint_of, bad):
    llm = make(checkpoint_of, num_pages=400)
    loop, held = EngineLoop(llm.engine), held_after(5, llm.engine)
    loop.start()
    good = EngineRequest("in use", (1, 2, 3), replace(PARAMS, max_tokens=300))
    stream = await loop.submit([good])
    beside = EngineRequest("beside", (1, 2), PARAMS)
    with pytest.raises(ValueError, match=r"in use|public tokens"):
        await loop.submit([beside, replace(beside, **{"request_id": "other", **bad})])
    assert loop.healthy
    held.release()
    ended = [e for events in [e async for e in stream] for e in events][-1]
    assert isinstance(ended, RequestEnded)
    assert ended.error is None
    assert await loop.drain(60)
    with pytest.raises(EngineStopped):
        await loop.submit([beside])
    loop.stop()
    llm.engine.scheduler.check()

"""Engines whose steps overlap, and random calls that two engines get alike."""

import time
from dataclasses import replace

import numpy as np

from treeserve import LLM, FinishReason, InvalidRequest, SamplingParams
from treeserve.engine import EngineFork, EngineRequest, RequestEnded, TokenEvent

SAMPLED = SamplingParams(n=2, seed=3, max_tokens=20, ignore_eos=True)


def make(checkpoint_of, **options) -> LLM:
    given = {"page_size": 4, "dtype": "float32", "num_pages": 400, "overlap": "on", **options}
    return LLM(str(checkpoint_of("llama")), **given)


def tokens(events) -> dict[tuple[str, int], list[int]]:
    drawn: dict[tuple[str, int], list[int]] = {}
    for event in events:
        if isinstance(event, TokenEvent):
            drawn.setdefault((event.request_id, event.sample_index), []).append(event.token_id)
    return drawn


def run(engine) -> list:
    events = []
    while engine.has_work():
        events += engine.step()[0]
        engine.scheduler.check()
    return events


def assert_at_rest(engine) -> None:
    """No step is on its way, nobody holds a page but the tree, and it can give up all of them."""
    assert not engine.has_work()
    engine.scheduler.check()
    counts = engine.scheduler.counts()
    assert counts.running_samples == 0
    assert counts.used_pages == counts.cached_pages
    engine.scheduler.clear_cache()
    assert engine.scheduler.counts().used_pages == 0


class Script:
    """Random calls that depend on what was told alone, so that two engines get the same ones."""

    def __init__(self, llm: LLM, seed: int) -> None:
        self.llm, self.engine = llm, llm.engine
        self.random = np.random.default_rng(seed)
        self.events: list = []
        self.names: list[str] = []
        self.aborted: set[str] = set()
        self.forks: set[str] = set()
        self.waiting: list[tuple[int, EngineFork]] = []

    def run(self, num_rounds: int) -> None:
        for _ in range(num_rounds):
            self.add()
            if self.random.random() < 0.5:
                self.fork()
            if self.random.random() < 0.3:
                self.abort()
            for _ in range(self.random.integers(1, 9)):
                self.step()
        while self.engine.has_work():
            self.step()

    def add(self) -> None:
        trunk = [7, 5, 3, 2, 9, 4, 8, 1] * 3
        prompt = (*trunk[: self.random.integers(0, 24)], int(self.random.integers(1, 300)))
        stops = frozenset(self.random.integers(0, 320, 12).tolist())
        soon = time.monotonic() - 1 if self.random.random() < 0.1 else None
        name, params = self.name(), self.params()
        request = EngineRequest(name, prompt, params, stops, deadline=soon)
        self.engine.add(request)

    def fork(self) -> None:
        """As soon as the parent has drawn so many tokens; never, if it ends before."""
        parent = self.names[-1]
        num_tokens = int(self.random.integers(1, 4))
        fork = EngineFork(self.name(), parent, 0, num_tokens, replace(self.params(), max_tokens=6))
        self.forks.add(fork.request_id)
        self.waiting.append((num_tokens, fork))

    def abort(self) -> None:
        name = self.names[self.random.integers(len(self.names))]
        index = None if self.random.random() < 0.5 else 0
        self.aborted.add(name)
        self.engine.abort(name, index)

    def step(self) -> None:
        self.events += self.engine.step()[0]
        self.engine.scheduler.check()
        drawn = tokens(self.events)
        for num_tokens, fork in list(self.waiting):
            if len(drawn.get((fork.parent_request_id, 0), ())) >= num_tokens:
                self.waiting.remove((num_tokens, fork))
                self._send(fork)

    def _send(self, fork: EngineFork) -> None:
        try:
            self.engine.fork(fork)
        except InvalidRequest as error:
            # It ended, and where memory is scarce few are remembered.
            if error.field != "parent":
                raise

    def name(self) -> str:
        self.names.append(f"r{len(self.names)}")
        return self.names[-1]

    def params(self) -> SamplingParams:
        return SamplingParams(
            n=int(self.random.integers(1, 4)),
            seed=int(self.random.integers(1000)),
            max_tokens=int(self.random.choice([1, 2, 9, 25])),
            temperature=float(self.random.choice([0.0, 1.0])),
            logprobs=2 if self.random.random() < 0.2 else None,
            ignore_eos=True,
        )

    def reasons(self) -> dict[tuple[str, int], FinishReason]:
        return {
            (e.request_id, e.sample_index): e.finish_reason
            for e in self.events
            if isinstance(e, TokenEvent) and e.finish_reason
        }

    def usages(self) -> dict[str, object]:
        return {e.request_id: e.usage for e in self.events if isinstance(e, RequestEnded)}


def events_of(llm, request) -> list:
    llm.engine.add(request)
    return run(llm.engine)

"""An engine that replays graphs draws what one without draws, and says when it cannot."""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from attention.replay import ReplayCapture, poison

from treeserve import LLM, SamplingParams
from treeserve.errors import ConfigError
from treeserve.graphs import DecodeGraphs
from treeserve.scheduler.step import unread_token
from treeserve.types import Generation

TRUNK = [5, 6, 7]
PROMPTS = [[*TRUNK, 1], TRUNK]
DRAWS = [
    SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, logprobs=3),
    SamplingParams(seed=1, n=2, max_tokens=4, ignore_eos=True, logprobs=0),
]


@pytest.fixture
def capture(monkeypatch) -> ReplayCapture:
    """What LLMs that are made from here on capture with."""
    poison(monkeypatch)
    made = ReplayCapture(monkeypatch)
    monkeypatch.setattr("treeserve.building._make_capture", lambda *_: made)
    return made


def make_llm(folder, **options) -> LLM:
    return LLM(str(folder), backend="triton", num_pages=64, page_size=4, **options)


def without_graphs(llm: LLM) -> LLM:
    llm.engine._runner._graphs = None
    return llm


def drawn(generations: list[Generation]) -> list[tuple]:
    return [
        (sample.token_ids, sample.logprobs)
        for generation in generations
        for sample in generation.samples
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "sharing"), [("llama", "off"), ("gpt_oss", "always")])
def test_the_same_tokens_with_graphs_and_without(family, sharing, checkpoint_of, capture):
    """Rows leave one after another, so graphs are replayed on fewer rows than they have."""
    folder = checkpoint_of(family)
    plain = drawn(without_graphs(make_llm(folder, sharing=sharing)).generate(PROMPTS, DRAWS))
    assert not capture.num_warmed_up
    llm = make_llm(folder, sharing=sharing)
    replayed = drawn(llm.generate(PROMPTS, DRAWS))
    assert [ids for ids, _ in replayed] == [ids for ids, _ in plain]
    for (_, ours), (_, theirs) in zip(replayed, plain, strict=True):
        for mine, other in zip(ours or (), theirs or (), strict=True):
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-5)
    assert capture.num_warmed_up >= capture.num_captured > 0
    assert capture.num_replayed > capture.num_captured


def test_a_prompt_among_the_rows_runs_eager(checkpoint_of, capture):
    llm = make_llm(checkpoint_of("llama"))
    llm.generate(PROMPTS, SamplingParams(max_tokens=1, temperature=0))
    assert not capture.num_warmed_up


def test_more_rows_than_the_largest_graph_run_eager(checkpoint_of, capture, monkeypatch):
    seen = []
    compute = DecodeGraphs.compute_logits

    def watched(self, step, *args):
        logits = compute(self, step, *args)
        seen.append((step.num_rows, logits is not None))
        return logits

    monkeypatch.setattr(DecodeGraphs, "compute_logits", watched)
    llm = make_llm(checkpoint_of("llama"))
    llm.engine._runner._graphs._max_rows = 2
    llm.generate([[4, 4]], SamplingParams(seed=1, n=3, max_tokens=4, ignore_eos=True))
    assert (3, False) in seen
    assert not capture.num_warmed_up


class Failing:
    """A device on which one of the two ways of running a graph's work fails."""

    def __init__(self, at: str) -> None:
        self._at = at
        self.num_tries = 0

    def warm_up(self, work: Callable[[], None]) -> None:
        self._try("warm_up")
        work()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self._try("capture")
        return work

    def forget(self) -> None:
        pass

    def _try(self, what: str) -> None:
        if what == self._at:
            self.num_tries += 1
            raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.slow
@pytest.mark.parametrize("at", ["warm_up", "capture"])
def test_what_cannot_be_captured_runs_eager_for_good_with_one_warning(
    at, checkpoint_of, monkeypatch, caplog
):
    failing = Failing(at)
    monkeypatch.setattr("treeserve.building._make_capture", lambda *_: failing)
    folder = checkpoint_of("llama")
    llm = make_llm(folder)
    plain = drawn(without_graphs(make_llm(folder)).generate(PROMPTS, DRAWS))
    with caplog.at_level(logging.WARNING, "treeserve.graphs"):
        assert [ids for ids, _ in drawn(llm.generate(PROMPTS, DRAWS))] == [ids for ids, _ in plain]
    assert failing.num_tries == 1
    [record] = [record for record in caplog.records if record.name == "treeserve.graphs"]
    assert "CUDA graphs are off from now on" in record.getMessage()
    assert "not permitted when stream is capturing" in record.getMessage()


def test_memory_that_does_not_suffice_for_the_buffers_turns_graphs_off(
    checkpoint_of, capture, monkeypatch, caplog
):
    def no_room(*_args) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("treeserve.graphs.StaticBatch", no_room)
    llm = make_llm(checkpoint_of("llama"))
    [result] = llm.generate([TRUNK], DRAWS[0])
    assert len(result.samples[0].token_ids) == DRAWS[0].max_tokens
    assert sum("CUDA out of memory" in record.getMessage() for record in caplog.records) == 1
    assert not capture.num_warmed_up


@pytest.mark.slow
def test_an_arena_that_has_grown_drops_the_graphs_that_read_the_old_one(checkpoint_of, capture):
    folder = checkpoint_of("llama")
    plain = drawn(without_graphs(make_llm(folder)).generate(PROMPTS, DRAWS))
    llm = make_llm(folder)
    slots = llm.engine._runner._slots
    slots.entries = slots._allocate(8)
    llm.generate([[4, 4]], DRAWS[0])
    small = slots.entries
    assert capture.num_captured
    slots.entries = slots._allocate(len(small))  # as growth does
    slots._state = None
    assert [ids for ids, _ in drawn(llm.generate(PROMPTS, DRAWS))] == [ids for ids, _ in plain]
    assert capture.num_forgotten == 1


@pytest.mark.slow
def test_tokens_go_from_one_launch_to_the_next_without_being_read(checkpoint_of, capture):
    """Rows name the draws of the step before instead of their tokens; the draws are the same."""
    params = SamplingParams(seed=5, n=2, max_tokens=5, ignore_eos=True)
    folder = checkpoint_of("llama")
    llm = make_llm(folder)
    runner = llm.engine._runner
    launch, num_drawn, seen = runner.launch, [0], []

    def unread(step, draws):
        if not step.num_prompt_rows and step.num_rows == num_drawn[0]:
            named = np.array([unread_token(i) for i in range(step.num_rows)], dtype=np.int32)
            step = replace(step, token_ids=named)
            seen.append(step.num_rows)
        num_drawn[0] = len(step.draws)
        return launch(step, draws)

    runner.launch = unread
    told = drawn(llm.generate([TRUNK], params))
    assert told == drawn(without_graphs(make_llm(folder)).generate([TRUNK], params))
    assert len(seen) == 4
    assert capture.num_replayed


@pytest.mark.parametrize("backend", ["torch", "reference", "triton"])
def test_graphs_that_are_asked_for_need_a_gpu(backend, checkpoint_of):
    with pytest.raises(ConfigError, match=r"^cuda_graphs: on needs device cuda with the triton"):
        LLM(str(checkpoint_of("llama")), backend=backend, cuda_graphs="on", num_pages=8)


def test_auto_and_off_run_anywhere(checkpoint_of):
    for mode in ("auto", "off"):
        llm = LLM(str(checkpoint_of("llama")), cuda_graphs=mode, num_pages=8)
        assert llm.engine._runner._graphs is None


def test_an_unknown_mode_is_named(checkpoint_of):
    with pytest.raises(ConfigError, match=r"^cuda_graphs: 'yes' is not one of auto, on, off"):
        LLM(str(checkpoint_of("llama")), cuda_graphs="yes", num_pages=8)

"""A launch never waits for the device, whatever the model and the draws; a read waits once."""

import numpy as np
import pytest
import torch
from engine.waiting_operations import NoWaiting, WaitingOperation
from tiny_models import FAMILIES

from treeserve import LLM, SamplingParams, sampler
from treeserve.runner import Runner
from treeserve.transfer import Readback

ALL_DRAWS = [
    SamplingParams(temperature=0, max_tokens=2, ignore_eos=True),
    SamplingParams(temperature=0.8, seed=1, max_tokens=2, ignore_eos=True),
    SamplingParams(top_k=5, top_p=0.9, min_p=0.01, seed=2, max_tokens=2, ignore_eos=True),
    SamplingParams(seed=3, max_tokens=2, logprobs=2, ignore_eos=True),
]


def run_watched(llm: LLM, monkeypatch, prompts) -> NoWaiting:
    """Generate, every launch under watch, and exactly one wait for each read."""
    watch, waits = NoWaiting(), []
    # As on a device that is waited for.
    monkeypatch.setattr(sampler, "draws_in_blocks", lambda device: False)
    launch, wait_sync = Runner.launch, Readback.wait_sync

    def watched_launch(*args):
        with watch:
            launched = launch(*args)
        assert not waits, "a launch waited"
        read_sync = launched.read_sync

        def watched_read() -> list:
            with watch:
                tokens = read_sync()
            assert len(waits) == 1
            waits.clear()
            return tokens

        class Watched:
            read_sync = staticmethod(watched_read)

        return Watched() if launched._drawn is not None else launched

    def counted(readback: Readback) -> np.ndarray:
        waits.append(readback)
        return wait_sync(readback)

    monkeypatch.setattr(Runner, "launch", watched_launch)
    monkeypatch.setattr(Readback, "wait_sync", counted)
    results = llm.generate(prompts, ALL_DRAWS[: len(prompts)])
    assert all(sample.token_ids for result in results for sample in result.samples)
    return watch


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_no_launch_waits(family, checkpoint_of, monkeypatch):
    """Prompts in chunks, kept logits and draws of every kind."""
    llm = LLM(
        str(checkpoint_of(family)), backend="triton", num_pages=64, page_size=4, token_budget=5,
    )  # fmt: skip
    trunk = [5, 6, 7]
    watch = run_watched(llm, monkeypatch, [trunk, [*trunk, 1], trunk, [3, 4]])
    assert watch.num_operations > 1000


def test_draws_from_kept_and_computed_logits_in_one_step_do_not_wait(checkpoint_of, monkeypatch):
    llm = LLM(str(checkpoint_of("llama")), backend="triton", num_pages=64)
    prompt = [5, 6, 7]
    llm.generate([prompt], SamplingParams(max_tokens=1, temperature=0))
    run_watched(llm, monkeypatch, [prompt, [9, 9]])


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x[0].item(),
        lambda x: x[x > 0],
        lambda x: bool((x > 0).all()),
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: torch.tensor([1.0, 2.0]) + x,
        lambda x: x.masked_select(x > 0),
        lambda x: x.index_put((x > 0,), torch.zeros(())),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: x.to("meta"),
    ],
)
def test_the_watch_finds_what_waits(operation):
    with pytest.raises(WaitingOperation), NoWaiting():
        operation(torch.ones(2))

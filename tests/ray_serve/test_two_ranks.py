"""A replica whose model is spread over two processes: what it draws, and how it is lost."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
from ray_serve.conftest import OPTIONS, ensure
from ray_serve.test_cluster import params

from treeserve.client import Client, RemoteError, Retries
from treeserve.llm import LLM

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def of_two_ranks(ray_cluster):
    ensure(ray_cluster, {"engine": {**OPTIONS, "tensor_parallel": 2}, "cpus_per_replica": 2})


@pytest.mark.usefixtures("of_two_ranks")
def test_a_replica_of_two_ranks_draws_the_same_tokens(ray_cluster):
    prompts = ["Read n numbers and print their sum.\n", "Read a word and print it twice.\n"]
    greedy = params(temperature=0.0)
    [*expected] = LLM(**OPTIONS).generate(prompts, greedy)
    with Client(ray_cluster.address) as client:
        for prompt, generation in zip(prompts, expected, strict=True):
            [got] = client.generate(prompt, greedy).collect()
            assert got.samples[0].token_ids == generation.samples[0].token_ids


@pytest.mark.usefixtures("of_two_ranks")
def test_a_lost_rank_ends_its_replica_and_another_takes_its_place(ray_cluster):
    [follower] = [pid for pid in descendants(os.getpid()) if b"treeserve.follower" in command(pid)]
    with Client(ray_cluster.address, retries=None) as once:
        stream = once.generate("Read n numbers.", params(max_tokens=1000))
        next(stream)
        os.kill(follower, signal.SIGKILL)
        with pytest.raises(RemoteError, match="the engine failed") as lost:
            list(stream)
        assert lost.value.code == "UNAVAILABLE"
    patient = Retries(max_attempts=120, max_delay_seconds=1.0)
    with Client(ray_cluster.address, retries=patient, timeout_seconds=120) as client:
        [again] = client.generate("Read n numbers.", params()).collect()
    assert len(again.samples[0].token_ids) == 12


def descendants(pid: int) -> list[int]:
    """Processes that this one or those below it started."""
    found = []
    # One that ends meanwhile has none.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def command(pid: int) -> bytes:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""

"""Two processes with half of the heads each draw what one process draws; none outlives another."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from treeserve import LLM, SamplingParams
from treeserve.commands.main import main
from treeserve.errors import ConfigError, ModelError
from treeserve.ranks.torchrun import torchrun_place

ROOT = Path(__file__).parents[2]
PROMPT = list(range(1, 60))
PARAMS = SamplingParams(n=2, seed=1, max_tokens=12, ignore_eos=True, logprobs=0)
GREEDY = SamplingParams(
    temperature=0, max_tokens=12, ignore_eos=True, logprobs=0, prompt_logprobs=1
)
SECONDS = 120

needs_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None,
    reason="needs treeserve[tensor-parallel]",
)


def load(folder: Path, ranks: int, **options) -> LLM:
    return LLM(
        str(folder), dtype="float32", num_pages=256, page_size=4, token_budget=32,
        calibration="off", tensor_parallel=ranks, **options,
    )  # fmt: skip


def drawn(llm: LLM) -> tuple[list[tuple[int, ...]], list[float]]:
    """Token ids of all samples, and how likely they and the prompts' tokens were."""
    results = llm.generate([[*PROMPT, 5, 6], [*PROMPT, 7]], [PARAMS, GREEDY])
    samples = [sample for result in results for sample in result.samples]
    scores = [entry.logprob for sample in samples for entry in sample.logprobs]
    scores += [entry.logprob for entry in results[1].prompt_logprobs if entry is not None]
    return [sample.token_ids for sample in samples], scores


def followers(llm: LLM) -> "list[subprocess.Popen[str]]":
    return llm._built.leader._processes.processes


@needs_accelerate
@pytest.mark.slow
def test_the_same_tokens_as_one_process(checkpoint_of, monkeypatch):
    """With steps that overlap, so that rows need tokens which only rank 0 has drawn."""
    # One that is slow to end is not one that hangs.
    monkeypatch.setattr("treeserve.ranks.processes._END_SECONDS", SECONDS)
    folder = checkpoint_of("gemma2")
    tokens, scores = drawn(load(folder, 1))
    llm = load(folder, 2, overlap="on")
    [process] = followers(llm)
    try:
        [shape] = set(llm._built.kv_cache.layer_shapes)
        assert shape.num_kv_heads == 1
        spread_tokens, spread_scores = drawn(llm)
        assert spread_tokens == tokens
        assert spread_scores == pytest.approx(scores, abs=1e-4)
        with pytest.raises(ConfigError, match="belongs to a process group already"):
            load(folder, 2)
    finally:
        llm.close()
    assert process.returncode == 0


@needs_accelerate
@pytest.mark.slow
@pytest.mark.parametrize("victim", ["first", "other"])
def test_a_server_under_load_loses_a_rank_and_ends(victim, checkpoint_of):
    """Whoever is killed, nobody is left, and callers are told to try elsewhere."""
    from treeserve.client import Client, RemoteError

    command = [sys.executable, "-m", "treeserve", "serve", "--model", str(checkpoint_of("llama"))]
    addresses = ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
    # One sample after another: nobody need be quick to kill before all are drawn.
    options = ["--tensor-parallel", "2", "--num-pages", "256", "--max-running", "1"]
    with subprocess.Popen(
        [*command, *addresses, *options],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            line = process.stdout.readline()
            assert "is ready" in line, line + process.stderr.read()
            address = line.split("grpc ")[1].split(",")[0]
            [follower] = children(process.pid)
            with Client(address) as client:
                params = SamplingParams(n=64, max_tokens=900, ignore_eos=True)
                stream = client.generate("abc", params)
                next(iter(stream))
                os.kill(process.pid if victim == "first" else follower, signal.SIGKILL)
                with pytest.raises(RemoteError) as caught:
                    list(stream)
            assert caught.value.code == "UNAVAILABLE"
            # Standard error ends when the last process that could write to it has ended.
            log = process.stderr.read()
            status = process.wait(SECONDS)
        finally:
            process.kill()
    assert status == (-signal.SIGKILL if victim == "first" else 1)
    assert victim == "first" or "the engine cannot go on, and the server ends" in log


def children(pid: int) -> list[int]:
    """Of a process, those that are followers."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    every = {int(child) for task in tasks for child in read(task / "children").split()}
    return [
        child for child in every if b"treeserve.follower" in read(Path(f"/proc/{child}/cmdline"))
    ]


def read(file: Path) -> bytes:
    """Of /proc; nothing where what it tells of has ended."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@needs_accelerate
@pytest.mark.parametrize(
    ("family", "ranks", "error", "match"),
    [
        ("llama", 3, ConfigError, "tensor_parallel: 3 does not divide the 2 KV heads and 4 heads"),
        ("gpt_neox", 8, ConfigError, "try 1 or 2 or 4"),
        ("stablelm", 2, ModelError, "no tensor-parallel plan"),
        ("llama", 0, ConfigError, "tensor_parallel: must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_spread_is_refused_before_a_process_starts(
    family, ranks, error, match, checkpoint_of
):
    with pytest.raises(error, match=match):
        load(checkpoint_of(family), ranks)


@needs_accelerate
def test_graphs_are_refused_for_more_than_one_rank(checkpoint_of):
    with pytest.raises(ConfigError, match="cuda_graphs: on is not possible"):
        load(checkpoint_of("llama"), 2, cuda_graphs="on")


def test_accelerate_that_is_missing_is_named(checkpoint_of, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'treeserve\[tensor-parallel\]'"):
        load(checkpoint_of("llama"), 2)


def test_fewer_gpus_than_ranks_are_an_error(monkeypatch):
    import torch

    from treeserve.parallel_model import check_ranks

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="tensor_parallel: 2 ranks need as many GPUs"):
        check_ranks(2, torch.device("cuda"))
    with pytest.raises(ConfigError, match="device: cuda:1 names one GPU"):
        check_ranks(2, torch.device("cuda:1"))
    with pytest.raises(ConfigError, match="hide them, with CUDA_VISIBLE_DEVICES="):
        check_ranks(2, torch.device("cpu"))


def test_saved_prefixes_are_refused_for_more_than_one_rank(capsys, tmp_path):
    command = ["serve", "--tensor-parallel", "2", "--prefix-folder", str(tmp_path)]
    assert main(command) == 2
    assert "prefix_folder: not with --tensor-parallel" in capsys.readouterr().err


def test_torchrun_with_another_number_of_processes_is_an_error():
    environment = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "3"}
    assert torchrun_place({}, 2) is None
    assert torchrun_place(environment, 4).rank == 3
    with pytest.raises(ConfigError, match="say --tensor-parallel 4"):
        torchrun_place(environment, 1)


@needs_accelerate
@pytest.mark.slow
def test_under_torchrun_every_process_takes_its_place(checkpoint_of, tmp_path):
    from treeserve.client import Client

    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "treeserve", "serve", "--model", str(checkpoint_of("llama")), "--num-pages", "256",
        "--tensor-parallel", "2", "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            assert "is ready" in line
            with Client(line.split("grpc ")[1].split(",")[0]) as client:
                items = list(client.generate("abc", SamplingParams(max_tokens=3)))
                assert items
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
            process.wait(SECONDS)
        finally:
            process.kill()

"""`treeserve contest sample --server`: the samples of a server are those of this process."""

import subprocess
import sys
from pathlib import Path

import confined
import pytest
from sampling_house import Sampling
from test_sample_command import ROOT, killed_after

from treeserve.commands.server_process import running_server
from treeserve.contest.sampling.portion import Portion, PortionTexts
from treeserve.types import Delta, FinishReason, SamplingParams


@pytest.fixture
def sampling(tmp_path: Path, checkpoint_of) -> Sampling:
    return Sampling(tmp_path, checkpoint_of("llama"))


@pytest.fixture(scope="module")
def server(checkpoint_of):
    """Has a waiting room for one call: others are turned away, and made again later."""
    options = {"model": checkpoint_of("llama"), "dtype": "float32", "num_pages": 400}
    with running_server(options | {"max_waiting_requests": 1}) as running:
        yield running


@pytest.mark.slow
def test_a_server_gives_the_samples_that_an_engine_here_gives(sampling, server, tmp_path, capfd):
    here, some = tmp_path / "here.jsonl", tmp_path / "some.jsonl"
    assert sampling.sample("--examples", "1", output=here) == 0
    undisturbed = sampling.samples(here)
    at_server = ["--examples", "1", "--server", server.grpc_address]
    assert sampling.sample(*at_server) == 0
    assert sampling.samples() == undisturbed
    assert sampling.usage("computed_tokens") < sampling.usage("prompt_tokens")
    enough = ["--samples", "40", "--enough-distinct", "3"]
    assert sampling.sample(*at_server, *enough, output=some) == 0
    assert len(sampling.samples(some)) < 80
    assert {k: r for k, r in sampling.samples(some).items() if k[1] < 20}.items() <= (
        undisturbed.items()
    )
    lines = sampling.output.read_text().splitlines(keepends=True)
    sampling.output.write_text("".join(lines[:40]) + lines[40][:9])
    assert sampling.sample(*at_server, "--at-once", "2") == 0
    assert sampling.samples() == undisturbed
    capfd.readouterr()
    assert sampling.sample(*at_server, "--max-tokens", "4096", output=tmp_path / "x") == 2
    assert "max_tokens: must be between 1 and" in capfd.readouterr().err


@pytest.mark.slow
def test_repairs_at_a_server_are_those_of_an_engine_here(sampling, server, tmp_path, capsys):
    confined.confinement()
    here = tmp_path / "here.jsonl"
    options = ["--problems", "first:2", "--samples", "6", "--rounds", "2"]
    assert sampling.sample(*options, output=here) == 0
    undisturbed = sampling.samples(here)
    assert len(undisturbed) == 2 * 6 * 3
    options += ["--server", server.grpc_address]
    killed_after(sampling, 3, *options)
    killed_after(sampling, 12, *options)
    assert sampling.sample(*options) == 0
    assert "; 12 of them drawn before; " in capsys.readouterr().out
    assert sampling.samples() == undisturbed


@pytest.mark.slow
def test_a_repair_at_a_server_computes_nothing_of_its_parent_again(sampling, server):
    confined.confinement()
    options = ["--problems", "first:1", "--samples", "1", "--rounds", "3"]
    assert sampling.sample(*options, "--server", server.grpc_address) == 0
    samples = list(sampling.samples().values())
    usages = [record for record in sampling.records() if record.get("kind") == "usage"]
    assert len(samples) == len(usages) == 4
    for parent, before, repair, own in zip(samples, usages, samples[1:], usages[1:], strict=False):
        drawn = len(parent["token_ids"])
        # The tokens of this model are bytes.
        told = len(repair["feedback"].encode())
        assert own["prompt_tokens"] == before["prompt_tokens"] + drawn + told
        # Of the parent only its last token was never an input.
        assert own["computed_tokens"] <= told + 1


def test_an_interrupt_does_not_wait_until_a_sample_ends(sampling):
    """Samples of a large model take minutes."""
    command = [sys.executable, "-c", _INTERRUPTED, *sampling.words("--server", "127.0.0.1:1")]
    ended = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=280
    )
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.startswith("stopped: 0 of 80 samples are drawn; the same command goes on")


_INTERRUPTED = """
import asyncio, os, signal, sys
from treeserve.client import AsyncClient
from treeserve.commands.main import main

signal.signal(signal.SIGINT, signal.default_int_handler)
interrupts = [signal.SIGINT]

async def answers_never(self, *args, **options):
    if interrupts:
        os.kill(os.getpid(), interrupts.pop())
    await asyncio.Event().wait()
    yield

AsyncClient.generate = answers_never
sys.exit(main(sys.argv[1:]))
"""


def test_a_server_that_is_not_there_is_one_line(sampling, capsys):
    assert sampling.sample("--server", "127.0.0.1:1") == 1
    assert "treeserve contest sample: UNAVAILABLE: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--tls-ca", "ca.pem"], "--tls-ca: needs --server"),
        (["--at-once", "4"], "--at-once: only with --server"),
        (["--server", "h:1", "--at-once", "0"], "--at-once: must be at least 1, got 0"),
        (["--server", "h:1", "--num-pages", "9"], "--num-pages: not with --server"),
        (["--server", "h:1", "--tls-cert", "a.pem"], "tls.cert: needs tls.key too"),
    ],
)
def test_options_of_a_server_and_of_an_engine_here_do_not_mix(sampling, options, told, capsys):
    assert sampling.sample(*options) == 2
    assert told in capsys.readouterr().err
    assert not sampling.output.exists()


def test_a_call_that_is_made_again_tells_each_token_once():
    """A server may end a stream that it has begun, when its reader falls behind."""
    samples = PortionTexts(Portion("p", "", SamplingParams(n=2), 0))
    ended = FinishReason.LENGTH
    assert len(samples.see(Delta((), 0, "ab", (1, 2), finish_reason=ended))) == 1
    assert samples.see(Delta((), 1, "c", (3,))) == []
    samples.begin_again()
    assert samples.see(Delta((), 0, "ab", (1, 2), finish_reason=ended)) == []
    assert samples.see(Delta((), 1, "c", (3,))) == []
    (drawn,) = samples.see(Delta((), 1, "d", (4,), finish_reason=ended))
    assert (drawn.text, drawn.token_ids) == ("cd", (3, 4))

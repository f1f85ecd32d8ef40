"""`treeserve contest sample --server`: the samples of a server are those of this process."""

from pathlib import Path

import pytest
from sampling_house import Sampling

from treeserve.commands.server_process import running_server


@pytest.fixture
def sampling(tmp_path: Path, checkpoint_of) -> Sampling:
    return Sampling(tmp_path, checkpoint_of("llama"))


@pytest.mark.slow
def test_a_server_gives_the_samples_that_an_engine_here_gives(sampling, tmp_path, capfd):
    here, some = tmp_path / "here.jsonl", tmp_path / "some.jsonl"
    assert sampling.sample("--examples", "1", output=here) == 0
    undisturbed = sampling.samples(here)
    options = {"model": sampling.model, "dtype": "float32", "num_pages": 400}
    # A waiting room for one call: others are turned away, and made again when one has ended.
    with running_server(options | {"max_waiting_requests": 1}) as server:
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
    assert sampling.sample(*at_server, "--samples", "40") == 1
    assert "treeserve contest sample: UNAVAILABLE: " in capfd.readouterr().err

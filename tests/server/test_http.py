"""Probes and metrics over a real socket."""

import asyncio
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from treeserve.metrics.declarations import NO_TENANT as NOBODY
from treeserve.types import SamplingParams


async def get(server, path: str) -> tuple[int, str]:
    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{server.http_address}{path}", timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)


async def samples(server) -> dict[tuple[str, ...], float]:
    """Values by name and labels, the labels in the order of their names."""
    status, text = await get(server, "/metrics")
    assert status == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_readiness_follows_the_server(loading_server, text_service):
    assert await get(loading_server, "/readyz") == (503, "loading\n")
    await loading_server.set_ready(text_service)
    assert await get(loading_server, "/readyz") == (200, "ready\n")
    await loading_server.drain()
    assert await get(loading_server, "/readyz") == (503, "draining\n")


async def test_liveness_is_the_engines(loading_server, text_service):
    assert await get(loading_server, "/healthz") == (200, "ok\n")
    await loading_server.set_ready(text_service, lambda: False)
    assert await get(loading_server, "/healthz") == (503, "the engine has failed\n")
    assert await get(loading_server, "/readyz") == (503, "failed\n")


@pytest.mark.parametrize("path", ["/page", "/metric"])
async def test_other_paths_are_not_there(server, path):
    assert (await get(server, path))[0] == 404


async def test_calls_prompts_and_samples_are_counted(server, client):
    async for _ in client.generate("p", SamplingParams(n=3)):
        pass
    with pytest.raises(ValueError, match="must be right"):
        async for _ in client.generate("invalid n"):
            pass
    seen = await samples(server)
    assert seen["treeserve_calls_total", "OK", "Generate", NOBODY] == 1
    assert seen["treeserve_calls_total", "INVALID_ARGUMENT", "Generate", NOBODY] == 1
    assert seen["treeserve_prompt_tokens_total", "cached", NOBODY] == 3
    assert seen["treeserve_prompt_tokens_total", "shared", NOBODY] == 2
    assert seen["treeserve_prompt_tokens_total", "computed", NOBODY] == 1
    assert seen["treeserve_samples_finished_total", "stop", NOBODY] == 3
    assert seen["treeserve_time_to_first_token_seconds_count", NOBODY] == 1
    assert seen["treeserve_time_per_output_token_seconds_count",] == 3
    assert seen["treeserve_request_duration_seconds_count", NOBODY] == 1

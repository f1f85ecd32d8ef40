"""Both administration clients, against a real server with a tiny model."""

import asyncio
import logging
from dataclasses import replace

import pytest
from calibration.records import make_calibration
from client.conftest import secret_of

from treeserve import ConfigError, InvalidRequest, SamplingParams
from treeserve.calibration import choice
from treeserve.client import AdminClient, AsyncAdminClient, RemoteError

SHORT = SamplingParams(max_tokens=4, seed=3, ignore_eos=True)


@pytest.fixture
def administer(house):
    """Does the same with the blocking client, in a thread, and with the one for asyncio."""
    address, key = str(house.server.side.admin_address), secret_of(house.own_key)

    async def both(call, api_key: str = key) -> list:
        def run():
            with AdminClient(address, api_key=api_key) as client:
                return call(client)

        first = await asyncio.to_thread(run)
        async with AsyncAdminClient(address, api_key=api_key) as client:
            return [first, await call(client)]

    return both


async def test_the_status_says_what_runs(administer, client):
    await client.generate("abc", SHORT).collect()
    for status in await administer(lambda admin: admin.status()):
        assert status.phase == "ready"
        assert {"treeserve", "torch"} <= status.versions.keys()
        assert status.options["num_pages"] == "256"
        assert status.counts["total_pages"] == 256
        assert status.counts["cached_pages"] > 0


async def test_clearing_the_cache_says_how_much_has_gone(administer, client):
    await client.generate("abc", SHORT).collect()
    first, second = await administer(lambda admin: admin.clear_cache())
    assert (first > 0, second) == (True, 0)


async def test_the_log_level_is_set_and_the_one_before_is_told(administer, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    assert await administer(lambda admin: admin.set_log_level("debug")) == ["warning", "debug"]
    assert logging.getLogger().level == logging.DEBUG
    with pytest.raises(InvalidRequest, match=r"level: must be one of debug, info, .* got 'loud'"):
        await administer(lambda admin: admin.set_log_level("loud"))


async def test_seconds_out_of_range_are_refused_by_name(administer):
    with pytest.raises(InvalidRequest, match=r"seconds: must be between 1 and 60"):
        await administer(lambda admin: admin.calibrate(0.5))


async def test_a_calibration_says_what_it_measured(administer, tmp_path, monkeypatch):
    """What measuring comes to is up to the test; all else is real."""

    def measure(subject, device, *, seconds, report):
        return replace(make_calibration(token_cost=seconds, state_cost=7.0), subject=subject)

    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))
    monkeypatch.setattr(choice, "calibrate", measure)
    for costs in await administer(lambda admin: admin.calibrate(3)):
        assert (costs.token_seconds, costs.state_seconds) == (3.0, 7.0)
        assert (costs.is_stored, costs.stored_reason) == (True, "")
    for costs in await administer(lambda admin: admin.calibrate()):
        assert costs.token_seconds == 8.0


async def test_a_drain_says_how_it_ended(administer, client):
    for drained in await administer(lambda admin: admin.drain()):
        assert (drained.all_ended, drained.num_running_calls) == (True, 0)
    for status in await administer(lambda admin: admin.status()):
        assert status.phase == "draining"


async def test_a_key_that_may_not_administer_is_told_so(administer, house):
    key = secret_of(house.new_key(permissions="generate,inspect,retain,publish"))
    for call in (lambda a: a.status(), lambda a: a.drain(), lambda a: a.clear_cache()):
        with pytest.raises(RemoteError) as caught:
            await administer(call, key)
        assert caught.value.code == "PERMISSION_DENIED"


def test_a_key_is_not_sent_across_the_network_in_the_clear():
    for kind in (AdminClient, AsyncAdminClient):
        with pytest.raises(ConfigError, match=r"^api_key: would cross the network"):
            kind("192.0.2.1:1", api_key="ts_00000000_" + "0" * 64)


def test_clients_do_not_show_their_keys(house):
    with AdminClient("127.0.0.1:1", api_key="ts_00000000_" + "0" * 64) as client:
        assert repr(client) == "AdminClient('127.0.0.1:1')"

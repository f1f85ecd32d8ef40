"""Running the server over its admin address: drain, clear, log level, calibration, status."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import torch
from calibration.records import make_calibration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server.side_house import ANY, PAGE, House, error_of, running_house

from treeserve.administration import Administration
from treeserve.building import build_engine
from treeserve.calibration import choice
from treeserve.config import EngineOptions
from treeserve.errors import CalibrationError, ConfigError, NotPossible
from treeserve.loop import EngineLoop
from treeserve.metrics import Metrics
from treeserve.pb import admin_pb2 as pb
from treeserve.pb import admin_pb2_grpc, generation_pb2
from treeserve.server.app import Server
from treeserve.server.config import AccessConfig, Address, BindError, ServerConfig

CODE = grpc.StatusCode
METHODS = ("Drain", "ClearCache", "SetLogLevel", "Calibrate", "GetStatus")


@pytest.fixture
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(model=str(checkpoint_of("llama")), num_pages=64, page_size=PAGE)


@pytest.fixture
async def house(options):
    async with running_house(options) as running:
        yield running


@pytest.fixture
def root_level():
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


def endless(house: House, n: int = 1):
    """Work that has no end while the engine stands; of many samples, few fit in the pool."""
    stopping = generation_pb2.Stopping(max_tokens=900, ignore_eos=True)
    params = generation_pb2.Parameters(stopping=stopping)
    request = generation_pb2.GenerateRequest(text="go on", n=n, params=params)
    return house.generation.Generate(request)


async def test_a_server_that_was_not_asked_has_no_admin_service(options):
    server = Server(ServerConfig(grpc_address=ANY, http_address=ANY), Metrics())
    await server.start()
    try:
        assert server.side.admin_address is None
        async with grpc.aio.insecure_channel(str(server.grpc_address)) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            error = await error_of(stub.GetStatus(pb.GetStatusRequest()))
            assert error.code() is CODE.UNIMPLEMENTED
    finally:
        await server.stop()


async def test_the_admin_service_is_on_its_own_address_only(house):
    stub = admin_pb2_grpc.AdminServiceStub(house.channel)
    assert (await error_of(stub.GetStatus(pb.GetStatusRequest()))).code() is CODE.UNIMPLEMENTED
    assert (await house.admin.GetStatus(pb.GetStatusRequest())).phase == "ready"


async def test_an_admin_address_in_use_is_named(house):
    config = ServerConfig(
        grpc_address=ANY, http_address=ANY, admin_address=house.server.side.admin_address
    )
    second = Server(config, Metrics())
    with pytest.raises(BindError, match=r"admin_address: cannot listen on .*in use"):
        await second.start()
    await second.stop()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_where_nobody_asks_who_calls_other_machines_cannot_reach_it(host):
    given = {"grpc_address": ANY, "http_address": ANY, "admin_address": Address(host, 7)}
    with pytest.raises(ConfigError, match="admin_address: other machines may reach"):
        ServerConfig(**given)
    asked = ServerConfig(**given, access=AccessConfig(api_keys=Path("keys.jsonl")))
    assert asked.shows_keys_in_the_clear
    assert not ServerConfig(**given, access=AccessConfig(insecure=True)).asks_who_calls


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_this_machine_alone_may_always_reach_it(host):
    ServerConfig(grpc_address=ANY, http_address=ANY, admin_address=Address(host, 7))


async def test_the_status_of_a_server_that_loads_is_that_it_loads():
    server = Server(ServerConfig(grpc_address=ANY, http_address=ANY, admin_address=ANY), Metrics())
    await server.start()
    try:
        async with grpc.aio.insecure_channel(str(server.side.admin_address)) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            assert (await stub.GetStatus(pb.GetStatusRequest())).phase == "loading"
            for call in (stub.Drain(pb.DrainRequest()), stub.ClearCache(pb.ClearCacheRequest())):
                error = await error_of(call)
                assert error.code() is CODE.FAILED_PRECONDITION
                assert "loaded" in error.details()
    finally:
        await server.stop()


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_needs_the_permission(house, method):
    call = house.admin_channel.unary_unary(f"/treeserve.v1.AdminService/{method}")
    metadata = house.new_key(permissions="generate,inspect,retain,publish")
    error = await error_of(call(b"", metadata=metadata))
    assert error.details() == "the permission 'admin' is needed, and the key lacks it"
    assert (await house.admin.GetStatus(pb.GetStatusRequest())).phase == "ready"


async def test_a_drain_refuses_new_calls_and_waits_for_those_that_run(house):
    async with house.held.standing():
        running = endless(house)
        await running.read()
        health = health_pb2_grpc.HealthStub(house.channel)
        watching = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        draining = asyncio.ensure_future(house.admin.Drain(pb.DrainRequest()))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await house.admin.GetStatus(pb.GetStatusRequest())).phase == "draining"
        error = await error_of(endless(house))
        assert error.code() is CODE.UNAVAILABLE
        assert not draining.done()
        running.cancel()
        answer = await draining
    assert (answer.all_ended, answer.running_calls) == (True, 0)
    again = await house.admin.Drain(pb.DrainRequest())
    assert again.all_ended
    await house.check()


async def test_clearing_evicts_what_nobody_needs_and_says_how_much(house):
    await house.generate("x" * 100, max_tokens=1)
    assert (await house.admin.ClearCache(pb.ClearCacheRequest())).evicted_tokens == 100
    assert (await house.admin.ClearCache(pb.ClearCacheRequest())).evicted_tokens == 0
    async with house.held.standing():
        running = endless(house)
        await running.read()
        assert (await house.admin.ClearCache(pb.ClearCacheRequest())).evicted_tokens == 0
        running.cancel()
    await house.check()


async def test_the_log_says_more_or_less_at_once(house, root_level):
    logging.getLogger().setLevel(logging.WARNING)
    request = pb.SetLogLevelRequest(level=pb.LOG_LEVEL_DEBUG)
    assert (await house.admin.SetLogLevel(request)).previous == pb.LOG_LEVEL_WARNING
    assert logging.getLogger("treeserve").isEnabledFor(logging.DEBUG)
    request = pb.SetLogLevelRequest(level=pb.LOG_LEVEL_ERROR)
    assert (await house.admin.SetLogLevel(request)).previous == pb.LOG_LEVEL_DEBUG
    assert not logging.getLogger("treeserve").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize("level", [0, 5, 99])
async def test_a_level_that_is_none_is_named(house, root_level, level):
    error = await error_of(house.admin.SetLogLevel(pb.SetLogLevelRequest(level=level)))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert error.details().startswith("level: must be LOG_LEVEL_DEBUG")


async def test_the_status_counts_and_tells_versions_and_options(house):
    await house.generate("x" * 100, max_tokens=1)
    await house.calls_have_ended(60)
    status = await house.admin.GetStatus(pb.GetStatusRequest())
    assert {"treeserve", "python", "torch", "transformers"} == set(status.versions)
    assert status.options["page_size"] == str(PAGE)
    assert status.options["backend"] == "torch"
    assert status.options["num_pages"] == "64"
    assert status.counts["cached_pages"] == 7
    assert status.counts["total_pages"] == 64
    assert status.counts["running_samples"] == status.counts["running_calls"] == 0
    async with house.held.standing(lambda numbers: numbers.num_drawn > 0) as stands:
        running = endless(house, n=32)
        await stands()
        status = await house.admin.GetStatus(pb.GetStatusRequest())
        assert status.counts["running_calls"] == 1
        assert 1 <= status.counts["running_samples"] < 32
        running.cancel()
    await house.check()


async def test_a_calibration_beside_requests_says_why_not(house):
    async with house.held.standing():
        running = endless(house)
        await running.read()
        error = await error_of(house.admin.Calibrate(pb.CalibrateRequest(seconds=1)))
        assert error.code() is CODE.FAILED_PRECONDITION
        assert "there are requests" in error.details()
        running.cancel()
    await house.check()


def measure_as(monkeypatch, outcome):
    """What measuring comes to is up to the test; all else is real."""

    def measure(subject, device, *, seconds, report):
        if isinstance(outcome, Exception):
            raise outcome
        return replace(outcome, subject=subject)

    monkeypatch.setattr(choice, "calibrate", measure)


async def test_a_calibration_is_planned_by_at_once_and_stored(house, monkeypatch, tmp_path):
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))
    made_up = make_calibration(token_cost=100.0, state_cost=7.0)
    measure_as(monkeypatch, made_up)
    before = await predicted_cost(house)
    answer = await house.admin.Calibrate(pb.CalibrateRequest())
    assert (answer.token_seconds, answer.state_seconds) == (100.0, 7.0)
    assert (answer.is_stored, answer.stored_reason) == (True, "")
    [file] = (tmp_path / "calibration").iterdir()
    assert file.suffix == ".json"
    assert await predicted_cost(house) > 10 * before
    await house.check()


async def predicted_cost(house: House) -> float:
    """Of the plan of a step that reads a hundred tokens or so."""
    await house.generate("x" * 100, max_tokens=3)
    snapshot = await house.loop.look(lambda engine: engine.scheduler.plan_snapshot())
    return snapshot.counts.predicted_cost


async def test_a_calibration_that_cannot_be_stored_says_why(house, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path / "file"))
    measure_as(monkeypatch, make_calibration())
    answer = await house.admin.Calibrate(pb.CalibrateRequest())
    assert not answer.is_stored
    assert "cannot write" in answer.stored_reason


UNTRUSTED = replace(make_calibration(), quality=replace(make_calibration().quality, p90_error=9.0))


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (UNTRUSTED, "misses by 900%"),
        (CalibrationError("calibration: too slow"), "too slow"),
        (torch.OutOfMemoryError("none left"), "too little memory left"),
    ],
)
async def test_a_calibration_that_fails_changes_nothing(house, monkeypatch, outcome, text):
    before = await predicted_cost(house)
    measure_as(monkeypatch, outcome)
    error = await error_of(house.admin.Calibrate(pb.CalibrateRequest()))
    assert error.code() is CODE.FAILED_PRECONDITION
    assert text in error.details()
    assert await predicted_cost(house) == before
    await house.check()


async def test_an_engine_that_is_to_plan_by_built_in_costs_is_left_alone(options):
    built = build_engine(options)
    loop = EngineLoop(built.engine)
    loop.start()
    given = {"calibration": "off"}
    try:
        administered = Administration(loop, built.model, built.backend, given, "1")
        with pytest.raises(NotPossible, match="--calibration off"):
            await administered.calibrate(1)
    finally:
        loop.stop()


@pytest.mark.parametrize("seconds", [0.0, 0.5, 61.0, -1.0, float("nan"), float("inf")])
async def test_a_time_to_measure_out_of_range_is_named(house, seconds):
    error = await error_of(house.admin.Calibrate(pb.CalibrateRequest(seconds=seconds)))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert error.details().startswith("seconds: must be between 1 and 60")

"""What needs no cluster: options, what crosses between ingress and replica, and Ray missing."""

import importlib
import pickle
import sys

import numpy as np
import pytest
import yaml
from ray_serve.conftest import ROOT

from treeserve.cluster.router import RoutedRequest
from treeserve.errors import (
    BeyondDrawn,
    ConfigError,
    EngineStopped,
    InvalidRequest,
    NotFound,
    TreeserveError,
)
from treeserve.ray.calls import Generate, Served, StreamCall, Times
from treeserve.ray.config import app_config
from treeserve.ray.failures import read_failure, write_failure
from treeserve.ray.installed import require_ray
from treeserve.ray.stats import read_stats, stats_for
from treeserve.types import RequestOptions, SamplingParams


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"replicas": 2}, "replicas: is not known; did you mean num_replicas?"),
        ({"engine": {"modle": "x"}}, "engine.modle: is not known; did you mean model?"),
        ({"engine": {"limits": {"max_m": 1}}}, "limits.max_m: is not known; did you mean max_n?"),
        ({"router": {"load_wait": 1}}, "router.load_wait: is not known; did you mean load_weight?"),
        ({"router": {"load_weight": -1}}, "load_weight: must be at least 0, got -1"),
        ({"ingress": {"keys": "x"}}, "ingress.keys: is not known; did you mean api_keys?"),
        ({"ingress": [1]}, r"ingress: must be a mapping, got \[1\]"),
        ({"num_replicas": 0}, "num_replicas: must be a whole number of at least 1, got 0"),
        ({"num_ingresses": "2"}, "num_ingresses: must be a whole number of at least 1, got '2'"),
        ({"gpus_per_replica": -1}, "gpus_per_replica: must be a number of at least 0, got -1"),
        ({"stats_seconds": 0}, "stats_seconds: must be above 0, got 0"),
        ({"ingress": {"tls_cert": "c.pem"}}, "ingress.tls_cert: Ray's gRPC proxy speaks no TLS"),
        ({"ingress": {"admin_address": "x"}}, "ingress.admin_address: it is the address of all"),
        ({"ingress": {"admin": True}}, "ingress.admin: needs ingress.api_keys"),
        ({"ingress": {"max_calls": 0}}, "ingress.max_calls: must be a whole number of at least 1"),
        ({"replica": {"prefix_file": 1}}, "prefix_file: is not known; did you mean prefix_folder?"),
        ({"replica": {"max_waiting_tokens": 0}}, "replica.max_waiting_tokens: must be a whole"),
        ({"tensor_parallel": 2}, "is an option of the engine: engine.tensor_parallel"),
        ({"engine": {"tensor_parallel": "2"}}, "engine.tensor_parallel: must be a whole number"),
        (
            {"engine": {"tensor_parallel": 4}, "gpus_per_replica": 2},
            "gpus_per_replica: must be 4, one for each rank of engine.tensor_parallel, got 2",
        ),
        (
            {"engine": {"tensor_parallel": 2}, "replica": {"prefix_folder": "x"}},
            "replica.prefix_folder: not with engine.tensor_parallel",
        ),
    ],
)
def test_a_serve_config_with_what_makes_no_sense_is_refused_by_name(args, message):
    with pytest.raises(ConfigError, match=message):
        app_config(args)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("prompt", "must not be empty"), InvalidRequest),
        (BeyondDrawn("parent.num_tokens", "must be less"), BeyondDrawn),
        (NotFound("no request"), NotFound),
        (EngineStopped("it stopped"), EngineStopped),
    ],
)
def test_an_error_of_a_replica_is_the_same_at_the_ingress(error, kind):
    again = read_failure(pickle.loads(pickle.dumps(write_failure(error))))
    assert (type(again), str(again)) == (kind, str(error))
    assert getattr(again, "field", None) == getattr(error, "field", None)


def test_an_error_that_callers_must_not_see_is_not_passed_on():
    with pytest.raises(TreeserveError, match="a secret"):
        write_failure(TreeserveError("a secret"))


def message(**changes) -> dict:
    fine = {
        "epoch": "a",
        "number": 3,
        "num_cached_tokens": 100,
        "capacity_tokens": 200,
        "work_by_router": {"own": 7.0, "other": 30.0},
    }
    return fine | changes


def test_a_replica_counts_for_a_router_what_others_sent_and_not_what_it_sent_itself():
    stats = read_stats(message())
    assert stats_for(stats, "own").work_of_others == 30.0
    assert stats_for(stats, "third").work_of_others == 37.0


@pytest.mark.parametrize(
    "odd",
    [{}, {"epoch": "a"}, message(more=1), message(number="3"), message(capacity_tokens=-1),
     message(work_by_router=[1]), message(epoch=None)],
)  # fmt: skip
def test_stats_that_are_late_or_odd_are_not_used(odd):
    assert read_stats(odd) is None


def served(**changes) -> Served:
    fields = {
        "version": "1", "name": "m", "model": "aa", "tokenizer": "bb", "vocabulary_size": 9,
        "max_positions": 99, "end_token_ids": frozenset({0}),
    }  # fmt: skip
    return Served(**(fields | changes))


def test_replicas_that_differ_say_in_what():
    assert served().differences(served()) == []
    told = served().differences(served(version="2", model="cc"))
    assert told == ["version is '1', not '2'", "model is 'aa', not 'cc'"]


def test_a_call_crosses_and_shows_routers_of_text_a_character_for_each_token():
    call = StreamCall(
        asked=Generate(token_ids=(0, 5, 150_000), params=SamplingParams(), output=None),
        options=RequestOptions(namespace="a"),
        times=Times(seconds_since=0.5, seconds_left=3.0),
        served=served(),
        routed=RoutedRequest("", "a", np.array([0, 5, 150_000], dtype=np.int32)),
    )
    again = pickle.loads(pickle.dumps(call))
    assert again.routed.tokens.tolist() == [0, 5, 150_000]
    assert len(set(again.prompt)) == 3
    assert again.prompt.encode()


def test_times_mean_the_same_on_a_machine_with_another_clock(monkeypatch):
    monkeypatch.setattr("treeserve.ray.calls.time.monotonic", lambda: 100.0)
    times = Times.of(RequestOptions(arrived_at=99.0, deadline=107.0))
    monkeypatch.setattr("treeserve.ray.calls.time.monotonic", lambda: 5000.0)
    there = times.on_this_machine(RequestOptions())
    assert (there.arrived_at, there.deadline) == (4999.0, 5007.0)
    assert Times.of(RequestOptions()).on_this_machine(RequestOptions()).deadline is None


def test_the_serve_config_that_ships_builds_two_engines_behind_the_services():
    config = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text())
    [application] = config["applications"]
    assert app_config(application["args"]).num_replicas == 2
    assert application["import_path"] == "treeserve.ray.app:build_app"
    for path in config["grpc_options"]["grpc_servicer_functions"]:
        module, _, name = path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


def test_ray_itself_takes_the_serve_config_that_ships():
    schema = pytest.importorskip("ray.serve.schema", reason="needs treeserve[ray]")
    config = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text())
    assert schema.ServeDeploySchema(**config).grpc_options.port == 50051


def test_without_ray_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(ConfigError, match=r"pip install 'treeserve\[ray\]'"):
        require_ray()

"""The router before simulated engines: what sharing a cluster costs, and that nothing is lost."""

import math

import pytest

from treeserve.cluster.config import RouterConfig
from treeserve.cluster.router import Router
from treeserve.config import SchedulerConfig
from treeserve.simulation.cluster import TwoChoices, replica_ids, simulate_cluster
from treeserve.simulation.cluster_workloads import CLUSTER_WORKLOADS
from treeserve.simulation.device import preset

CONFIG = SchedulerConfig(num_pages=20_000, token_budget=2048)


def simulated(name: str, seconds: float, routing=None, num_replicas: int = 4, engines="lean"):
    trace = CLUSTER_WORKLOADS[name](num_replicas, seconds)
    device = preset("h100-8b")
    return simulate_cluster(trace, num_replicas, device, CONFIG, routing, engines=engines)


@pytest.fixture(scope="module")
def routed():
    return simulated("prompts", 4)


def test_every_request_ends_and_draws_all_its_tokens(routed):
    trace = CLUSTER_WORKLOADS["prompts"](4, 4)
    assert routed.num_requests == len(trace)
    assert routed.output_tokens == sum(sum(request.output_lengths) for request in trace)


@pytest.mark.parametrize("engines", ["scheduler", "lean"])
def test_one_replica_that_holds_everything_computes_the_least_and_no_more(engines):
    alone = simulated("prompts", 2, num_replicas=1, engines=engines)
    assert alone.computed_tokens == alone.least_tokens
    assert (alone.load.imbalance, alone.later_load.imbalance) == (1.0, 1.0)


def test_the_router_computes_far_less_than_two_choices_do(routed):
    blind = simulated("prompts", 4, TwoChoices(replica_ids(4)))
    assert blind.least_tokens == pytest.approx(routed.least_tokens, rel=0.01)
    assert blind.excess > 5 * routed.excess
    assert routed.excess < 0.2


def test_equal_traces_give_equal_results(routed):
    again = simulated("prompts", 4)
    assert again.computed_tokens == routed.computed_tokens
    assert again.reasons == routed.reasons
    assert again.time_to_first_token == routed.time_to_first_token
    assert again.load == routed.load


def test_a_router_that_never_computes_again_is_less_balanced():
    """What copies buy."""
    router = Router(RouterConfig(eager_weight=0, load_weight=0, copy_work=math.inf))
    router.update_replicas(replica_ids(4))
    bound = simulated("contest", 4, router)
    free = simulated("contest", 4)
    assert bound.excess < free.excess
    assert bound.load.imbalance > free.load.imbalance

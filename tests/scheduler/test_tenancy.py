"""Tenants beside each other: nothing is shared but on purpose, and nobody feels the other's end."""

import numpy as np
import pytest
from kv_on_paper import complete, drawn, make_device, request, run_alone, run_until_idle

from treeserve.config import SchedulerConfig
from treeserve.scheduler.scheduler import Scheduler

PROMPT = np.random.default_rng(2).integers(0, 4, 60).tolist()


def make(**options):
    config = SchedulerConfig(**{"num_pages": 400, "token_budget": 16, "page_size": 4, **options})
    return Scheduler(config), make_device(config)


def send(scheduler, tenants, num_public=0, **options):
    requests = [
        request(t, PROMPT, namespace=t, tenant=t, num_public_tokens=num_public, **options)
        for t in tenants
    ]
    for each in requests:
        scheduler.add(each)
    return requests


@pytest.mark.parametrize("num_public", [0, 1, 3, 4, 59, 60])
def test_just_the_public_tokens_are_computed_once_for_all(num_public):
    scheduler, device = make()
    requests = send(scheduler, "xyz", num_public, n=2, max_tokens=6)
    usage, updates = {}, []
    while (step := scheduler.schedule()) is not None:
        news = complete(scheduler, step, device.run(step))
        usage.update({update.request_id: scheduler.usage(update.request_id) for update in news})
        updates += news
        scheduler.check()
    assert device.num_prompt_rows == num_public + 3 * (60 - num_public)
    for each in requests:
        used = usage[each.request_id]
        assert used.cached_tokens + used.shared_tokens <= num_public
        for index in range(2):
            assert drawn(updates)[each.request_id, index] == run_alone(each, index, 4)


@pytest.mark.parametrize("num_public", [0, 20, 60])
@pytest.mark.parametrize("num_steps", [1, 2, 5, 12])
def test_an_abort_of_one_tenant_does_not_disturb_another(num_public, num_steps):
    scheduler, device = make()
    requests = send(scheduler, "xy", num_public, max_tokens=20)
    updates = []
    for _ in range(num_steps):
        step = scheduler.schedule()
        updates += complete(scheduler, step, device.run(step))
    scheduler.abort("x")
    scheduler.check()
    updates += run_until_idle(scheduler, device)[1]
    assert drawn(updates)["y", 0] == run_alone(requests[1], 0, 4)
    assert device.num_prompt_rows <= 2 * 60 - num_public


def test_what_one_tenant_drew_after_a_public_prompt_stays_its_own():
    scheduler, device = make()
    first = request("x", PROMPT, namespace="x", num_public_tokens=60, max_tokens=9)
    scheduler.add(first)
    run_until_idle(scheduler, device)
    tokens = run_alone(first, 0, 4)
    for tenant, num_cached in (("y", 60), ("x", 68)):
        prompt = [*PROMPT, *tokens]
        scheduler.add(
            request(f"next {tenant}", prompt, namespace=tenant, num_public_tokens=60, max_tokens=1)
        )
        step = scheduler.schedule()
        scheduler.complete(step, device.run(step))
        assert scheduler.usage(f"next {tenant}").cached_tokens == num_cached


def test_a_longer_public_zone_of_one_tenant_shows_nothing_of_a_shorter_one_of_another():
    scheduler, device = make(token_budget=200)
    for tenant, num_public in (("x", 20), ("y", 40), ("z", 40)):
        scheduler.add(
            request(tenant, PROMPT, namespace=tenant, num_public_tokens=num_public, max_tokens=1)
        )
    run_until_idle(scheduler, device)
    assert device.num_prompt_rows == 60 + 40 + 20


def test_under_load_tenants_draw_in_proportion_to_their_weights():
    scheduler, device = make(
        max_running=6, token_budget=12, tenant_weights={"light": 1.0, "heavy": 3.0}
    )
    random = np.random.default_rng(1)
    for i in range(400):
        for tenant in ("light", "heavy"):
            prompt = random.integers(0, 4, 8).tolist()
            scheduler.add(
                request(f"{tenant} {i}", prompt, namespace=tenant, tenant=tenant, max_tokens=6)
            )
    tokens = {"light": 0, "heavy": 0}
    for _ in range(300):
        step = scheduler.schedule()
        for update in complete(scheduler, step, device.run(step)):
            tokens[update.request_id.split()[0]] += 1
    assert tokens["heavy"] / tokens["light"] == pytest.approx(3, rel=0.15)

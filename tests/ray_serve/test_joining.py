"""What several engines say, made into one answer; without Ray."""

from prometheus_client.parser import text_string_to_metric_families

from treeserve.inspection import PlanView, TreeNode, TreeView
from treeserve.metrics import Metrics, RequestTimings
from treeserve.pb import tree_pb2
from treeserve.ray.cluster_page import of_engine, of_ingress, render_page
from treeserve.ray.joined import join_activity, join_plans, join_views
from treeserve.scheduler.step import PlanCounts
from treeserve.types import Usage


def node(node_id: int, parent_id: int | None = None, num_tokens: int = 4) -> TreeNode:
    return TreeNode(
        node_id=node_id,
        parent_id=parent_id,
        namespace="",
        start_position=0,
        num_tokens=num_tokens,
        num_computed_tokens=num_tokens,
        num_pages=1,
        num_children=0,
        use=None,
        token_ids=(),
    )


def test_two_trees_are_one_list_in_which_parents_come_first_and_roots_before_all():
    deep = TreeView((node(1), node(2, 1), node(3, 2)), 1, 10, 22)
    flat = TreeView((node(7), node(8)), 0, 0, 8, True)
    joined = join_views([deep, flat])
    assert [entry.node_id for entry in joined.nodes] == [1, 7, 8, 2, 3]
    assert (joined.num_left_out_nodes, joined.num_left_out_tokens) == (1, 10)
    assert (joined.num_tokens, joined.is_partly_counted) == (30, True)


def test_plans_are_summed_where_everybodys_is_told():
    told = PlanView((), 1, PlanCounts(num_shared_items=2, tokens_read=30), 1.5, 0.5)
    joined = join_plans([told, told])
    assert (joined.counts.num_shared_items, joined.counts.tokens_read) == (4, 60)
    assert (joined.saved_cost, joined.merging_cost) == (3.0, 1.0)
    assert joined.num_left_out_segments == 2
    hidden = PlanView((), 0, None, None, None)
    assert join_plans([hidden, hidden]) == hidden


def test_the_oldest_calls_of_all_ingresses_are_listed_and_totals_added_up():
    def part(*ages: float) -> tree_pb2.GetActivityResponse:
        return tree_pb2.GetActivityResponse(
            calls=[tree_pb2.RunningCall(age_seconds=age) for age in ages],
            totals=tree_pb2.Totals(at_seconds=len(ages), steps=3, step_seconds=0.5),
        )

    joined = join_activity([part(1.0, 9.0), part(5.0), part()], 2)
    assert [running.age_seconds for running in joined.calls] == [9.0, 5.0]
    assert joined.left_out_calls == 1
    assert (joined.totals.steps, joined.totals.step_seconds) == (9, 1.5)
    assert joined.totals.at_seconds == 2


def test_one_page_shows_each_ones_metrics_and_nothing_twice():
    ingress, engines = Metrics(), [Metrics(), Metrics()]
    ingress.observe_finished(Usage(5, 0, 0, 5, 1), RequestTimings(0.1, 0.2))
    ingress.observe_call("Generate", "OK")
    for metrics in engines:
        metrics.set_sizes(page_tokens=16, kv_token_bytes=64)
    parts = [("in", of_ingress(ingress.collect()))]
    parts += [(f"e{i}", of_engine(metrics.collect())) for i, metrics in enumerate(engines)]
    page = render_page(parts).decode()
    families = {f.name: f for f in text_string_to_metric_families(page)}

    def replicas(name: str) -> list[str]:
        return sorted(sample.labels["replica"] for sample in families[name].samples)

    assert replicas("treeserve_page_tokens") == ["e0", "e1"]
    assert replicas("treeserve_requests_finished") == ["in"]
    assert replicas("treeserve_calls") == ["in"]
    assert replicas("treeserve_calls_running") == ["in"]
    assert replicas("treeserve_ready") == ["e0", "e1", "in"]
    assert families["treeserve_requests_finished"].samples[0].value == 1
    assert page.count("# TYPE treeserve_page_tokens gauge") == 1

"""What balance costs at least, whatever the router."""

from treeserve.simulation.cluster_workloads import CLUSTER_WORKLOADS
from treeserve.simulation.least_copies import least_copies
from treeserve.simulation.trace import TraceRequest


def request(number: int, trunk: int, parent: str | None = None, drawn: int = 100) -> TraceRequest:
    """100 tokens of its own, and where it is a root a trunk of 1,000."""
    return TraceRequest(
        request_id=str(number),
        arrival_seconds=0.0,
        input_length=100 if parent else 1100,
        block_ids=(1000 + number,) if parent else (trunk, trunk + 1, 1000 + number),
        block_size=500,
        output_lengths=(drawn,),
        max_tokens=drawn,
        parent=parent,
    )


def test_one_trunk_under_everything_has_to_be_nearly_everywhere():
    trace = [request(i, 2) for i in range(100)]
    found = least_copies(trace, 7)
    assert (found.num_trunks, found.num_copies, found.again_tokens) == (1, 6, 5000)
    assert least_copies(trace, 7, imbalance=1.0).num_copies == 7
    assert least_copies(trace, 1).again_tokens == 0


def test_trunks_that_are_asked_as_much_as_each_other_need_one_copy_each():
    trace = [request(i, 2 + 2 * (i % 4)) for i in range(100)]
    assert least_copies(trace, 4).again_tokens == 0
    assert least_copies(trace, 8).num_copies == 8


def test_what_continues_a_request_is_under_its_trunk():
    roots = [request(0, 2), request(1, 4)]
    turns = [request(i, 0, parent=str(i - 2) if i > 3 else "0") for i in (2, 4)]
    found = least_copies([*roots, *turns], 2)
    assert found.num_copies == 2
    busier = least_copies([*roots, *turns, request(14, 0, parent="4", drawn=5000)], 2)
    assert (busier.num_trunks, busier.num_copies) == (2, 3)
    # Nobody else starts like it, so that its whole prompt is what has to be copied.
    assert busier.again_tokens == 1100


def test_the_bound_of_a_hot_prompt_grows_with_the_cluster():
    small, large = (least_copies(CLUSTER_WORKLOADS["prompts"](n, 2), n) for n in (4, 16))
    assert 0 < small.again_tokens / 4 < large.again_tokens / 16

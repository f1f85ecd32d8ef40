"""Turns what goes on at the service into protobuf messages."""

import time
from collections.abc import Sequence

from treeserve.errors import InvalidRequest
from treeserve.pb import tree_pb2 as pb
from treeserve.server.activity import Activity
from treeserve.server.call_log import CallRecord
from treeserve.server.step_totals import StepTotals
from treeserve.server.wire import parse

DEFAULT_MAX_CALLS = 100
MAX_CALLS = 1000


def read_get_activity(data: bytes) -> tuple[int, bool]:
    """(calls to list, whether everybody's); raises InvalidRequest for what is malformed."""
    request = parse(pb.GetActivityRequest, data)
    max_calls = request.max_calls if request.HasField("max_calls") else DEFAULT_MAX_CALLS
    if max_calls > MAX_CALLS:
        raise InvalidRequest("max_calls", f"must be between 0 and {MAX_CALLS}, got {max_calls}")
    return max_calls, request.all_namespaces


def write_activity(
    records: Sequence[CallRecord], max_calls: int, totals: StepTotals, activity: Activity
) -> pb.GetActivityResponse:
    """The first of the records, and all counters."""
    shown = records[:max_calls]
    return pb.GetActivityResponse(
        calls=[_write_call(record) for record in shown],
        left_out_calls=len(records) - len(shown),
        totals=_write_totals(totals, activity),
    )


def _write_call(record: CallRecord) -> pb.RunningCall:
    return pb.RunningCall(
        call_id=record.request_id,
        namespace=record.identity.tenant,
        method=record.method,
        age_seconds=record.clock() - record.started,
        first_token_seconds=record.first_token_seconds,
        drawn_tokens=record.drawn_tokens,
    )


def _write_totals(totals: StepTotals, activity: Activity) -> pb.Totals:
    last = totals.last
    return pb.Totals(
        at_seconds=time.monotonic(),
        steps=totals.num_steps,
        step_seconds=totals.step_seconds,
        drawn_tokens=totals.drawn_tokens,
        prompt_rows=totals.prompt_rows,
        kv_tokens_read=totals.kv_tokens_read,
        kv_tokens_read_flat=totals.kv_tokens_read_flat,
        cached_tokens=activity.cached_tokens,
        shared_in_flight_tokens=activity.shared_tokens,
        computed_tokens=activity.computed_tokens,
        evicted_tokens=totals.evicted_tokens,
        running_samples=last.running_samples if last else 0,
        waiting_requests=last.waiting_requests if last else 0,
        used_pages=last.used_pages if last else 0,
        cached_pages=last.cached_pages if last else 0,
        total_pages=last.total_pages if last else 0,
    )

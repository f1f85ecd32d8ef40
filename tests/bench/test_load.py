"""The load of the service benchmark, with a caller that answers at once."""

import time

from treeserve.bench.serve.load import Window, closed_loop
from treeserve.bench.serve.sockets import CallRecord, Meter, Request
from treeserve.bench.serve.workloads import Call
from treeserve.types import PromptTree


class Answering:
    """Every call ends as it is made."""

    def request(self, call: Call) -> Request:
        return Request(call, False, b"")

    async def make(self, request: Request, due: float, meter: Meter) -> CallRecord:
        now = time.perf_counter()
        return CallRecord(due=due, sent=now, end=now)


async def test_first_calls_of_streams_are_made_and_due_at_the_start_however_late_the_client_is():
    """Its window is over before it wakes: what was slow at the start must count all the same."""
    caller = Answering()
    request = caller.request(Call(PromptTree("p"), 1, 1))
    load = await closed_loop(caller, lambda index: request, 3, Window(0.0, 1e-9))
    assert [record.due for record in load.records] == [load.meter.start] * 3
    assert all(record.sent >= record.due for record in load.records)

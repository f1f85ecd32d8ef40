"""The call that tells what goes on at a server, and what it returns."""

from dataclasses import dataclass

from treeserve.client.call import Call
from treeserve.client.write import write_fields
from treeserve.pb import tree_pb2 as pb


@dataclass(frozen=True, slots=True)
class RunningCall:
    """A call that generates, or computes a prefix."""

    call_id: str
    namespace: str
    method: str
    age_seconds: float
    first_token_seconds: float | None
    """From its coming; None: it has no token yet."""
    drawn_tokens: int
    """Over all its samples, as far as they were streamed."""


@dataclass(frozen=True, slots=True)
class ServerTotals:
    """Since the server's start; the last five are of now. Two of them make a rate."""

    at_seconds: float
    """On the server's clock."""
    steps: int
    step_seconds: float
    drawn_tokens: int
    prompt_rows: int
    kv_tokens_read: int
    kv_tokens_read_flat: int
    """What ordinary attention, every sample alone, would have read."""
    cached_tokens: int
    """Of prompts that ended: computed before they came."""
    shared_in_flight_tokens: int
    computed_tokens: int
    evicted_tokens: int
    running_samples: int
    waiting_requests: int
    used_pages: int
    cached_pages: int
    """Of those, the ones that only the cache holds."""
    total_pages: int


@dataclass(frozen=True, slots=True)
class ServerActivity:
    """What goes on at a server."""

    calls: tuple[RunningCall, ...]
    """Oldest first."""
    num_left_out_calls: int
    totals: ServerTotals


def get_activity(max_calls: int | None, all_namespaces: bool) -> Call[ServerActivity]:
    """Which calls run, and what the engine has done so far."""
    request = pb.GetActivityRequest(all_namespaces=all_namespaces)
    write_fields(request, max_calls=max_calls)
    return Call("tree", "GetActivity", request, _read)


def _read(response: pb.GetActivityResponse) -> ServerActivity:
    totals = {name: getattr(response.totals, name) for name in ServerTotals.__slots__}
    return ServerActivity(
        calls=tuple(_read_call(call) for call in response.calls),
        num_left_out_calls=response.left_out_calls,
        totals=ServerTotals(**totals),
    )


def _read_call(call: pb.RunningCall) -> RunningCall:
    return RunningCall(
        call_id=call.call_id,
        namespace=call.namespace,
        method=call.method,
        age_seconds=call.age_seconds,
        first_token_seconds=call.first_token_seconds
        if call.HasField("first_token_seconds")
        else None,
        drawn_tokens=call.drawn_tokens,
    )

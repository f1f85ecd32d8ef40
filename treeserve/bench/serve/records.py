"""The records of a service benchmark, in the form in which they become JSON."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from treeserve.bench.serve.cpu_time import Taken
from treeserve.bench.serve.load import Load
from treeserve.bench.serve.sockets import CallRecord

Mode: TypeAlias = Literal["open", "closed"]
REFUSED = "RESOURCE_EXHAUSTED"
CLIENT_BOUND = 0.8
"""Of one core: a client that is busier may be what was measured."""
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Targets:
    """What counts as good, in milliseconds."""

    ttft_ms: float
    tpot_ms: float


@dataclass(frozen=True, slots=True)
class Percentiles:
    """In milliseconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What this side of the sockets did within the window."""

    cpu_share: float | None
    """Of one core."""
    late_ms_p99: float | None
    """How much later than due calls were sent."""
    messages_per_second: float
    tokens_per_message: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One workload under one load, the warm-up not in it."""

    workload: str
    mode: Mode
    load: float
    """Calls a second, or streams."""
    seconds: float
    calls: int
    """Due within the window; all counts are of these."""
    good_calls: int
    """Ended in good order, with all that they asked for."""
    refused: int
    failed: int
    wrong: int
    statuses: dict[str, int]
    """Calls by the name of their gRPC status, but for OK."""
    reason: str
    """Of the first call that failed or was wrong; empty: there is none."""
    gone: str
    """What the server said when it took no more calls; empty: it took them to the end."""
    drawn_tokens_per_second: float
    """As they arrived."""
    prompt_tokens_per_second: float
    """Of calls that were due within the window and went well."""
    calls_per_second: float
    goodput: float | None
    """Calls a second of which every sample was within both targets."""
    goodput_share: float | None
    """Of all calls; those that were refused count."""
    ttft_ms: Percentiles | None
    """Time to first token of every sample, from when its call was due."""
    tpot_ms: Percentiles | None
    """Time per output token of every sample, after its first."""
    end_to_end_ms: Percentiles | None
    """Of calls."""
    computed_share: float | None
    """Of the prompt tokens; the others were cached or computed for another call."""
    client: Client
    server_cpu_share: float | None
    """Of one core. None: the server is not ours."""

    @property
    def flags(self) -> list[str]:
        """What a reader must not overlook."""
        found = []
        if self.gone:
            found.append(f"gone: {self.gone}")
        if self.failed or self.wrong:
            found.append(
                f"failed: {self.failed + self.wrong} of {self.calls}, first: {self.reason}"
            )
        if (self.client.cpu_share or 0.0) > CLIENT_BOUND:
            found.append(f"client: it took {self.client.cpu_share:.0%} of a core")
        return found

    @property
    def is_bad(self) -> bool:
        """Refusals are an answer; these are not."""
        return bool(self.gone or self.failed or self.wrong)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "flags": self.flags}


def make_stage(workload: str, mode: Mode, size: float, load: Load, targets: Targets) -> Stage:
    """Sum up a load.

    Args:
        workload: Its name.
        mode: How calls came.
        size: Calls a second, or streams.
        load: What happened.
        targets: What counts as good.
    """
    records, seconds = load.records, load.seconds
    good = [record for record in records if record.is_good]
    refused = sum(record.status == REFUSED for record in records)
    wrong = sum(bool(record.wrong) for record in records)
    within = [record for record in good if _is_within(record, targets)]
    samples = [sample for record in good for sample in record.samples.values()]
    prompt_tokens = sum(record.prompt_tokens for record in good)
    computed = sum(record.computed_tokens for record in good)
    ttft = [s.first_token - record.due for record in good for s in record.samples.values()]
    tpot = [each for s in samples if (each := s.seconds_per_token) is not None]
    return Stage(
        workload=workload,
        mode=mode,
        load=size,
        seconds=seconds,
        calls=len(records),
        good_calls=len(good),
        refused=refused,
        failed=len(records) - len(good) - refused - wrong,
        wrong=wrong,
        statuses=dict(Counter(r.status for r in records if r.status != "OK")),
        reason=_first_reason(records),
        gone=load.gone,
        drawn_tokens_per_second=_rate(load.meter.tokens, seconds),
        prompt_tokens_per_second=_rate(prompt_tokens, seconds),
        calls_per_second=_rate(len(good), seconds),
        goodput=_rate(len(within), seconds),
        goodput_share=len(within) / len(records) if records else None,
        ttft_ms=_percentiles(ttft),
        tpot_ms=_percentiles(tpot),
        end_to_end_ms=_percentiles([record.end - record.due for record in good]),
        computed_share=computed / prompt_tokens if prompt_tokens else None,
        client=_client(load),
        server_cpu_share=None if load.taken is None else _share(load.taken.server_cpu, load.taken),
    )


def _client(load: Load) -> Client:
    meter = load.meter
    late = _percentiles([record.sent - record.due for record in load.records])
    return Client(
        cpu_share=None if load.taken is None else _share(load.taken.client_cpu, load.taken),
        late_ms_p99=None if late is None else late.p99,
        messages_per_second=_rate(meter.messages, load.seconds),
        tokens_per_message=meter.tokens / meter.messages if meter.messages else None,
    )


def _is_within(record: CallRecord, targets: Targets) -> bool:
    return all(
        (sample.first_token - record.due) * 1000 <= targets.ttft_ms
        and (sample.seconds_per_token or 0.0) * 1000 <= targets.tpot_ms
        for sample in record.samples.values()
    )


def _first_reason(records: Sequence[CallRecord]) -> str:
    for record in records:
        if record.wrong:
            return record.wrong
        if record.status not in ("OK", REFUSED):
            return f"{record.status}: {record.details}"
    return ""


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _share(cpu_seconds: float | None, taken: Taken) -> float | None:
    return None if cpu_seconds is None else cpu_seconds / taken.wall


def _percentiles(seconds: Sequence[float]) -> Percentiles | None:
    if not seconds:
        return None
    p50, p90, p99 = (float(value) * 1000 for value in np.percentile(seconds, _PERCENTILES))
    return Percentiles(p50, p90, p99)

"""Reads response messages into values of the Python API."""

from collections.abc import Iterator

from treeserve.pb import generation_pb2 as pb
from treeserve.types import (
    Delta,
    Echo,
    Finished,
    FinishReason,
    OutputOptions,
    Progress,
    PromptLogprobs,
    SampleTimings,
    Started,
    StreamEvent,
    TokenCounts,
    TokenLogprob,
    TreeFinished,
    Usage,
)

_REASONS = {
    pb.FINISH_REASON_UNSPECIFIED: None,
    pb.FINISH_REASON_STOP: FinishReason.STOP,
    pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    pb.FINISH_REASON_ABORT: FinishReason.ABORT,
    pb.FINISH_REASON_ERROR: FinishReason.ERROR,
    pb.FINISH_REASON_DEADLINE: FinishReason.DEADLINE,
    pb.FINISH_REASON_TIME_LIMIT: FinishReason.TIME_LIMIT,
}


def read_events(response: pb.GenerateResponse | pb.GenerateTreeResponse) -> Iterator[StreamEvent]:
    """What one message of a stream tells, in order."""
    path = tuple(response.path) if isinstance(response, pb.GenerateTreeResponse) else ()
    if response.HasField("started"):
        yield _read_started(path, response.started)
    if response.HasField("progress"):
        progress = response.progress
        yield Progress(path, progress.computed_tokens, progress.prompt_tokens)
    if response.prompt_logprobs:
        yield PromptLogprobs(path, tuple(map(_read_logprob, response.prompt_logprobs)))
    for sample in response.samples:
        yield _read_delta(path, sample)
    if response.HasField("usage"):
        yield Finished(path, _read_usage(response.usage))
    if isinstance(response, pb.GenerateTreeResponse) and response.HasField("tree_usage"):
        yield TreeFinished(_read_usage(response.tree_usage))


def read_counts(response: pb.CountTokensResponse) -> TokenCounts:
    """Of a prompt or a tree."""
    return TokenCounts(
        num_tokens=response.num_tokens,
        num_unshared_tokens=response.num_unshared_tokens,
        num_prompt_tokens={tuple(entry.path): entry.num_tokens for entry in response.prompts},
        num_module_tokens=response.num_module_tokens,
    )


def _read_started(path: tuple[int, ...], started: pb.Started) -> Started:
    echo = None
    if started.prompt_text or started.prompt_token_ids:
        echo = Echo(started.prompt_text, tuple(started.prompt_token_ids))
    # What was asked for is not told again; only an echo shows.
    output = OutputOptions(echo=echo is not None)
    return Started(path, started.request_id, started.seed, started.prompt_tokens, output, echo)


def _read_delta(path: tuple[int, ...], sample: pb.SampleDelta) -> Delta:
    logprobs = tuple(_read_logprob(entry) for entry in sample.logprobs)
    return Delta(
        path=path,
        sample_index=sample.index,
        text=sample.text,
        token_ids=tuple(sample.token_ids),
        logprobs=logprobs or None,
        finish_reason=_REASONS[sample.finish_reason],
        stop_match=getattr(sample, stop) if (stop := sample.WhichOneof("stop")) else None,
        num_tokens=sample.num_tokens,
        timings=_read_timings(sample.timings) if sample.HasField("timings") else None,
    )


def _read_timings(timings: pb.SampleTimings) -> SampleTimings:
    return SampleTimings(
        queue_seconds=timings.queue_seconds,
        first_token_seconds=timings.first_token_seconds,
        total_seconds=timings.total_seconds,
        seconds_per_token=timings.seconds_per_token,
    )


def _read_logprob(entry: pb.TokenLogprob) -> TokenLogprob:
    top = tuple((other.token_id, other.logprob) for other in entry.top)
    return TokenLogprob(entry.token_id, entry.logprob, top, entry.rank)


def _read_usage(usage: pb.Usage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        shared_tokens=usage.shared_in_flight_tokens,
        computed_tokens=usage.computed_tokens,
        completion_tokens=usage.completion_tokens,
        recomputed_tokens=usage.recomputed_tokens,
        module_tokens=usage.module_tokens,
        encoded_tokens=usage.encoded_tokens,
    )

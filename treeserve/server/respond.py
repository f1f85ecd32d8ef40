"""Turns what the text service tells into protobuf messages."""

from typing import TypeAlias

from treeserve.pb import generation_pb2 as pb
from treeserve.server.batching import PromptEvents
from treeserve.types import (
    Delta,
    FinishReason,
    OutputOptions,
    Progress,
    SampleTimings,
    Started,
    TokenCounts,
    TokenLogprob,
    Usage,
)

_FINISH_REASONS = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.ABORT: pb.FINISH_REASON_ABORT,
    FinishReason.ERROR: pb.FINISH_REASON_ERROR,
    FinishReason.DEADLINE: pb.FINISH_REASON_DEADLINE,
    FinishReason.TIME_LIMIT: pb.FINISH_REASON_TIME_LIMIT,
}
_ALL = OutputOptions()

_Path: TypeAlias = tuple[int, ...]


class GenerateWriter:
    """Writes the messages of one Generate or Fork call."""

    def __init__(self) -> None:
        self._output = _ALL

    def write(self, events: PromptEvents) -> pb.GenerateResponse:
        """What is new of the prompt."""
        if events.started is not None:
            self._output = events.started.output
        return pb.GenerateResponse(
            started=_write_started(events.started),
            progress=_write_progress(events.progress),
            prompt_logprobs=[_write_logprob(entry) for entry in events.prompt_logprobs],
            samples=[_write_delta(delta, self._output) for delta in events.deltas],
            usage=_write_usage(events.usage, self._output),
        )


class TreeWriter:
    """Writes the messages of one GenerateTree call."""

    def __init__(self) -> None:
        self._outputs: dict[_Path, OutputOptions] = {}

    def write(self, events: PromptEvents) -> pb.GenerateTreeResponse:
        """What is new of one prompt of the tree, or of the tree itself."""
        if events.started is not None:
            self._outputs[events.path] = events.started.output
        output = self._outputs.get(events.path, _ALL)
        return pb.GenerateTreeResponse(
            path=events.path,
            started=_write_started(events.started),
            progress=_write_progress(events.progress),
            prompt_logprobs=[_write_logprob(entry) for entry in events.prompt_logprobs],
            samples=[_write_delta(delta, output) for delta in events.deltas],
            usage=_write_usage(events.usage, output),
            tree_usage=_write_usage(events.tree_usage, _ALL),
        )


def write_counts(counts: TokenCounts) -> pb.CountTokensResponse:
    """Counts of tokens."""
    return pb.CountTokensResponse(
        num_tokens=counts.num_tokens,
        num_unshared_tokens=counts.num_unshared_tokens,
        prompts=[
            pb.PromptTokens(path=path, num_tokens=length)
            for path, length in counts.num_prompt_tokens.items()
        ],
        num_module_tokens=counts.num_module_tokens,
    )


def _write_started(started: Started | None) -> pb.Started | None:
    if started is None:
        return None
    echo = started.echo
    return pb.Started(
        request_id=started.request_id,
        seed=started.seed,
        prompt_tokens=started.num_prompt_tokens,
        prompt_text="" if echo is None else echo.text,
        prompt_token_ids=() if echo is None else echo.token_ids,
    )


def _write_progress(progress: Progress | None) -> pb.Progress | None:
    if progress is None:
        return None
    return pb.Progress(
        computed_tokens=progress.num_computed_tokens, prompt_tokens=progress.num_prompt_tokens
    )


def _write_delta(delta: Delta, output: OutputOptions) -> pb.SampleDelta:
    message = pb.SampleDelta(
        index=delta.sample_index,
        text=delta.text,
        token_ids=delta.token_ids if output.token_ids else (),
        logprobs=[_write_logprob(entry) for entry in delta.logprobs or ()],
        finish_reason=_FINISH_REASONS[delta.finish_reason],
        num_tokens=delta.num_tokens,
        timings=_write_timings(delta.timings),
    )
    if isinstance(delta.stop_match, str):
        message.stop_string = delta.stop_match
    elif delta.stop_match is not None:
        message.stop_token_id = delta.stop_match
    return message


def _write_logprob(entry: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token_id=entry.token_id,
        logprob=entry.logprob,
        top=[pb.TopLogprob(token_id=token_id, logprob=value) for token_id, value in entry.top],
        rank=entry.rank,
    )


def _write_timings(timings: SampleTimings | None) -> pb.SampleTimings | None:
    if timings is None:
        return None
    return pb.SampleTimings(
        queue_seconds=timings.queue_seconds,
        first_token_seconds=timings.first_token_seconds,
        seconds_per_token=timings.seconds_per_token,
        total_seconds=timings.total_seconds,
    )


def _write_usage(usage: Usage | None, output: OutputOptions) -> pb.Usage | None:
    if usage is None or not output.usage:
        return None
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        shared_in_flight_tokens=usage.shared_tokens,
        computed_tokens=usage.computed_tokens,
        completion_tokens=usage.completion_tokens,
        recomputed_tokens=usage.recomputed_tokens,
        module_tokens=usage.module_tokens,
        encoded_tokens=usage.encoded_tokens,
    )

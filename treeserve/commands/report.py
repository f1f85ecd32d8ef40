"""Shows a stream of samples on the terminal or as JSON lines, and what sharing saved at its end."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Protocol, TextIO

from treeserve.types import Delta, Finished, FinishReason, Sharing, Usage

_LEAST_RATIO = 1.05
"""Below it, a ratio of one decimal would say 1.0."""


class Report(Protocol):
    """Is told of every event, and of the end."""

    def see(self, event: Delta | Finished) -> None: ...

    def end(self, usage: Usage, sharing: Sharing | None) -> None: ...


class LiveReport:
    """One sample, written as it grows.

    Args:
        out: For the text.
        err: For the last line.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._last = "\n"

    def see(self, event: Delta | Finished) -> None:
        if isinstance(event, Delta) and event.text:
            self._out.write(event.text)
            self._out.flush()
            self._last = event.text[-1]

    def end(self, usage: Usage, sharing: Sharing | None) -> None:
        if self._last != "\n":
            self._out.write("\n")
        self._out.flush()
        print(summary(usage, sharing), file=self._err)


class SampleReport:
    """Several samples, each written under a header when it ends.

    Args:
        out: For the samples.
        err: For the last line.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._samples: dict[tuple[tuple[int, ...], int], list[Delta]] = {}

    def see(self, event: Delta | Finished) -> None:
        if isinstance(event, Finished):
            return
        key = (event.path, event.sample_index)
        self._samples.setdefault(key, []).append(event)
        if event.finish_reason is not None:
            self._write(self._samples.pop(key), event.finish_reason)

    def end(self, usage: Usage, sharing: Sharing | None) -> None:
        print(summary(usage, sharing), file=self._err)

    def _write(self, deltas: list[Delta], reason: FinishReason) -> None:
        text = "".join(delta.text for delta in deltas)
        num_tokens = sum(len(delta.token_ids) for delta in deltas)
        path = deltas[0].path
        where = f"branch {'.'.join(map(str, path))}, " if path else ""
        header = f"== {where}sample {deltas[0].sample_index} ({reason.value}, {num_tokens} tokens)"
        self._out.write(f"{header}\n{text}" + ("" if text.endswith("\n") else "\n"))
        self._out.flush()


class JsonReport:
    """Every event as one line of JSON, and a last line with the sums.

    Args:
        out: For the lines.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def see(self, event: Delta | Finished) -> None:
        if isinstance(event, Finished):
            self._write({"path": event.path, "usage": asdict(event.usage)})
            return
        record = asdict(event)
        if event.logprobs is None:
            del record["logprobs"]
        self._write(record)

    def end(self, usage: Usage, sharing: Sharing | None) -> None:
        kv_reads = {} if sharing is None else _kv_reads(sharing)
        self._write({"total": asdict(usage) | kv_reads})

    def _write(self, record: dict[str, Any]) -> None:
        print(json.dumps(record, ensure_ascii=False), file=self._out, flush=True)


def total_usage(usages: Iterable[Usage]) -> Usage:
    """The sum over several prompts."""
    several = list(usages)
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in several),
        cached_tokens=sum(usage.cached_tokens for usage in several),
        shared_tokens=sum(usage.shared_tokens for usage in several),
        computed_tokens=sum(usage.computed_tokens for usage in several),
        completion_tokens=sum(usage.completion_tokens for usage in several),
        module_tokens=sum(usage.module_tokens for usage in several),
        encoded_tokens=sum(usage.encoded_tokens for usage in several),
    )


def summary(usage: Usage, sharing: Sharing | None) -> str:
    """One line on where the prompt's tokens came from and what attention read."""
    modules = f"{usage.module_tokens:,} of modules, " if usage.module_tokens else ""
    text = (
        f"prompt {usage.prompt_tokens:,} tokens: {modules}{usage.cached_tokens:,} cached, "
        f"{usage.shared_tokens:,} shared, {usage.computed_tokens:,} computed · "
        f"completion {usage.completion_tokens:,} tokens"
    )
    if sharing is None or sharing.kv_tokens_read == 0:
        return text
    return f"{text} · {kv_summary(sharing.kv_tokens_read, sharing.kv_tokens_read_flat)}"


def kv_summary(tokens_read: float, tokens_read_flat: float) -> str:
    """What attention read, against what it would have read with every sample alone."""
    ratio = tokens_read_flat / tokens_read
    if ratio < _LEAST_RATIO:
        return f"KV reads {tokens_read:,.0f}, none shared"
    return f"KV reads {tokens_read:,.0f} of {tokens_read_flat:,.0f} flat ({ratio:.1f}x fewer)"


def _kv_reads(sharing: Sharing) -> dict[str, int]:
    return {
        "kv_tokens_read": sharing.kv_tokens_read,
        "kv_tokens_read_flat": sharing.kv_tokens_read_flat,
    }

"""Gathers the events of a stream into finished samples, which can be branched."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from treeserve.types import (
    Delta,
    Finished,
    FinishReason,
    OutputOptions,
    PromptLogprobs,
    SampleName,
    SampleTimings,
    SamplingParams,
    Started,
    StreamEvent,
    TokenLogprob,
    TreeFinished,
    Usage,
)

StreamT = TypeVar("StreamT", covariant=True)


class Forks(Protocol[StreamT]):
    """The fork() of a client."""

    def __call__(
        self,
        parent: SampleName,
        *,
        at: int | None = None,
        n: int = 1,
        params: SamplingParams | None = None,
        output: OutputOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> StreamT: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleHandle(Generic[StreamT]):
    """A sample of a request, running or ended, that can be branched."""

    name: SampleName
    _forks: Forks[StreamT] = field(repr=False, compare=False)

    def fork(
        self,
        *,
        at: int | None = None,
        n: int = 1,
        params: SamplingParams | None = None,
        output: OutputOptions | None = None,
        timeout_seconds: float | None = None,
    ) -> StreamT:
        """A stream of new samples that go on from a token of this one, as the client's fork().

        Args:
            at: Tokens of this sample before the branch; 0 is the end of its prompt, None all.
            n: Samples to draw.
            params: How; their own n is not read. None: as this sample, with a fresh seed.
            output: What to tell beside text; needs params.
            timeout_seconds: Of the call; None: the client's.
        """
        return self._forks(
            self.name, at=at, n=n, params=params, output=output, timeout_seconds=timeout_seconds
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnSample(SampleHandle[StreamT]):
    """A sample that has ended."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None
    """One for each of token_ids, if asked for."""
    stop_match: str | int | None
    """The stop string or the token id that ended it, if one did."""
    num_tokens: int
    """That it has drawn."""
    timings: SampleTimings | None


@dataclass(frozen=True, slots=True)
class Completion(Generic[StreamT]):
    """What one prompt gave."""

    samples: tuple[DrawnSample[StreamT], ...]
    usage: Usage | None
    """None where it was not asked for."""
    path: tuple[int, ...]
    """Of a tree: the index of the branch at each level; () is the trunk itself."""
    started: Started
    """Its request id, seed, prompt tokens, and the prompt as it was read, if asked for."""
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """One for each prompt token but the first, if asked for; None also where there is no other."""


@dataclass(slots=True)
class _Growing:
    deltas: list[Delta] = field(default_factory=list)

    def drawn(self, name: SampleName, forks: Forks[StreamT]) -> DrawnSample[StreamT]:
        last = self.deltas[-1]
        assert last.finish_reason is not None
        logprobs = [entry for delta in self.deltas for entry in delta.logprobs or ()]
        return DrawnSample(
            name=name,
            _forks=forks,
            index=last.sample_index,
            text="".join(delta.text for delta in self.deltas),
            token_ids=tuple(token for delta in self.deltas for token in delta.token_ids),
            finish_reason=last.finish_reason,
            logprobs=tuple(logprobs) or None,
            stop_match=last.stop_match,
            num_tokens=last.num_tokens,
            timings=last.timings,
        )


class Gathering(Generic[StreamT]):
    """What a stream has told so far.

    Args:
        forks: Branches its samples.
    """

    def __init__(self, forks: Forks[StreamT]) -> None:
        self._forks = forks
        self._growing: dict[tuple[tuple[int, ...], int], _Growing] = defaultdict(_Growing)
        self._usages: dict[tuple[int, ...], Usage] = {}
        self._scored: dict[tuple[int, ...], list[TokenLogprob]] = defaultdict(list)
        self.started: dict[tuple[int, ...], Started] = {}
        self.tree_usage: Usage | None = None

    def see(self, event: StreamEvent, *, keep_samples: bool) -> None:
        """Take in an event; of a stream that is only passed on, the samples are not kept."""
        if isinstance(event, Started):
            self.started[event.path] = event
        elif isinstance(event, TreeFinished):
            self.tree_usage = event.usage
        elif isinstance(event, Finished):
            self._usages[event.path] = event.usage
        elif isinstance(event, PromptLogprobs) and keep_samples:
            self._scored[event.path] += event.logprobs
        elif isinstance(event, Delta) and keep_samples:
            self._growing[event.path, event.sample_index].deltas.append(event)

    @property
    def request_id(self) -> str:
        """All prompts of a tree have the same; raises LookupError where nothing has started."""
        if not self.started:
            raise LookupError("the stream has not told of any prompt yet")
        return next(iter(self.started.values())).request_id

    def handle(self, index: int, path: tuple[int, ...]) -> SampleHandle[StreamT]:
        """Of a sample whose prompt has started.

        Raises:
            LookupError: Nothing has been told of the prompt yet.
        """
        if path not in self.started:
            raise LookupError(f"the stream has not told of a prompt at path {path} yet")
        name = SampleName(self.started[path].request_id, path, index)
        return SampleHandle(name=name, _forks=self._forks)

    def completions(self) -> list[Completion[StreamT]]:
        """Of every prompt, depth first, when the stream has ended."""
        samples: dict[tuple[int, ...], list[DrawnSample[StreamT]]] = defaultdict(list)
        for (path, index), growing in sorted(self._growing.items()):
            name = SampleName(self.started[path].request_id, path, index)
            samples[path].append(growing.drawn(name, self._forks))
        return [
            Completion(
                tuple(samples[path]),
                self._usages.get(path),
                path,
                self.started[path],
                tuple(self._scored[path]) if path in self._scored else None,
            )
            for path in sorted(self.started)
        ]

"""The portion: what one request draws of a problem; and what a source of samples tells of it."""

import hashlib
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from treeserve.errors import InvalidRequest
from treeserve.types import Delta, FinishReason, SamplingParams, Sharing, Usage

PORTION_SIZE = 16
"""Samples of a full portion. Seeds belong to portions, so files depend on it."""
ROUND_STRIDE = 100_000
"""Indices of repairs: the first attempt's, and this much for each round."""


@dataclass(frozen=True, eq=False)
class Continued:
    """A prompt that goes on from a sample's own tokens; its source tokenises what it is made of.

    Attributes:
        before: The sample's prompt.
        token_ids: What the sample drew.
        text: What stands between them and what is drawn next.
    """

    before: "SamplePrompt"
    token_ids: tuple[int, ...]
    text: str


SamplePrompt: TypeAlias = str | Continued
"""A problem's whole text, or what goes on from a sample of it."""


@dataclass(frozen=True, eq=False)
class Portion:
    """Some samples of one problem, drawn by one request.

    Attributes:
        params: With n and a seed of its own.
        first_index: The sample_index of the request's first sample.
        skipped: Which of the request's samples are there already, and need not be drawn.
        parent: The sample that a repair goes on from; None for first attempts.
        feedback: What a repair was told.
    """

    problem_id: str
    prompt: SamplePrompt
    params: SamplingParams
    first_index: int
    skipped: frozenset[int] = frozenset()
    parent: int | None = None
    round: int = 0
    feedback: str = ""


@dataclass(frozen=True)
class SampleDrawn:
    """One sample of a portion has ended; `index` is the request's."""

    portion: Portion
    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True)
class PortionEnded:
    """All samples of a portion have ended, or nobody wants them; usage where it is known."""

    portion: Portion
    usage: Usage | None


@dataclass(frozen=True)
class PortionRefused:
    """A portion that can never be drawn."""

    portion: Portion
    error: InvalidRequest


SourceEvent = SampleDrawn | PortionEnded | PortionRefused


class PortionTexts:
    """What the samples of one portion have drawn so far."""

    def __init__(self, portion: Portion) -> None:
        self.portion = portion
        self._deltas: dict[int, list[Delta]] = {}
        self._unwanted = set(portion.skipped)

    def begin_again(self) -> None:
        """Its request was lost: what had not ended comes once more, from its first token."""
        self._deltas.clear()

    def forget(self) -> None:
        """Nobody wants what has not ended yet."""
        self._unwanted |= set(range(self.portion.params.n))

    def see(self, delta: Delta) -> list[SourceEvent]:
        """The sample, once it has ended; a second time it is not told."""
        index = delta.sample_index
        if index in self._unwanted:
            return []
        deltas = self._deltas.setdefault(index, [])
        deltas.append(delta)
        if delta.finish_reason is None:
            return []
        self._unwanted.add(index)
        text = "".join(part.text for part in deltas)
        token_ids = tuple(token_id for part in deltas for token_id in part.token_ids)
        return [SampleDrawn(self.portion, index, text, token_ids, delta.finish_reason)]


class Source(Protocol):
    """Where samples come from: an engine in this process, or a server. For one thread."""

    def num_free(self) -> int:
        """Samples that there is room for now; 0 while something waits."""

    def submit(self, portion: Portion) -> None: ...

    def cancel(self, portion: Portion) -> None:
        """End a portion; PortionEnded follows, and samples that had ended may come before it."""

    def wait(self) -> list[SourceEvent]:
        """What happened since; waits until something may have."""

    def sharing(self) -> Sharing | None:
        """What attention has read since the source was made; None: it does not say."""

    def close(self) -> None:
        """End what still runs."""


CUT_SHORT = (FinishReason.ABORT, FinishReason.ERROR, FinishReason.DEADLINE)
"""Ends of what is no sample: it has to be drawn again."""


def portion_seed(seed: int, problem_id: str, first_index: int) -> int:
    """Of a problem's portion: from what it is called and the run's seed, and nothing else."""
    text = f"{seed}\0{problem_id}\0{first_index}"
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8]) >> 1

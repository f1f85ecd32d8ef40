"""What the ingress sends to a replica and what comes back, as plain data."""

import time
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from treeserve.cluster.held_prefixes import TokenIds
from treeserve.cluster.router import RoutedRequest
from treeserve.pml.encoding import TextEncoder
from treeserve.scheduler.modules import ModuleSet
from treeserve.schemas.importing import Importing
from treeserve.tokenizer import Tokenizer
from treeserve.types import (
    OutputOptions,
    PromptTree,
    RequestOptions,
    SampleName,
    SamplingParams,
)

_FIRST_CHARACTER = 0xE000
"""Above it every number is a character, so that each token id has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a replica runs; two that are equal give the same samples for the same seeds."""

    version: str
    """Of treeserve."""
    name: str
    """Of the model, as it was asked for."""
    model: str
    """A digest of its configuration and of some of each weight."""
    tokenizer: str
    """A digest."""
    vocabulary_size: int
    max_positions: int
    end_token_ids: frozenset[int]
    why_no_modules: str | None = None
    """None: prompts can import modules."""

    def differences(self, other: "Served") -> list[str]:
        """What is not the same, one phrase for each."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in self.__slots__)
        return [f"{name} is {own!r}, not {its!r}" for name, own, its in pairs if own != its]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Samples of one prompt."""

    token_ids: tuple[int, ...]
    params: SamplingParams
    output: OutputOptions | None
    modules: ModuleSet | None = None
    """What the prompt imports; the token ids are then its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateTree:
    """Samples of a tree of prompts."""

    tree: PromptTree
    importing: Importing | None = None
    """What all its prompts import; without its tokenizer, which is there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Samples that go on from another one's token."""

    parent: SampleName
    num_tokens: int | None
    params: SamplingParams | None
    n: int
    output: OutputOptions | None


@dataclass(frozen=True, slots=True)
class Work:
    """Something beside generation that a replica does, on the one that the router chooses."""

    name: Literal["warm", "retain", "save", "restore", "encode"]
    """Of a method of ReplicaSide."""
    arguments: tuple[Any, ...]


Asked: TypeAlias = Generate | GenerateTree | Fork | Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When a call came and has to end, seen from now: two machines have no clock in common."""

    seconds_since: float
    seconds_left: float | None

    @classmethod
    def of(cls, options: RequestOptions) -> "Times":
        now = time.monotonic()
        since = 0.0 if options.arrived_at is None else now - options.arrived_at
        return cls(
            seconds_since=since,
            seconds_left=None if options.deadline is None else options.deadline - now,
        )

    def on_this_machine(self, options: RequestOptions) -> RequestOptions:
        """The options with these times on the clock of the machine that calls this."""
        now = time.monotonic()
        left = self.seconds_left
        return replace(
            options,
            arrived_at=now - self.seconds_since,
            deadline=None if left is None else now + left,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Drew:
    """What a request drew that has ended."""

    namespace: Hashable
    name: str
    """The request's."""
    tokens: TokenIds
    """[n] of its prompt and of one sample, as far as they were computed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamCall:
    """One call of the ingress, complete when it leaves the router."""

    asked: Asked
    options: RequestOptions
    """With the namespace and the tenant of the caller."""
    times: Times
    served: Served
    """What the ingress tokenised for."""
    routed: RoutedRequest
    """What the router decides by."""
    learned: tuple[Drew, ...] = ()
    """For the router alone: what calls before this one drew."""
    replica_id: str | None = None
    """The one that it has to go to."""
    avoid: frozenset[str] = frozenset()
    """Those that have refused it, since they are full; of no meaning where all have."""
    router_id: str = ""
    """Of the router that sent it."""
    work: float = 0.0
    """What that router counts it as."""

    @property
    def prompt(self) -> str:
        """A character for each token: what a router that compares text has to see."""
        return "".join(chr(_FIRST_CHARACTER + int(token)) for token in self.routed.tokens)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that treeserve raised on purpose, to be raised again in the ingress."""

    kind: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Full:
    """A replica takes no more just now; nothing of the call has reached its engine."""

    replica_id: str
    text: str
    """Names the limit."""
    retry_seconds: float
    """After which there may be room, at the engine's recent pace."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one replica says."""

    replica_id: str
    value: Any


@dataclass(frozen=True, slots=True)
class Done:
    """What came of Work."""

    value: Any


def without_tokenizer(importing: Importing) -> Importing:
    """To be sent: every replica has the tokenizer."""
    schema = replace(importing.schema, encoder=None)  # type: ignore[arg-type]
    return replace(importing, schema=schema)


def with_tokenizer(importing: Importing, tokenizer: Tokenizer) -> Importing:
    """As it was before it was sent."""
    return replace(importing, schema=replace(importing.schema, encoder=TextEncoder(tokenizer)))

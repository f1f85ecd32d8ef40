"""The calls of PrefixService, and what they return."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from treeserve.client.call import Call
from treeserve.client.write import write_fields, write_prefix
from treeserve.pb import prefix_pb2 as pb

Content: TypeAlias = str | Sequence[int]
"""Of a prefix: text, tokenised by the server, or token ids."""


@dataclass(frozen=True, slots=True)
class WarmedPrefix:
    """num_tokens = num_cached_tokens + num_shared_tokens + num_computed_tokens."""

    num_tokens: int
    num_cached_tokens: int
    """Computed before the call came."""
    num_shared_tokens: int
    """Computed by another request in the meantime."""
    num_computed_tokens: int
    """Computed by this call."""


@dataclass(frozen=True, slots=True)
class RetainedPrefix:
    """A prefix that is worth more than its use says, for a time."""

    retained_id: int
    """Releases it; its own as long as the server runs."""
    num_tokens: int
    num_held_tokens: int
    """Of these, the ones that the tree holds now."""
    weight: float
    """In doublings of its hits."""
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Retained:
    """Retained prefixes of the caller's, and what is left for more."""

    prefixes: tuple[RetainedPrefix, ...]
    """Oldest first; of retain(), the one that it retained."""
    num_tokens_left: int
    """That could still be retained, in all namespaces together."""


@dataclass(frozen=True, slots=True)
class SavedPrefix:
    """A prefix on the server's disk."""

    name: str
    num_bytes: int
    saved_at: float
    """Seconds since 1970-01-01 UTC."""
    num_computed_tokens: int | None = None
    """Of save(): that had to be computed for it."""


@dataclass(frozen=True, slots=True)
class SavedPrefixes:
    """Saved prefixes of the caller's, by name, and what is left for more."""

    prefixes: tuple[SavedPrefix, ...]
    num_bytes_left: int
    """In all namespaces together."""


@dataclass(frozen=True, slots=True)
class RestoredPrefix:
    """A prefix that is in the tree again."""

    num_tokens: int
    num_restored_tokens: int
    """Of these, the ones that the tree did not hold."""


def warm(content: Content) -> Call[WarmedPrefix]:
    """Compute a prefix now."""
    return Call("prefix", "Warm", pb.WarmRequest(prefix=write_prefix(content)), _read_warmed)


def retain(content: Content, weight: float | None, ttl_seconds: float | None) -> Call[Retained]:
    """Keep a prefix; made twice, it would be retained twice."""
    request = pb.RetainRequest(prefix=write_prefix(content))
    write_fields(request, weight=weight, ttl_seconds=ttl_seconds)
    return Call(
        "prefix",
        "Retain",
        request,
        lambda response: Retained(
            (_read_retained(response.retained),), response.budget_left_tokens
        ),
        repeats_lost=False,
    )


def list_retained() -> Call[Retained]:
    """The caller's retained prefixes."""
    return Call(
        "prefix",
        "ListRetained",
        pb.ListRetainedRequest(),
        lambda response: Retained(
            tuple(_read_retained(entry) for entry in response.retained),
            response.budget_left_tokens,
        ),
    )


def release(retained_id: int) -> Call[None]:
    """End a retention; made twice, the second would find none."""
    request = pb.ReleaseRequest()
    write_fields(request, id=retained_id)
    return Call("prefix", "Release", request, lambda response: None, repeats_lost=False)


def save(name: str, content: Content, overwrite: bool) -> Call[SavedPrefix]:
    """Write a prefix to the server's disk; without `overwrite`, the second of two would fail."""
    request = pb.SaveRequest(prefix=write_prefix(content), overwrite=overwrite)
    write_fields(request, name=name)
    return Call(
        "prefix",
        "Save",
        request,
        lambda response: _read_saved(response.saved, response.computed_tokens),
        repeats_lost=overwrite,
    )


def restore(name: str) -> Call[RestoredPrefix]:
    """Put a saved prefix back into the tree."""
    request = pb.RestoreRequest()
    write_fields(request, name=name)
    return Call(
        "prefix",
        "Restore",
        request,
        lambda response: RestoredPrefix(response.tokens, response.restored_tokens),
    )


def list_saved() -> Call[SavedPrefixes]:
    """The caller's saved prefixes."""
    return Call(
        "prefix",
        "ListSaved",
        pb.ListSavedRequest(),
        lambda response: SavedPrefixes(
            tuple(_read_saved(entry) for entry in response.saved), response.bytes_left
        ),
    )


def delete_saved(name: str) -> Call[None]:
    """Delete a saved prefix; made twice, the second would find none."""
    request = pb.DeleteSavedRequest()
    write_fields(request, name=name)
    return Call("prefix", "DeleteSaved", request, lambda response: None, repeats_lost=False)


def _read_warmed(response: pb.WarmResponse) -> WarmedPrefix:
    return WarmedPrefix(
        num_tokens=response.tokens,
        num_cached_tokens=response.cached_tokens,
        num_shared_tokens=response.shared_in_flight_tokens,
        num_computed_tokens=response.computed_tokens,
    )


def _read_retained(entry: pb.RetainedPrefix) -> RetainedPrefix:
    return RetainedPrefix(
        retained_id=entry.id,
        num_tokens=entry.tokens,
        num_held_tokens=entry.held_tokens,
        weight=entry.weight,
        seconds_left=entry.seconds_left,
    )


def _read_saved(entry: pb.SavedPrefix, num_computed_tokens: int | None = None) -> SavedPrefix:
    return SavedPrefix(entry.name, entry.bytes, entry.saved_at_seconds, num_computed_tokens)

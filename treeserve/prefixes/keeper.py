"""The keeper of prefixes: warms, retains, saves and restores them over a running engine."""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

from treeserve.engine import Engine
from treeserve.engine_messages import EngineRequest
from treeserve.errors import (
    InvalidRequest,
    NoRoom,
    NotFound,
    NotPossible,
    OverBudget,
)
from treeserve.kv_cache import KVCache, LayerCache
from treeserve.loop import EngineLoop
from treeserve.prefixes.copying import copy_in, copy_out
from treeserve.prefixes.fingerprint import Fingerprint
from treeserve.prefixes.folder import PrefixFolder, SavedEntry
from treeserve.prefixes.in_thread import finish_in_thread
from treeserve.prefixes.saved_file import MAX_HEADER_BYTES, KVLimits, SavedKV, pack, unpack
from treeserve.prompt import Prompter
from treeserve.request_size import Admit, RequestSize
from treeserve.scheduler.request import PromptUsage
from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.computed import Inserted
from treeserve.scheduler.tree.prefix import Prefix
from treeserve.scheduler.tree.radix_tree import RadixTree
from treeserve.scheduler.tree.retention import RetainedPrefix
from treeserve.types import (
    Prompt,
    SamplingParams,
)

MAX_WEIGHT = 1000.0
MAX_TTL_SECONDS = 7 * 24 * 3600.0
_MAX_TRIES = 4
"""Times that something may come between before it is given up."""


@dataclass(frozen=True, slots=True)
class Held:
    """A retained prefix as it is now."""

    retained_id: int
    num_tokens: int
    num_held_tokens: int
    weight: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Retained:
    """Retained prefixes of one tenant, oldest first, and what is left for all."""

    prefixes: tuple[Held, ...]
    num_tokens_left: int


@dataclass(frozen=True, slots=True)
class Saved:
    """What was written, and what had to be computed for it."""

    entry: SavedEntry
    num_tokens: int
    num_computed_tokens: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back into the tree."""

    num_tokens: int
    num_restored_tokens: int
    token_ids: Int32Array = field(repr=False, compare=False)
    """[num_tokens] of the prefix."""


class PrefixKeeper:
    """Belongs to one event loop. Whoever calls has checked that the namespace is the caller's.

    Args:
        loop: Started.
        prompter: Of the same model.
        kv_cache: Of the same engine; read and written in the engine's thread, between steps.
        fingerprint: Of the same engine.
        folder: Of saved prefixes; None: nothing can be saved or restored.
    """

    def __init__(
        self,
        loop: EngineLoop,
        prompter: Prompter,
        kv_cache: KVCache,
        fingerprint: Fingerprint,
        folder: PrefixFolder | None,
    ) -> None:
        self._loop = loop
        self._prompter = prompter
        self._kv_cache = kv_cache
        self._fingerprint = fingerprint
        self._folder = folder
        self._limits = KVLimits(
            kv_cache.layer_shapes,
            kv_cache.dtype,
            prompter.model_limits.vocabulary_size,
            prompter.model_limits.max_positions - 1,
        )
        self._bytes_per_token = KVCache.bytes_per_slot(kv_cache.layer_shapes, kv_cache.dtype) + 4
        # One prefix at a time is in host memory.
        self._moving = asyncio.Lock()

    async def warm(self, prompt: Prompt, namespace: str, admit: Admit = nullcontext) -> PromptUsage:
        """Compute what the tree does not hold of a prefix.

        Raises:
            InvalidRequest: It can never be served; names "prefix".
            EngineStopped: The engine has stopped.
        """
        return await self._compute(await self._request(prompt, namespace), admit)

    async def retain(
        self, prompt: Prompt, namespace: str, weight: float, ttl_seconds: float
    ) -> Retained:
        """Make a prefix worth more for a time; the one, and what is left.

        Raises:
            InvalidRequest: Names "prefix", "weight" or "ttl_seconds", and the limit.
            NoRoom: It exceeds what may be retained; says what is left.
        """
        _check_above_zero("weight", weight, MAX_WEIGHT)
        _check_above_zero("ttl_seconds", ttl_seconds, MAX_TTL_SECONDS)
        prefix = _prefix_of(await self._request(prompt, namespace))

        def retain(engine: Engine) -> Retained:
            tree = _expired_tree(engine)
            try:
                record = engine.scheduler.retain(prefix, weight, ttl_seconds)
            except OverBudget as error:
                text = f"{error}; {error.num_left} tokens could still be retained"
                raise NoRoom(text) from None
            return _retained(tree, [record])

        return await self._loop.call(retain)

    async def retained(self, namespace: str) -> Retained:
        """The tenant's, oldest first."""

        def look(engine: Engine) -> Retained:
            tree = _expired_tree(engine)
            return _retained(tree, [r for r in tree.retained() if r.prefix.namespace == namespace])

        return await self._loop.call(look)

    async def release(self, retained_id: int, namespace: str) -> None:
        """Raises NotFound where the tenant has none of that id."""

        def release(engine: Engine) -> None:
            own = {
                record.retained_id
                for record in _expired_tree(engine).retained()
                if record.prefix.namespace == namespace
            }
            if retained_id not in own:
                raise NotFound(f"no retained prefix has the id {retained_id}")
            engine.scheduler.release_retained(retained_id)

        await self._loop.call(release)

    async def save(
        self,
        name: str,
        prompt: Prompt,
        namespace: str,
        *,
        overwrite: bool,
        admit: Admit = nullcontext,
    ) -> Saved:
        """Write a prefix with its KV to the folder, computing what is missing.

        Raises:
            InvalidRequest: Names "name" or "prefix".
            NotFound, AlreadyExists, NoRoom, NotPossible: As the folder says; the last also where
                others need the memory so much that the prefix cannot be read.
        """
        folder = self._require_folder()
        folder.check_name(name)
        request = await self._request(prompt, namespace)
        async with self._moving:
            num_bytes = len(request.prompt_token_ids) * self._bytes_per_token + MAX_HEADER_BYTES
            if not overwrite:
                folder.require_free(namespace, name)
            await finish_in_thread(lambda: folder.require_room(namespace, num_bytes))
            layers, num_computed = await self._read(request, admit)
            entry = await finish_in_thread(
                lambda: folder.write(
                    namespace,
                    name,
                    pack(SavedKV(_prefix_of(request).tokens, layers), self._fingerprint),
                    overwrite=overwrite,
                )
            )
        return Saved(entry, len(request.prompt_token_ids), num_computed)

    async def restore(self, name: str, namespace: str, admit: Admit = nullcontext) -> Restored:
        """Put a saved prefix back into the tree, whole or not at all.

        Raises:
            InvalidRequest: Names "name".
            NotFound: Nothing is saved under it.
            Damaged, NotPossible: The file cannot be used; says why.
            NoRoom: Running samples need the pages.
        """
        folder = self._require_folder()
        folder.check_name(name)
        max_bytes = self._limits.max_tokens * self._bytes_per_token + 2 * MAX_HEADER_BYTES
        async with self._moving:
            saved = await finish_in_thread(
                lambda: unpack(
                    folder.read(namespace, name, max_bytes), self._fingerprint, self._limits
                )
            )
            with admit(prefix_size(len(saved.tokens))):
                return await self._insert(saved, namespace)

    def saved(self, namespace: str) -> tuple[list[SavedEntry], int]:
        """The tenant's saved prefixes by name, and the bytes that are left for all."""
        folder = self._require_folder()
        return folder.entries(namespace), folder.num_bytes_left()

    def delete_saved(self, name: str, namespace: str) -> None:
        """Raises InvalidRequest for a bad name, NotFound where nothing is saved under it."""
        self._require_folder().delete(namespace, name)

    def _require_folder(self) -> PrefixFolder:
        if self._folder is None:
            raise NotPossible("this server saves no prefixes: start it with --prefix-folder")
        return self._folder

    async def _request(self, prompt: Prompt, namespace: str) -> EngineRequest:
        return await asyncio.to_thread(prefix_request, self._prompter, prompt, namespace)

    async def _compute(self, request: EngineRequest, admit: Admit = nullcontext) -> PromptUsage:
        with admit(prefix_size(len(request.prompt_token_ids), request.request_id)):
            return await self._run(request)

    async def _run(self, request: EngineRequest) -> PromptUsage:
        try:
            return await self._loop.run_to_end(request, "a prefix could not be computed")
        except InvalidRequest as error:
            raise InvalidRequest("prefix", error.description) from None

    async def _read(self, request: EngineRequest, admit: Admit) -> tuple[list[LayerCache], int]:
        """The prefix's KV in every layer, and how many of its tokens were computed for it."""
        prefix, num_computed = _prefix_of(request), 0
        for number in range(_MAX_TRIES):
            usage = await self._compute(
                replace(request, request_id=f"{request.request_id}-{number}"), admit
            )
            num_computed += usage.computed_tokens
            layers = await copy_out(self._loop, self._kv_cache, prefix)
            if layers is not None:
                return layers, num_computed
        raise NotPossible(
            "the prefix was evicted again and again before it could be read: there is too little "
            "memory for what the server does; retain the prefix, or try later"
        )

    async def _insert(self, saved: SavedKV, namespace: str) -> Restored:
        prefix = Prefix(saved.tokens, namespace)

        def write(engine: Engine) -> Inserted:
            return copy_in(engine, self._kv_cache, prefix, saved.layers, "prefix")

        for _ in range(_MAX_TRIES):
            inserted = await self._loop.call(write)
            if not inserted.num_pending_end:
                return Restored(len(prefix), inserted.num_inserted, saved.tokens)
            # Somebody is computing the beginning just now: wait for it, then bring the rest.
            started = saved.tokens[: inserted.num_pending_end].tolist()
            await self._compute(await self._request(started, namespace))
        raise NotPossible("requests keep computing this very prefix; it is not needed from disk")


def prefix_request(prompter: Prompter, prompt: Prompt, namespace: str) -> EngineRequest:
    """One draw, of which nothing is kept: a prompt's tokens alone go into the tree.

    Raises:
        InvalidRequest: It can never be served; names "prefix".
    """
    params = SamplingParams(temperature=0.0, max_tokens=1)
    try:
        encoded = prompter.encode(prompt, params)
    except InvalidRequest as error:
        name = error.field.replace("prompt", "prefix", 1)
        raise InvalidRequest(name, error.description) from None
    return replace(encoded.request, namespace=namespace, tenant=namespace)


def prefix_size(num_tokens: int, request_id: str = "") -> RequestSize:
    """Without the one draw, of which nothing is kept."""
    return RequestSize((((), num_tokens),), request_id)


def _prefix_of(request: EngineRequest) -> Prefix:
    return Prefix(np.array(request.prompt_token_ids, dtype=np.int32), request.namespace)


def _expired_tree(engine: Engine) -> RadixTree:
    """The tree, without retentions whose time was over before the next step could see it."""
    tree, _ = engine.scheduler.insides()
    tree.expire(tree.clock())
    return tree


def _retained(tree: RadixTree, records: list[RetainedPrefix]) -> Retained:
    now = tree.clock()
    prefixes = tuple(
        Held(r.retained_id, len(r.prefix), r.num_held_tokens, r.weight, r.expires_at - now)
        for r in records
    )
    return Retained(prefixes, tree.retention_budget_tokens - tree.num_retained_tokens)


def _check_above_zero(field: str, value: float, most: float) -> None:
    if not 0 < value <= most:
        raise InvalidRequest(field, f"must be above 0 and at most {most:g}, got {value:g}")

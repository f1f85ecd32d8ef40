"""The keeper of schemas: saves them with their modules' KV, and restores both."""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass

from treeserve.engine import Engine
from treeserve.errors import Damaged, InvalidRequest, NotPossible
from treeserve.kv_cache import KVCache, LayerCache
from treeserve.loop import EngineLoop
from treeserve.pml import CompiledSchema
from treeserve.prefixes.copying import copy_in, copy_out, require_room
from treeserve.prefixes.fingerprint import Fingerprint
from treeserve.prefixes.folder import PrefixFolder, SavedEntry
from treeserve.prefixes.in_thread import finish_in_thread
from treeserve.prefixes.saved_file import MAX_HEADER_BYTES, KVLimits
from treeserve.prefixes.saved_schema import SavedSchema, pack_schema, unpack_schema
from treeserve.request_size import Admit, RequestSize
from treeserve.scheduler.modules import Module
from treeserve.scheduler.tree.computed import Inserted
from treeserve.scheduler.tree.imports import module_prefix
from treeserve.schemas.store import PutSchema, SchemaStore
from treeserve.schemas.warming import SchemaWarmer, all_modules

MAX_PML_BYTES = 4 << 20
_MAX_TRIES = 4
"""Times that something may come between before it is given up."""
_LAYOUT_BYTES = 8
"""Of a token in the file beside its KV: its id and its position."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What was written, and what had to be encoded for it."""

    entry: SavedEntry
    num_tokens: int
    num_encoded_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """A schema that is put, and what of its modules came back."""

    put: PutSchema
    num_tokens: int
    num_restored_tokens: int
    """Of these, the ones that the tree did not hold."""


class SchemaKeeper:
    """Belongs to one event loop. Whoever calls has checked that the namespace is the caller's.

    Args:
        loop: Started.
        schemas: Those that are put, of the same model.
        warmer: Of the same loop.
        kv_cache: Of the same engine; read and written in the engine's thread, between steps.
        fingerprint: Of the same engine.
        vocabulary_size: Of the model.
        folder: Of saved schemas; None: nothing can be saved or restored.
    """

    def __init__(
        self,
        loop: EngineLoop,
        schemas: SchemaStore,
        warmer: SchemaWarmer,
        kv_cache: KVCache,
        fingerprint: Fingerprint,
        vocabulary_size: int,
        folder: PrefixFolder | None,
    ) -> None:
        self._loop = loop
        self._schemas = schemas
        self._warmer = warmer
        self._kv_cache = kv_cache
        self._fingerprint = fingerprint
        self._folder = folder
        # What does not fit into the pool can be read by no prompt.
        self._limits = KVLimits(
            kv_cache.layer_shapes, kv_cache.dtype, vocabulary_size, kv_cache.num_slots
        )
        slot_bytes = KVCache.bytes_per_slot(kv_cache.layer_shapes, kv_cache.dtype)
        self._bytes_per_token = slot_bytes + _LAYOUT_BYTES
        # One schema at a time is in host memory.
        self._moving = asyncio.Lock()

    async def save(
        self, name: str, namespace: str, *, overwrite: bool, admit: Admit = nullcontext
    ) -> Saved:
        """Write a schema with its modules' KV to the folder, encoding what is missing.

        Raises:
            InvalidRequest: Names "name".
            NotFound, AlreadyExists, NoRoom, NotPossible: As the store and the folder say; the last
                also where others need the memory so much that the modules cannot be read.
        """
        folder = self._require_folder()
        schema, pml = self._schemas.find_both(namespace, name)
        modules = all_modules(schema)
        if not modules:
            raise InvalidRequest("name", f"the schema {name!r} has no text that is encoded ahead")
        num_tokens = sum(map(len, modules))
        async with self._moving:
            num_bytes = num_tokens * self._bytes_per_token + len(pml.encode()) + MAX_HEADER_BYTES
            if not overwrite:
                folder.require_free(namespace, name)
            await finish_in_thread(lambda: folder.require_room(namespace, num_bytes))
            kv, num_encoded = [], 0
            for module in modules:
                layers, encoded = await self._read(schema, module, namespace, admit)
                kv.append(layers)
                num_encoded += encoded
            entry = await finish_in_thread(
                lambda: folder.write(
                    namespace,
                    name,
                    pack_schema(pml, modules, kv, self._fingerprint),
                    overwrite=overwrite,
                )
            )
        return Saved(entry, num_tokens, num_encoded)

    async def restore(
        self, name: str, namespace: str, *, overwrite: bool, admit: Admit = nullcontext
    ) -> Restored:
        """Put a saved schema and its modules; a file that cannot be used changes nothing.

        Raises:
            InvalidRequest: Names "name".
            NotFound: Nothing is saved under it.
            Damaged, NotPossible: The file cannot be used; says why.
            AlreadyExists: Another schema of that name is put, and is not to be replaced.
            NoRoom: Running samples need the pages, or the tenant has as many schemas as it may.
        """
        folder = self._require_folder()
        folder.check_name(name)
        max_bytes = self._limits.max_tokens * self._bytes_per_token + MAX_PML_BYTES
        async with self._moving:
            saved, schema = await finish_in_thread(
                lambda: self._open(folder.read(namespace, name, max_bytes + 2 * MAX_HEADER_BYTES))
            )
            modules = all_modules(schema)
            num_tokens = sum(map(len, modules))
            with admit(RequestSize((((), num_tokens),))):
                await self._loop.look(
                    lambda engine: require_room(engine, self._kv_cache, modules, namespace)
                )
                put = self._schemas.put(namespace, saved.pml, overwrite=overwrite)
                num_restored = 0
                for index, module in enumerate(modules):
                    num_restored += await self._insert(
                        schema, module, saved.module_layers(index), namespace
                    )
        return Restored(put, num_tokens, num_restored)

    def saved(self, namespace: str) -> tuple[list[SavedEntry], int]:
        """The tenant's saved schemas by name, and the bytes that are left for all."""
        folder = self._require_folder()
        return folder.entries(namespace), folder.num_bytes_left()

    def delete_saved(self, name: str, namespace: str) -> None:
        """Raises InvalidRequest for a bad name, NotFound where nothing is saved under it."""
        self._require_folder().delete(namespace, name)

    def _require_folder(self) -> PrefixFolder:
        if self._folder is None:
            raise NotPossible("this server saves no schemas: start it with --prefix-folder")
        return self._folder

    def _open(self, data: bytes) -> tuple[SavedSchema, CompiledSchema]:
        """A file that is whole, and the schema in it, laid out as it was saved."""
        saved = unpack_schema(data, self._fingerprint, self._limits)
        try:
            schema = self._schemas.compile(saved.pml)
        except InvalidRequest as error:
            raise Damaged(f"the saved schema is damaged: {error.description}") from None
        saved.check_modules(all_modules(schema))
        return saved, schema

    async def _read(
        self, schema: CompiledSchema, module: Module, namespace: str, admit: Admit
    ) -> tuple[list[LayerCache], int]:
        """A module's KV in every layer, and how many of its tokens were encoded for it."""
        num_encoded = 0
        for _ in range(_MAX_TRIES):
            warmed = await self._warmer.encode([module], schema.base_position, namespace, admit)
            num_encoded += warmed.num_encoded_tokens
            prefix = module_prefix(module, namespace)
            layers = await copy_out(self._loop, self._kv_cache, prefix)
            if layers is not None:
                return layers, num_encoded
        raise NotPossible(
            "a module was evicted again and again before it could be read: there is too little "
            "memory for what the server does; try later"
        )

    async def _insert(
        self, schema: CompiledSchema, module: Module, layers: list[LayerCache], namespace: str
    ) -> int:
        """The number of tokens that the tree did not hold."""
        prefix = module_prefix(module, namespace)

        def write(engine: Engine) -> Inserted:
            return copy_in(engine, self._kv_cache, prefix, layers, "module")

        inserted = await self._loop.call(write)
        if inserted.num_pending_end:
            # Somebody's prompt has it encoded just now, which comes to the same bits.
            await self._warmer.encode([module], schema.base_position, namespace)
        return inserted.num_inserted

"""A schema and its modules' KV in a file, for an engine that whoever calls drives in place."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from treeserve.engine import Engine
from treeserve.errors import Damaged, NotPossible
from treeserve.kv_cache import KVCache
from treeserve.pml import CompiledSchema, PmlError, Schema, parse_schema, write_schema
from treeserve.prefixes.copying import copy_in, require_room
from treeserve.prefixes.fingerprint import Fingerprint
from treeserve.prefixes.saved_file import KVLimits
from treeserve.prefixes.saved_schema import pack_schema, unpack_schema
from treeserve.scheduler.modules import Module
from treeserve.scheduler.tree.computed import computed_slots
from treeserve.scheduler.tree.imports import module_prefix
from treeserve.schemas.warming import all_modules

Compile = Callable[[Schema], CompiledSchema]


class SchemaFiles:
    """Reads and writes the cache between two steps: nothing may be on its way.

    Args:
        engine: Idle.
        kv_cache: Of the same engine.
        fingerprint: Of the same engine.
        vocabulary_size: Of its model.
        compile_schema: For its model.
    """

    def __init__(
        self,
        engine: Engine,
        kv_cache: KVCache,
        fingerprint: Fingerprint,
        vocabulary_size: int,
        compile_schema: Compile,
    ) -> None:
        self._engine = engine
        self._kv_cache = kv_cache
        self._fingerprint = fingerprint
        self._compile = compile_schema
        self._limits = KVLimits(
            kv_cache.layer_shapes, kv_cache.dtype, vocabulary_size, kv_cache.num_slots
        )

    def save(
        self, schema: Schema, file: Path, encode: Callable[[CompiledSchema, Module], None]
    ) -> CompiledSchema:
        """Write a schema and its modules, whole or not at all.

        Args:
            schema: What it says.
            file: Replaced, if it is there.
            encode: Called for each module; afterwards the tree holds it.

        Raises:
            PmlError: The schema is not sound.
            NotPossible: It has no modules, or the file cannot be written.
        """
        compiled = self._compile(schema)
        modules = all_modules(compiled)
        if not modules:
            raise NotPossible(f"the schema {compiled.name!r} has no text that is encoded ahead")
        tree, _ = self._engine.scheduler.insides()
        kv = []
        for module in modules:
            encode(compiled, module)
            slots = computed_slots(tree, module_prefix(module, ""))
            if len(slots) < len(module):
                raise NotPossible("there is too little memory: a module was evicted at once")
            kv.append(self._kv_cache.read_slots(slots))
        _write(file, pack_schema(write_schema(schema), modules, kv, self._fingerprint))
        return compiled

    def restore(self, file: Path) -> CompiledSchema:
        """Put a file's modules into the tree; one that cannot be used changes nothing.

        Raises:
            Damaged: It is not what was written.
            NotPossible: It cannot be read, or is another model's; says in what.
            NoRoom: The modules do not fit beside what runs.
        """
        try:
            data = file.read_bytes()
        except OSError as error:
            raise NotPossible(f"{file}: cannot be read: {error.strerror}") from None
        saved = unpack_schema(data, self._fingerprint, self._limits)
        try:
            compiled = self._compile(parse_schema(saved.pml))
        except PmlError as error:
            raise Damaged(f"the saved schema is damaged: {error}") from None
        modules = all_modules(compiled)
        saved.check_modules(modules)
        require_room(self._engine, self._kv_cache, modules, "")
        for index, module in enumerate(modules):
            prefix = module_prefix(module, "")
            layers = saved.module_layers(index)
            copy_in(self._engine, self._kv_cache, prefix, layers, "module")
        return compiled


def _write(file: Path, pieces: list[memoryview]) -> None:
    """Under another name first: the file is whole or as it was."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=file.absolute().parent, prefix=".writing-")
        try:
            with os.fdopen(descriptor, "wb") as part:
                part.writelines(pieces)
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise NotPossible(f"{file}: cannot be written: {error.strerror}") from None

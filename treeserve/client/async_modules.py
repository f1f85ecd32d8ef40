"""ModuleService for asyncio."""

from collections.abc import Sequence

from treeserve.client import module_calls
from treeserve.client.async_stream import AsyncConnection
from treeserve.client.module_calls import (
    PutSchema,
    RestoredSchema,
    SavedSchema,
    SavedSchemas,
    SchemaLayout,
    SchemaSummary,
    WarmedSchema,
)


class AsyncModules:
    """Schemas of prompt modules: put, listed, shown, deleted, encoded ahead, and saved.

    Needs the permission "retain". Every method takes the call's timeout in seconds; None is the
    client's. They raise InvalidRequest, and RemoteError for anything else that goes wrong.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(
        self, pml: str, *, overwrite: bool = False, timeout_seconds: float | None = None
    ) -> PutSchema:
        """Keep a schema as long as the server runs; the same once more is the same.

        Args:
            pml: A `<schema>` without src; `treeserve.pml.write_schema` writes one.
            overwrite: Replace another schema of its name; else that is ALREADY_EXISTS.
            timeout_seconds: Of the call; None: the client's.
        """
        call = module_calls.put_schema(pml, overwrite)
        return await self._connection.unary(call, timeout_seconds)

    async def list(self, *, timeout_seconds: float | None = None) -> tuple[SchemaSummary, ...]:
        """The caller's schemas, by name."""
        return await self._connection.unary(module_calls.list_schemas(), timeout_seconds)

    async def show(self, name: str, *, timeout_seconds: float | None = None) -> SchemaLayout:
        """Which module stands where; NOT_FOUND where the caller has no such schema."""
        return await self._connection.unary(module_calls.show_schema(name), timeout_seconds)

    async def delete(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Delete a schema; prompts that run go on."""
        await self._connection.unary(module_calls.delete_schema(name), timeout_seconds)

    async def warm(
        self, name: str, modules: Sequence[str] = (), *, timeout_seconds: float | None = None
    ) -> WarmedSchema:
        """Encode modules of a schema now, so that prompts find them.

        Args:
            name: Of the schema.
            modules: Names of modules or scaffolds; none: all of them.
            timeout_seconds: Of the call; None: the client's.
        """
        call = module_calls.warm_schema(name, modules)
        return await self._connection.unary(call, timeout_seconds)

    async def save(
        self, name: str, *, overwrite: bool = False, timeout_seconds: float | None = None
    ) -> SavedSchema:
        """Write a schema with its encoded modules to the server's disk, encoding what is missing.

        Args:
            name: Of a schema that is put.
            overwrite: Replace a saved one of that name; else that is ALREADY_EXISTS.
            timeout_seconds: Of the call; None: the client's.
        """
        call = module_calls.save_schema(name, overwrite)
        return await self._connection.unary(call, timeout_seconds)

    async def restore(
        self, name: str, *, overwrite: bool = False, timeout_seconds: float | None = None
    ) -> RestoredSchema:
        """Put a saved schema, and its modules as they were encoded, after a restart too.

        Another model's file is FAILED_PRECONDITION, a damaged one DATA_LOSS: put the schema then.

        Args:
            name: Of the saved schema.
            overwrite: Replace another schema of that name; else that is ALREADY_EXISTS.
            timeout_seconds: Of the call; None: the client's.
        """
        call = module_calls.restore_schema(name, overwrite)
        return await self._connection.unary(call, timeout_seconds)

    async def list_saved(self, *, timeout_seconds: float | None = None) -> SavedSchemas:
        """The caller's saved schemas, by name."""
        return await self._connection.unary(module_calls.list_saved_schemas(), timeout_seconds)

    async def delete_saved(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Delete a saved schema; if it is put, it stays so."""
        await self._connection.unary(module_calls.delete_saved_schema(name), timeout_seconds)

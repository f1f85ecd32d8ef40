"""The schemas that every ingress keeps, so that prompts may import from them at any."""

import asyncio
import contextlib
import logging

from treeserve.errors import EngineStopped, NotFound, TreeserveError
from treeserve.ray.peers import Peers
from treeserve.schemas.store import SchemaStore

logger = logging.getLogger(__name__)


class SharedSchemas:
    """An ingress' own store is told of what was put at the others, and the others of its own.

    Engines know nothing of schemas: they get modules in tokens, with the prompts that import them.

    Args:
        store: The ingress' own.
        peers: All ingresses.
    """

    def __init__(self, store: SchemaStore, peers: Peers) -> None:
        self._store = store
        self._peers = peers
        self._pml: dict[tuple[str, str], str] = {}
        self._joining = asyncio.Lock()
        self._has_joined = False

    def texts(self) -> dict[tuple[str, str], str]:
        """PML by (tenant, name)."""
        return dict(self._pml)

    async def join(self) -> None:
        """Once, before the first call: take over what was put before this ingress was there."""
        async with self._joining:
            if self._has_joined:
                return
            self._has_joined = True
            for texts in await self._ask("schema_texts"):
                for (tenant, name), pml in texts.items():
                    if (tenant, name) not in self._pml:
                        await self.take(tenant, name, pml)

    async def tell(self, tenant: str, name: str, pml: str | None) -> None:
        """A schema was put here, or, with None, deleted: by now all ingresses know."""
        await self._ask("take_schema", tenant, name, pml)

    async def take(self, tenant: str, name: str, pml: str | None) -> None:
        """A schema was put at one of them, or deleted."""
        if pml is None:
            self._pml.pop((tenant, name), None)
            with contextlib.suppress(NotFound):
                self._store.delete(tenant, name)
            return
        self._pml[tenant, name] = pml
        try:
            await asyncio.to_thread(self._store.put, tenant, pml, overwrite=True)
        except TreeserveError as error:
            logger.error("a schema that another ingress took is refused here: %s", error)

    async def _ask(self, method: str, *arguments: object) -> list[dict[tuple[str, str], str]]:
        """An ingress that does not answer has died, and the one after it asks the others."""
        try:
            return await self._peers.ask(method, *arguments)
        except EngineStopped as error:
            logger.warning("schemas are not shared with all ingresses: %s", error)
            return []

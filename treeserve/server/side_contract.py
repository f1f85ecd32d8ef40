"""What the services beside generation need of the engine beneath them, or of several."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from treeserve.request_size import Admit

if TYPE_CHECKING:
    from treeserve.administration import Measured, Status
    from treeserve.inspection import Look, PlanView, Scope
    from treeserve.pml import CompiledSchema
    from treeserve.prefixes import schema_keeper
    from treeserve.prefixes.folder import SavedEntry
    from treeserve.prefixes.keeper import Restored, Retained, Saved
    from treeserve.scheduler.request import PromptUsage
    from treeserve.schemas.store import SchemaStore
    from treeserve.schemas.warming import Warmed
    from treeserve.types import Prompt


class Inspects(Protocol):
    """As treeserve.inspection.Inspection."""

    @property
    def num_changes(self) -> int: ...

    async def tree(self, scope: "Scope", max_age_seconds: float = 0.0) -> "Look": ...

    async def plan(self, scope: "Scope") -> "PlanView": ...


class KeepsPrefixes(Protocol):
    """As treeserve.prefixes.keeper.PrefixKeeper."""

    async def warm(self, prompt: "Prompt", namespace: str, admit: Admit) -> "PromptUsage": ...

    async def retain(
        self, prompt: "Prompt", namespace: str, weight: float, ttl_seconds: float
    ) -> "Retained": ...

    async def retained(self, namespace: str) -> "Retained": ...

    async def release(self, retained_id: int, namespace: str) -> None: ...

    async def save(
        self, name: str, prompt: "Prompt", namespace: str, *, overwrite: bool, admit: Admit
    ) -> "Saved": ...

    async def restore(self, name: str, namespace: str, admit: Admit) -> "Restored": ...

    def saved(self, namespace: str) -> "tuple[list[SavedEntry], int]": ...

    def delete_saved(self, name: str, namespace: str) -> None: ...


class WarmsSchemas(Protocol):
    """As treeserve.schemas.warming.SchemaWarmer."""

    async def warm(
        self, schema: "CompiledSchema", names: Sequence[str], namespace: str, admit: Admit
    ) -> "Warmed": ...


class SavesSchemas(Protocol):
    """As treeserve.prefixes.schema_keeper.SchemaKeeper."""

    async def save(
        self, name: str, namespace: str, *, overwrite: bool, admit: Admit
    ) -> "schema_keeper.Saved": ...

    async def restore(
        self, name: str, namespace: str, *, overwrite: bool, admit: Admit
    ) -> "schema_keeper.Restored": ...

    def saved(self, namespace: str) -> "tuple[list[SavedEntry], int]": ...

    def delete_saved(self, name: str, namespace: str) -> None: ...


class KeepsSchemas(Protocol):
    """The part of a Backstage that ModuleService answers from."""

    @property
    def schemas(self) -> "SchemaStore": ...

    @property
    def warmer(self) -> WarmsSchemas: ...

    @property
    def schema_keeper(self) -> SavesSchemas: ...


TellOthers: TypeAlias = Callable[[str, str, str | None], Awaitable[None]]
"""(tenant, name, PML): a schema was put, or, with None, deleted."""


class Administers(Protocol):
    """As treeserve.administration.Administration."""

    async def clear_cache(self) -> int: ...

    async def calibrate(self, seconds: float) -> "Measured": ...

    async def status(self) -> "Status": ...


class Host(Protocol):
    """What holds the service: one process, or several."""

    async def drain(self) -> int:
        """Refuse new calls, wait for running ones within the grace; how many still run then."""

    async def set_log_level(self, level: int) -> int:
        """What is logged from now on; the level before."""

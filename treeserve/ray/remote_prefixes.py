"""Prefixes and modules kept on the engines, each on the one where the router has it."""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NoReturn

from treeserve.errors import NotPossible
from treeserve.pml import CompiledSchema
from treeserve.prefixes.folder import PrefixFolder, SavedEntry
from treeserve.prefixes.keeper import Restored, Retained, Saved, prefix_request, prefix_size
from treeserve.prompt import Prompter
from treeserve.ray.calls import Work
from treeserve.ray.engines import Engines, routed_by, routed_by_modules
from treeserve.request_size import Admit, RequestSize
from treeserve.scheduler.request import PromptUsage
from treeserve.schemas.warming import Warmed, chosen_modules
from treeserve.types import Prompt, RequestOptions

_NOT_SAVED = "schemas are not saved on Ray Serve: put them, and warm them, when it has started"


class RemoteKeeper:
    """As `treeserve.prefixes.keeper.PrefixKeeper`, over engines behind their router.

    A prefix is computed, retained and saved where most of it is; prompts that begin with it then go
    there.

    Args:
        engines: Behind their router.
        prompter: Of the same model.
        folder: That all nodes share; None: nothing can be saved or restored.
    """

    def __init__(self, engines: Engines, prompter: Prompter, folder: PrefixFolder | None) -> None:
        self._engines = engines
        self._prompter = prompter
        self._folder = folder

    async def warm(self, prompt: Prompt, namespace: str, admit: Admit = nullcontext) -> PromptUsage:
        """Raises as PrefixKeeper.warm."""
        token_ids = await self._token_ids(prompt, namespace)
        with admit(prefix_size(len(token_ids))):
            usage: PromptUsage = await self._do(
                Work("warm", (token_ids, namespace)), token_ids, namespace
            )
        return usage

    async def retain(
        self, prompt: Prompt, namespace: str, weight: float, ttl_seconds: float
    ) -> Retained:
        """Raises as PrefixKeeper.retain; what is left is the budget of the engine that has it."""
        token_ids = await self._token_ids(prompt, namespace)
        work = Work("retain", (token_ids, namespace, weight, ttl_seconds))
        retained: Retained = await self._do(work, token_ids, namespace)
        return retained

    async def retained(self, namespace: str) -> Retained:
        """On all engines, and what is left on all together."""
        told = [entry.value for entry in await self._engines.ask("retained", namespace)]
        prefixes = tuple(held for retained in told for held in retained.prefixes)
        return Retained(prefixes, sum(retained.num_tokens_left for retained in told))

    async def release(self, retained_id: int, namespace: str) -> None:
        """Raises as PrefixKeeper.release."""
        await self._engines.ask("release", retained_id, namespace)

    async def save(
        self,
        name: str,
        prompt: Prompt,
        namespace: str,
        *,
        overwrite: bool,
        admit: Admit = nullcontext,
    ) -> Saved:
        """Raises as PrefixKeeper.save."""
        self._require_folder().check_name(name)
        token_ids = await self._token_ids(prompt, namespace)
        with admit(prefix_size(len(token_ids))):
            work = Work("save", (name, token_ids, namespace, overwrite))
            saved: Saved = await self._do(work, token_ids, namespace)
        return saved

    async def restore(self, name: str, namespace: str, admit: Admit = nullcontext) -> Restored:
        """Raises as PrefixKeeper.restore."""
        self._require_folder().check_name(name)
        options = _options(namespace)
        routed = routed_by((), options)
        # How long it is only its file says.
        with admit(RequestSize(())):
            work = Work("restore", (name, namespace))
            restored: Restored = await self._engines.do(work, options, routed)
        self._engines.learn(routed, restored.token_ids)
        return restored

    def saved(self, namespace: str) -> tuple[list[SavedEntry], int]:
        """Raises as PrefixKeeper.saved."""
        folder = self._require_folder()
        return folder.entries(namespace), folder.num_bytes_left()

    def delete_saved(self, name: str, namespace: str) -> None:
        """Raises as PrefixKeeper.delete_saved."""
        self._require_folder().delete(namespace, name)

    def _require_folder(self) -> PrefixFolder:
        if self._folder is None:
            raise NotPossible(
                "this application saves no prefixes: give it replica.prefix_folder, a folder that "
                "all nodes share"
            )
        return self._folder

    async def _token_ids(self, prompt: Prompt, namespace: str) -> tuple[int, ...]:
        request = await asyncio.to_thread(prefix_request, self._prompter, prompt, namespace)
        return request.prompt_token_ids

    async def _do(self, work: Work, token_ids: Sequence[int], namespace: str) -> Any:
        options = _options(namespace)
        return await self._engines.do(work, options, routed_by(token_ids, options))


class RemoteWarmer:
    """As `treeserve.schemas.warming.SchemaWarmer`, on the engine that prompts of them go to.

    Args:
        engines: Behind their router.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def warm(
        self,
        schema: CompiledSchema,
        names: Sequence[str],
        namespace: str,
        admit: Admit = nullcontext,
    ) -> Warmed:
        """Raises as SchemaWarmer.warm."""
        modules = chosen_modules(schema, names)
        if not modules:
            return Warmed(0, 0)
        options = _options(namespace)
        with admit(prefix_size(sum(len(module) for module in modules))):
            warmed: Warmed = await self._engines.do(
                Work("encode", (modules, schema.base_position, namespace)),
                options,
                routed_by_modules(modules, (), options),
            )
        return warmed


class NoSavedSchemas:
    """As `treeserve.prefixes.schema_keeper.SchemaKeeper`, where no schema is saved."""

    async def save(
        self, name: str, namespace: str, *, overwrite: bool, admit: Admit = nullcontext
    ) -> NoReturn:
        raise NotPossible(_NOT_SAVED)

    async def restore(
        self, name: str, namespace: str, *, overwrite: bool, admit: Admit = nullcontext
    ) -> NoReturn:
        raise NotPossible(_NOT_SAVED)

    def saved(self, namespace: str) -> NoReturn:
        raise NotPossible(_NOT_SAVED)

    def delete_saved(self, name: str, namespace: str) -> NoReturn:
        raise NotPossible(_NOT_SAVED)


def _options(namespace: str) -> RequestOptions:
    """Named, so that the router can be told later what is held where it was sent."""
    options = RequestOptions(namespace=namespace, tenant=namespace)
    return replace(options, request_id=uuid.uuid4().hex)

"""Encodes a schema's modules ahead, for prompts that come later."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from treeserve.engine_messages import EngineRequest
from treeserve.errors import InvalidRequest
from treeserve.loop import EngineLoop
from treeserve.pml import CompiledSchema
from treeserve.prompt import EncodedPrompt, Prompter
from treeserve.request_size import Admit, RequestSize
from treeserve.scheduler.modules import Module, ModuleSet
from treeserve.types import RequestOptions, SamplingParams

_ONE_DRAW = SamplingParams(temperature=0.0, max_tokens=1)


@dataclass(frozen=True, slots=True)
class Warmed:
    """num_tokens = encoded + cached."""

    num_tokens: int
    num_encoded_tokens: int
    """While the call waited, for it or for others."""

    @property
    def num_cached_tokens(self) -> int:
        return self.num_tokens - self.num_encoded_tokens


class SchemaWarmer:
    """Belongs to one event loop.

    Args:
        loop: Started.
        prompter: Of the same model.
    """

    def __init__(self, loop: EngineLoop, prompter: Prompter) -> None:
        self._loop = loop
        self._prompter = prompter

    async def warm(
        self,
        schema: CompiledSchema,
        names: Sequence[str],
        namespace: str,
        admit: Admit = nullcontext,
    ) -> Warmed:
        """Encode modules that are not encoded.

        Args:
            schema: Whose.
            names: Of modules or scaffolds; none: all, and the text of the schema itself.
            namespace: In which prompts will find them.
            admit: Decides whether it may run.

        Raises:
            InvalidRequest: Names an unknown one.
            EngineStopped: The engine has stopped.
        """
        chosen = chosen_modules(schema, names)
        return await self.encode(chosen, schema.base_position, namespace, admit)

    async def encode(
        self,
        modules: Sequence[Module],
        base_position: int,
        namespace: str,
        admit: Admit = nullcontext,
    ) -> Warmed:
        """As warm(), for modules of one schema, whose own text begins at a position."""
        if not modules:
            return Warmed(0, 0)
        prompts = await asyncio.to_thread(
            encoding_prompts, self._prompter, modules, base_position, namespace
        )
        num_tokens = sum(map(len, modules))
        size = RequestSize((((), num_tokens),), prompts[0].request.request_id)
        with admit(size):
            # One after the other: each needs its own room alone.
            encoded = [await self._run(prompt.request) for prompt in prompts]
        return Warmed(num_tokens, sum(encoded))

    async def _run(self, request: EngineRequest) -> int:
        """The number of tokens that were encoded meanwhile."""
        usage = await self._loop.run_to_end(request, "a module could not be encoded")
        return usage.encoded_tokens


def encoding_prompts(
    prompter: Prompter, modules: Sequence[Module], base_position: int, namespace: str
) -> list[EncodedPrompt]:
    """A prompt for each module, with one draw after it, of which nothing is kept but a token."""
    options = RequestOptions(namespace=namespace, tenant=namespace)
    nothing = np.empty(0, dtype=np.int32)
    encoded = []
    for module in modules:
        own = (int(module.token_ids[-1]),)
        imported = ModuleSet((module,), nothing, base_position)
        prompt = prompter.encode(own, _ONE_DRAW, options=options, modules=imported)
        encoded.append(replace(prompt, request=replace(prompt.request, rules=None)))
    return encoded


def all_modules(schema: CompiledSchema) -> list[Module]:
    """What a schema may have encoded, each once: scaffolds, modules, and its own text."""
    return chosen_modules(schema, ())


def chosen_modules(schema: CompiledSchema, names: Sequence[str]) -> list[Module]:
    """Those of the names, each once; modules without text of their own need nothing."""
    scaffolds = {scaffold.name: scaffold.module for scaffold in schema.scaffolds}
    by_name: dict[str, Module | None] = {**scaffolds, **schema.modules}
    known = _all_names(schema)
    for index, name in enumerate(names):
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise InvalidRequest(f"modules[{index}]", f"{name!r} is unknown; there are: {listed}")
    wanted = dict.fromkeys(names) or dict.fromkeys(by_name)
    found = {m.key: m for name in wanted if (m := by_name.get(name)) is not None}
    return list(found.values())


def _all_names(schema: CompiledSchema) -> set[str]:
    return {*schema.modules, *(scaffold.name for scaffold in schema.scaffolds)} - {""}

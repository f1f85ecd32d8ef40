"""What the server needs of the text service beneath it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

from treeserve.types import (
    Caller,
    Delta,
    Finished,
    Prompt,
    PromptTree,
    RequestSize,
    SamplingParams,
)

EventStream: TypeAlias = AsyncGenerator[Delta | Finished, None]
"""Deltas of all samples as they come, each prompt's Finished after its last delta.

Closing it aborts what still runs.
"""

Admit: TypeAlias = Callable[[RequestSize], AbstractContextManager[object]]
"""Asked once, before anything reaches the engine; entered while the stream runs. It may raise."""


class TextService(Protocol):
    """Text in, text out; InvalidRequest and EngineStopped come out of the first iteration."""

    def generate(
        self, prompt: Prompt, params: SamplingParams, *, caller: Caller, admit: Admit
    ) -> EventStream: ...

    def generate_tree(self, tree: PromptTree, *, caller: Caller, admit: Admit) -> EventStream: ...

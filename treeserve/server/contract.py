"""What the server needs of the text service beneath it."""

from collections.abc import AsyncGenerator
from typing import Protocol, TypeAlias

from treeserve.types import Delta, Finished, Prompt, PromptTree, SamplingParams

EventStream: TypeAlias = AsyncGenerator[Delta | Finished, None]
"""Deltas of all samples as they come, each prompt's Finished after its last delta.

Closing it aborts what still runs.
"""


class TextService(Protocol):
    """Text in, text out; InvalidRequest and EngineStopped come out of the first iteration."""

    def generate(self, prompt: Prompt, params: SamplingParams) -> EventStream: ...

    def generate_tree(self, tree: PromptTree) -> EventStream: ...

"""What the server needs of the text service beneath it."""

from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from treeserve.request_size import Admit
from treeserve.scheduler.modules import ModuleSet
from treeserve.types import (
    Chat,
    OutputOptions,
    Prompt,
    PromptTree,
    RequestOptions,
    SampleName,
    SamplingParams,
    StreamEvent,
    TokenCounts,
)

if TYPE_CHECKING:
    from treeserve.schemas.importing import Importing

EventStream: TypeAlias = AsyncGenerator[StreamEvent, None]
"""Each prompt's Started, then deltas of all samples as they come, each prompt's Finished after its
last delta, and a tree's TreeFinished last.

Closing it aborts what still runs.
"""


class ServedModel(NamedTuple):
    """What callers are told of the model."""

    name: str = "treeserve"
    max_positions: int = 2048
    """Prompt and completion together have at most this many tokens."""


class TextService(Protocol):
    """Text in, text out; what is wrong with a request comes out at once or in the first iteration.

    abort() is called in the event loop that reads the streams, everything else in any thread.
    """

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        output: OutputOptions | None,
        options: RequestOptions,
        admit: Admit,
        modules: ModuleSet | None = None,
    ) -> EventStream: ...

    def generate_tree(
        self,
        tree: PromptTree,
        *,
        options: RequestOptions,
        admit: Admit,
        importing: "Importing | None" = None,
    ) -> EventStream: ...

    def fork(
        self,
        parent: SampleName,
        num_tokens: int | None,
        params: SamplingParams | None,
        *,
        n: int,
        output: OutputOptions | None,
        options: RequestOptions,
        admit: Admit,
    ) -> EventStream: ...

    def abort(
        self,
        request_id: str,
        path: tuple[int, ...],
        sample_index: int | None,
        *,
        namespace: str,
    ) -> int | Awaitable[int]: ...

    def tokenize(self, prompt: str | Chat, *, special_tokens: bool) -> tuple[int, ...]: ...

    def detokenize(self, token_ids: Sequence[int], *, special_tokens: bool) -> str: ...

    def count_tokens(self, prompt: Prompt | PromptTree) -> TokenCounts: ...

    def count_importing(
        self, importing: "Importing", tree: PromptTree | None = None
    ) -> TokenCounts: ...

"""What one call may come to, for those who decide whether it may come in."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class RequestSize:
    """What the prompts of one call may come to."""

    tokens_by_path: tuple[tuple[tuple[int, ...], int], ...]
    """Of every prompt, its path in the tree, and its tokens and n × max_tokens together."""
    first_request_id: str = ""
    """The engine's, of the first prompt."""

    @property
    def num_requests(self) -> int:
        return len(self.tokens_by_path)

    @property
    def num_tokens(self) -> int:
        return sum(num_tokens for _, num_tokens in self.tokens_by_path)


Admit: TypeAlias = Callable[[RequestSize], AbstractContextManager[object]]
"""Asked once, in the event loop, before anything of a call reaches the engine; entered while it
runs, and may refuse it by raising.
"""

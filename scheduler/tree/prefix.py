"""The prefix: a run of tokens from position 0, and whose they are."""

from collections.abc import Hashable
from dataclasses import dataclass

from treeserve.scheduler.modules import Module, ModuleSet
from treeserve.scheduler.step import Int32Array

PUBLIC_NAMESPACE = "*"
"""What every tenant may share; no tenant's own namespace has this name."""


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """The first `num_public` tokens are public; the rest, beneath them, are the namespace's own.

    Raises:
        ValueError: The namespace is the public one, more tokens are public than there are, or any
            after modules.
    """

    tokens: Int32Array
    """[num_tokens]"""
    namespace: str = ""
    num_public: int = 0
    layout: Module | ModuleSet | None = None
    """A module's own tokens, or those of a prompt that imports modules; None: of a plain prompt.
    Tokens of different layouts never meet."""

    def __post_init__(self) -> None:
        if self.namespace == PUBLIC_NAMESPACE:
            raise ValueError(f"{PUBLIC_NAMESPACE!r} is nobody's own namespace: use num_public")
        if not 0 <= self.num_public <= len(self.tokens):
            raise ValueError(f"{self.num_public} of {len(self.tokens)} tokens cannot be public")
        if self.num_public and self.layout is not None:
            raise ValueError("what imports modules cannot be public")

    @property
    def root_key(self) -> Hashable:
        """What tells the root that it hangs beneath from the namespace's others."""
        return None if self.layout is None else self.layout.root_key

    def __len__(self) -> int:
        return len(self.tokens)

    def zone(self, position: int) -> tuple[str, int]:
        """The namespace of the token at `position`, and where the run of its namespace ends."""
        if position < self.num_public:
            return PUBLIC_NAMESPACE, self.num_public
        return self.namespace, len(self.tokens)

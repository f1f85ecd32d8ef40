"""Prompt modules as plain data: tokens at fixed positions, and the sets that a prompt imports."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from treeserve.errors import InvalidRequest
from treeserve.scheduler.step import Int32Array

MODULE_CHUNK_TOKENS = 256
"""Rows of a step that encodes a module, aligned to the module's start: the same shapes each time,
so that a module that is encoded twice has the same bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """A run of tokens that is encoded alone, each token seeing those before it in the module."""

    key: str
    """A content hash: equal keys, equal tokens at equal positions."""
    token_ids: Int32Array
    """[num_tokens], at least one"""
    positions: Int32Array
    """[num_tokens] where the model takes them to stand; ascending, from 0, gaps allowed"""
    identity: str = field(init=False)
    """The key and a hash of what it stands for: a false key never leads to other tokens' KV."""

    def __post_init__(self) -> None:
        digest = blake2b(self.token_ids.tobytes(), digest_size=16)
        digest.update(self.positions.tobytes())
        object.__setattr__(self, "identity", f"{self.key}:{digest.hexdigest()}")

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def root_key(self) -> Hashable:
        """Nobody else's tokens hang beneath the root of this key."""
        return ("module", self.identity)

    def model_positions(self, start: int, end: int) -> Int32Array:
        """[end - start] of the module's tokens `[start, end)`."""
        return self.positions[start:end]


@dataclass(frozen=True, slots=True, eq=False)
class ModuleSet:
    """The modules that a prompt imports, and where its own tokens stand after them.

    Own tokens see every imported module in whole and the own tokens before them.
    """

    modules: tuple[Module, ...]
    """At least one, of different keys."""
    argument_positions: Int32Array
    """[k] where the first k own tokens stand"""
    base_position: int
    """Own token k + i stands at `base_position + i`, and so do the tokens that are drawn."""
    key: tuple[Hashable, ...] = field(init=False)
    """Prompts of equal keys share a radix tree of own tokens."""

    def __post_init__(self) -> None:
        names = tuple(module.identity for module in self.modules)
        key = (names, tuple(self.argument_positions.tolist()), self.base_position)
        object.__setattr__(self, "key", key)

    @property
    def root_key(self) -> Hashable:
        return ("modules", self.key)

    @property
    def num_tokens(self) -> int:
        """In all modules together."""
        return sum(len(module) for module in self.modules)

    @property
    def max_position(self) -> int:
        """The greatest position of any token of a module or argument."""
        ends: list[int] = [int(module.positions[-1]) for module in self.modules]
        return max([*ends, *map(int, self.argument_positions)])

    def model_positions(self, start: int, end: int) -> Int32Array:
        """[end - start] of the own tokens `[start, end)`."""
        num_arguments = len(self.argument_positions)
        first = self.base_position + max(start, num_arguments) - num_arguments
        num_after = max(0, end - max(start, num_arguments))
        after = np.arange(first, first + num_after, dtype=np.int32)
        return np.concatenate([self.argument_positions[start:end], after])

    @property
    def shift(self) -> int:
        """From the place of an own token after the arguments to its position."""
        return self.base_position - len(self.argument_positions)


def check_module_set(modules: ModuleSet, num_own_tokens: int) -> None:
    """Raises InvalidRequest unless it is what a prompt with so many own tokens can import."""
    if not modules.modules:
        raise InvalidRequest("modules", "must be at least one; send a plain prompt for none")
    seen: set[str] = set()
    for index, module in enumerate(modules.modules):
        _check_module(module, f"modules[{index}]")
        if module.key in seen:
            raise InvalidRequest(f"modules[{index}]", "is imported twice; import it once")
        seen.add(module.key)
    positions = modules.argument_positions
    _check_array(positions, "modules.argument_positions")
    if len(positions) > num_own_tokens:
        raise InvalidRequest(
            "modules.argument_positions",
            f"are {len(positions)}, and the prompt has only {num_own_tokens} tokens of its own",
        )
    if (positions < 0).any():
        raise InvalidRequest("modules.argument_positions", "must not be negative")
    if modules.base_position < 0:
        raise InvalidRequest(
            "modules.base_position", f"must not be negative, got {modules.base_position}"
        )


def _check_module(module: Module, name: str) -> None:
    _check_array(module.token_ids, f"{name}.token_ids")
    _check_array(module.positions, f"{name}.positions")
    if len(module) < 1:
        raise InvalidRequest(name, "must have at least one token")
    if len(module.positions) != len(module):
        raise InvalidRequest(
            f"{name}.positions",
            f"must be one for each of the {len(module)} tokens, got {len(module.positions)}",
        )
    if module.positions[0] < 0 or (np.diff(module.positions) <= 0).any():
        raise InvalidRequest(f"{name}.positions", "must ascend from 0 or more")


def _check_array(array: Int32Array, name: str) -> None:
    if array.dtype != np.int32 or array.ndim != 1:
        raise InvalidRequest(name, f"must be int32 of one dimension, got {array.dtype}")

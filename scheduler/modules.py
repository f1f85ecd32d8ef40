"""Prompt modules as the scheduler takes them: tokens at positions of their own, encoded alone."""

from dataclasses import dataclass

from treeserve.scheduler.step import Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """Tokens that are encoded without any others, at positions that may have gaps."""

    key: str
    """Content hash: equal keys have equal tokens and positions, for one model and tokenizer."""
    token_ids: Int32Array
    """[num_tokens], at least one"""
    positions: Int32Array
    """[num_tokens], strictly increasing, from 0 on"""


@dataclass(frozen=True, slots=True, eq=False)
class ModuleSet:
    """The modules that a prompt imports, and where the tokens of its own stand."""

    modules: tuple[Module, ...]
    """With distinct keys, in the order of their schema; at least one."""
    argument_positions: Int32Array
    """[k]: positions of the prompt's first k own tokens."""
    base_position: int
    """Own token k + i stands at base_position + i."""

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[int, ...], int]:
        """Prompts with equal keys share a radix tree of their own tokens."""
        names = tuple(module.key for module in self.modules)
        return names, tuple(self.argument_positions.tolist()), self.base_position

"""The trees that attention is measured on: their notation, and a sample under each leaf."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from treeserve.config import SchedulerConfig, SharingMode
from treeserve.errors import ConfigError
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.request import ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import Int32Array, Step

TREES = (
    "1,2,64 | 8,256,32",
    "1,4,256 | 8,256,32",
    "1,4,8,256 | 8,256,256,32",
    "1,256 | 256,32",
    "1,1024 | 2048,32",
    "1,16,64 | 1024,256,32",
    "1,4,16,512 | 1024,256,128,32",
    "1,4,16,64,256,1024 | 256,8,256,64,32,256",
    "1,10 | 4000,400",
    "1,2,4,8,16,32,64,128,256,512 | 16,16,16,16,16,16,16,16,16,16",
    "1,1,1,1 | 1024,256,1024,32",
    "1,1024 | 4096,1",
    "comb 32 | 128,32",
    "256 | 512",
    "1 | 4096",
    "1,16 | 64,512",
    "1,256 | 64,512",
)
"""FastTree's ten (MLSys 2025), a chain, a star, a comb, nothing shared, batch 1, and 64-token
prefixes."""
_PAGE_SIZE = 16
_ROOM = 64
"""Tokens of the pool, for each leaf, beside its path."""
_COMB = re.compile(r"comb\s+(\d+)\s*\|\s*(\d+)\s*,\s*(\d+)")


class Tree(Protocol):
    """What is measured on: the token ids of every leaf's path."""

    def prompts(self) -> list[Int32Array]: ...


@dataclass(frozen=True, slots=True)
class Levels:
    """A tree whose nodes of one level are alike."""

    nodes: Sequence[int]
    tokens: Sequence[int]
    """Of each node of the level."""

    def prompts(self) -> list[Int32Array]:
        """A node's first token tells it from its siblings."""
        num_leaves = self.nodes[-1]
        prompts = []
        for leaf in range(num_leaves):
            parts = []
            for count, length in zip(self.nodes, self.tokens, strict=True):
                part = np.ones(length, dtype=np.int32)
                part[0] = 2 + leaf * count // num_leaves
                parts.append(part)
            prompts.append(np.concatenate(parts))
        return prompts


@dataclass(frozen=True, slots=True)
class Comb:
    """A trunk that each leaf leaves one node later than the last: as unbalanced as a tree can be.

    Leaf i has i + 1 nodes of the trunk above it.
    """

    num_leaves: int
    trunk_tokens: int
    """Of each node of the trunk."""
    leaf_tokens: int

    def prompts(self) -> list[Int32Array]:
        prompts = []
        for leaf in range(self.num_leaves):
            prompt = np.ones((leaf + 1) * self.trunk_tokens + self.leaf_tokens, dtype=np.int32)
            prompt[(leaf + 1) * self.trunk_tokens] = 2
            prompts.append(prompt)
        return prompts


def parse_tree(text: str) -> Tree:
    """The tree that a notation stands for: "1,4,64 | 256,32,8" or "comb 32 | 128,16".

    The first is nodes per level | tokens of each node of the level; the second leaves | tokens of
    each node of the trunk, tokens of each leaf.

    Raises:
        ConfigError: It is of neither form.
    """
    comb = _COMB.fullmatch(text.strip())
    if comb:
        numbers = [int(number) for number in comb.groups()]
        if min(numbers) < 1:
            raise ConfigError(f"--tree: {text!r} needs numbers of at least 1")
        return Comb(*numbers)
    try:
        nodes, tokens = ([int(x) for x in part.split(",")] for part in text.split("|"))
    except ValueError as error:
        raise ConfigError(
            f"--tree: {text!r} is neither 'nodes,… | tokens,…' nor 'comb leaves | tokens,tokens'"
        ) from error
    if len(nodes) != len(tokens) or min(nodes + tokens) < 1 or nodes != sorted(nodes):
        raise ConfigError(f"--tree: {text!r} needs as many levels on both sides, widening downward")
    return Levels(tuple(nodes), tuple(tokens))


@dataclass(frozen=True, slots=True, eq=False)
class PlannedStep:
    """A step in which every sample decodes, and what planning it took."""

    step: Step
    plan_seconds: float
    """Made anew."""
    carried_plan_seconds: float
    """The next step's, in which every tail is one token longer."""


def decode_step(tree: str, sharing: SharingMode, cost_model: CostModel | None = None) -> Step:
    """The step in which a sample under every leaf of the tree decodes, as it is scheduled."""
    return plan_decode(tree, sharing, cost_model).step


def plan_decode(
    tree: str, sharing: SharingMode, cost_model: CostModel | None = None
) -> PlannedStep:
    """The same step, and what planning it took."""
    prompts = parse_tree(tree).prompts()
    num_tokens = sum(len(prompt) + _ROOM for prompt in prompts)
    config = SchedulerConfig(
        num_pages=num_tokens // _PAGE_SIZE + 1,
        page_size=_PAGE_SIZE,
        token_budget=1 << 30,
        max_running=len(prompts),
        kept_logits=len(prompts),
        sharing=sharing,
    )
    scheduler = Scheduler(config, cost_model)
    for index, prompt in enumerate(prompts):
        scheduler.add(ScheduledRequest(str(index), prompt, num_samples=1, max_tokens=8))
    step = _next_step(scheduler, None)
    while step.num_prompt_rows:
        step = _next_step(scheduler, step)
    # The slots of a plan are good until the next one is made.
    kept = replace(step, plan=replace(step.plan, item_slots=step.plan.item_slots.copy()))
    anew = scheduler.counts().tally.plan_seconds
    _next_step(scheduler, step)
    return PlannedStep(kept, anew, scheduler.counts().tally.plan_seconds)


def _next_step(scheduler: Scheduler, last: Step | None) -> Step:
    if last is not None:
        scheduler.complete(last, np.zeros(len(last.draws), dtype=np.int32))
    step = scheduler.schedule()
    assert step is not None
    return step


def short_tree(tree: str, width: int) -> str:
    """The notation with the middle of long lists left out, if it is too long."""
    if len(tree) <= width:
        return tree
    return " | ".join(_short_list(part.strip().split(",")) for part in tree.split("|"))


def _short_list(numbers: list[Any]) -> str:
    if len(numbers) <= 3:
        return ",".join(numbers)
    return f"{numbers[0]},{numbers[1]},…,{numbers[-1]}"

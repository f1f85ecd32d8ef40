"""The calls that a cluster is measured with: many system prompts, contest trees, and agents."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from treeserve.contest.problem import Problem, read_problems, render_example, render_question
from treeserve.embedded import FEW_SHOT_FILE, PROBLEMS_FILE
from treeserve.types import PromptTree, SamplingParams

_EXAMPLES = 8
_PROMPTS = 6
_CONTESTS = 4
_TOOLS = 4
_TURNS = 3


@dataclass(frozen=True, slots=True)
class Chain:
    """Calls one after the other, each with the text of all that came before it, and its answer."""

    steps: tuple[PromptTree, ...]


def make_chains(name: str, num_chains: int) -> list[Chain]:
    """Of the workload; equal names and numbers give equal chains.

    Args:
        name: A key of WORKLOADS.
        num_chains: To be sent at once as far as the closed loop allows.
    """
    draw = random.Random(name)
    make = {"prompts": _chat, "contest": _contest, "agents": _agent}[name]
    return [make(draw, index) for index in range(num_chains)]


WORKLOADS = {
    "prompts": f"chats under {_PROMPTS} system prompts",
    "contest": f"trees: {_CONTESTS} few-shot prompts, two problems, three samples each",
    "agents": f"{_TURNS} turns each, under {_TOOLS} sets of tools",
}


def _chat(draw: random.Random, index: int) -> Chain:
    text = f"{_trunk('prompts', draw.randrange(_PROMPTS))}Chat {index}.\n{_question(draw)}"
    return Chain((PromptTree(text, n=1, params=_params(draw)),))


def _contest(draw: random.Random, index: int) -> Chain:
    branches = tuple(PromptTree(f"Round {index}.\n{_question(draw)}", n=3) for _ in range(2))
    trunk = _trunk("contest", draw.randrange(_CONTESTS))
    return Chain((PromptTree(trunk, branches, params=_params(draw)),))


def _agent(draw: random.Random, index: int) -> Chain:
    trunk = _trunk("agents", draw.randrange(_TOOLS))
    texts = [f"{trunk}Agent {index}.\n", *(f"\nStep {turn}.\n" for turn in range(1, _TURNS))]
    return Chain(
        tuple(PromptTree(text + _question(draw), n=1, params=_params(draw)) for text in texts)
    )


def _params(draw: random.Random) -> SamplingParams:
    seed, max_tokens = draw.getrandbits(32), draw.randint(16, 48)
    return SamplingParams(seed=seed, max_tokens=max_tokens, ignore_eos=True)


def _question(draw: random.Random) -> str:
    return render_question(draw.choice(_problems()))


@cache
def _problems() -> Sequence[Problem]:
    return read_problems(PROBLEMS_FILE)


@cache
def _trunk(kind: str, index: int) -> str:
    solved = [*read_problems(FEW_SHOT_FILE), *_problems()]
    examples = random.Random(f"{kind} {index}").sample(solved, _EXAMPLES)
    return f"Set {index} of {kind}.\n\n" + "".join(map(render_example, examples))

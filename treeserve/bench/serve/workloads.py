"""The calls that the service is measured with: three kinds of shared text, and none."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from treeserve.contest.problem import Problem, read_problems, render_example, render_question
from treeserve.embedded import FEW_SHOT_FILE, PROBLEMS_FILE
from treeserve.errors import ConfigError
from treeserve.types import PromptTree, SamplingParams

_SYSTEM_EXAMPLES = 8
_CONTEST_EXAMPLES = 16
_CONTEST_PROBLEMS = 2
_CONTEST_SAMPLES = 4
_DOCUMENTS = 4
_DOCUMENT_EXAMPLES = 14
_SYSTEM_TEXT = "You write short programs that read numbers or words and print one answer.\n\n"


@dataclass(frozen=True, slots=True)
class Call:
    """One call: Generate for a tree without branches, else GenerateTree.

    All samples draw `max_tokens`, whatever the model would say, so that the tokens are known.
    """

    tree: PromptTree
    num_samples: int
    max_tokens: int

    @property
    def num_drawn_tokens(self) -> int:
        return self.num_samples * self.max_tokens


@dataclass(frozen=True, slots=True)
class Workload:
    """As many calls as are asked for; equal seeds and indices give equal calls."""

    name: str
    title: str
    make: "Callable[[random.Random, int], Call]"

    def call(self, seed: int, index: int) -> Call:
        """The call at `index`, from 0."""
        return self.make(random.Random(f"{self.name} {seed} {index}"), index)


def read_workloads(text: str) -> list[Workload]:
    """Workloads by name, separated by commas.

    Raises:
        ConfigError: One of them is unknown; says which there are.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in WORKLOADS:
            known = ", ".join(WORKLOADS)
            raise ConfigError(f"--workload: {name!r} is not one of {known}")
    return [WORKLOADS[name] for name in dict.fromkeys(names)]


def _chat(draw: random.Random, index: int) -> Call:
    problem = draw.choice(_problems())
    return _single(draw, f"{_system_prompt()}Chat {index}.\n{render_question(problem)}", 32, 96)


def _unshared(draw: random.Random, index: int) -> Call:
    examples = "".join(map(render_example, draw.sample(_solved(), _SYSTEM_EXAMPLES)))
    problem = draw.choice(_problems())
    start = f"{draw.getrandbits(64):x} {_SYSTEM_TEXT}"
    return _single(draw, f"{start}{examples}Chat {index}.\n{render_question(problem)}", 32, 96)


def _documents(draw: random.Random, index: int) -> Call:
    document = draw.randrange(_DOCUMENTS)
    problem = draw.choice(_problems())
    question = f"Question {index} about document {document}.\n{render_question(problem)}"
    return _single(draw, _document(document) + question, 16, 48)


def _contest(draw: random.Random, index: int) -> Call:
    max_tokens = draw.randint(32, 64)
    branches = tuple(
        PromptTree(f"Round {index}.\n{render_question(problem)}", n=_CONTEST_SAMPLES)
        for problem in draw.sample(_problems(), _CONTEST_PROBLEMS)
    )
    tree = PromptTree(_contest_prompt(), branches, params=_params(draw, max_tokens))
    return Call(tree, _CONTEST_PROBLEMS * _CONTEST_SAMPLES, max_tokens)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("chat", "one system prompt under every chat", _chat),
        Workload(
            "contest", "a tree: one few-shot prompt, two problems, four samples each", _contest
        ),
        Workload("documents", "questions about four documents", _documents),
        Workload("unshared", "as long as chat, nothing in common", _unshared),
    )
}


def _single(draw: random.Random, text: str, least: int, most: int) -> Call:
    max_tokens = draw.randint(least, most)
    return Call(PromptTree(text, n=1, params=_params(draw, max_tokens)), 1, max_tokens)


def _params(draw: random.Random, max_tokens: int) -> SamplingParams:
    return SamplingParams(seed=draw.getrandbits(32), max_tokens=max_tokens, ignore_eos=True)


@cache
def _problems() -> Sequence[Problem]:
    return read_problems(PROBLEMS_FILE)


@cache
def _solved() -> Sequence[Problem]:
    return [*read_problems(FEW_SHOT_FILE), *_problems()]


@cache
def _system_prompt() -> str:
    return _SYSTEM_TEXT + "".join(map(render_example, _solved()[:_SYSTEM_EXAMPLES]))


@cache
def _contest_prompt() -> str:
    return "".join(map(render_example, _solved()[:_CONTEST_EXAMPLES]))


@cache
def _document(index: int) -> str:
    examples = random.Random(index).sample(_solved(), _DOCUMENT_EXAMPLES)
    return f"Document {index}.\n\n" + "".join(map(render_example, examples))

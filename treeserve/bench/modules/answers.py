"""How far answers after modules are from exact ones, with and without scaffolds."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from treeserve.contest.problem import (
    Problem,
    read_problems,
    render_answer,
    render_example,
    render_question,
)
from treeserve.embedded import MODEL_FOLDER
from treeserve.llm import LLM
from treeserve.pml import (
    CompiledSchema,
    ImportTag,
    PromptTag,
    SchemaBuilder,
    Text,
    compile_schema,
)
from treeserve.scheduler.modules import ModuleSet
from treeserve.types import SamplingParams

EXACT, APART, SCAFFOLD, NONE = "exact", "modules", "scaffold", "no examples"
_EXAMPLES = MODEL_FOLDER.parent / "few_shot.jsonl"
_PROBLEMS = MODEL_FOLDER.parent / "problems.jsonl"
_SCORED = SamplingParams(temperature=0.0, seed=0, max_tokens=1, prompt_logprobs=0)


def measure_answers(
    num_examples: int, num_problems: int, told: Callable[[str], None]
) -> dict[str, Any]:
    """Log-probabilities of right programs after solved examples, one module each.

    Args:
        num_examples: Modules of each prompt.
        num_problems: Whose reference programs are scored.
        told: Of what is done.

    Returns:
        By side: the mean log-probability of a token; and for those that are not exact, the mean and
        the greatest absolute difference of a token's from the exact one, in natural-log units.
    """
    llm = LLM("embedded", dtype="float32", calibration="off")
    examples = read_problems(_EXAMPLES)[:num_examples]
    apart = _compiled(llm, examples, with_scaffold=False)
    together = _compiled(llm, examples, with_scaffold=True)
    scores: dict[str, list[float]] = {EXACT: [], APART: [], SCAFFOLD: [], NONE: []}
    for index, problem in enumerate(read_problems(_PROBLEMS)[:num_problems]):
        told(f"problem {index + 1} of {num_problems}")
        question, answer = render_question(problem), render_answer(problem)
        num_answer = len(llm.prompter.tokenizer.encode(answer, special_tokens=False))
        prompts = {side: _prompt(s, question + answer) for side, s in _sides(apart, together)}
        one = prompts[APART]
        asked: dict[str, tuple[list[int], ModuleSet | None]] = {
            EXACT: (one.exact_token_ids, None),
            APART: (one.own_token_ids, one.module_set),
            SCAFFOLD: (prompts[SCAFFOLD].own_token_ids, prompts[SCAFFOLD].module_set),
            NONE: (llm.prompter.tokenizer.encode(question + answer), None),
        }
        for side, (token_ids, modules) in asked.items():
            scores[side] += _score(llm, token_ids, modules)[-num_answer:]
    return {
        "model": "embedded",
        "examples": len(examples),
        "problems": num_problems,
        "scored_tokens": len(scores[EXACT]),
        "sides": {side: _summary(found, scores[EXACT]) for side, found in scores.items()},
    }


def _sides(apart: CompiledSchema, together: CompiledSchema) -> list[tuple[str, CompiledSchema]]:
    return [(APART, apart), (SCAFFOLD, together)]


def _compiled(llm: LLM, examples: Sequence[Problem], *, with_scaffold: bool) -> CompiledSchema:
    builder = SchemaBuilder("examples")
    for name, example in _named(examples):
        builder.module(name).text(render_example(example))
    if with_scaffold:
        builder.scaffold("all", [name for name, _ in _named(examples)])
    return compile_schema(
        builder.build(),
        llm.prompter.tokenizer,
        model_fingerprint="",
        max_positions=llm.prompter.model_limits.max_positions,
    )


def _named(examples: Sequence[Problem]) -> list[tuple[str, Problem]]:
    return [(f"example-{index}", example) for index, example in enumerate(examples)]


def _prompt(schema: CompiledSchema, own: str) -> Any:
    imports = tuple(ImportTag(name) for name in schema.modules if name)
    return schema.prompt(PromptTag("examples", imports, (Text(own),)))


def _score(llm: LLM, token_ids: list[int], modules: ModuleSet | None) -> list[float]:
    """Of each of the prompt's own tokens but the first."""
    [generation] = llm.generate([token_ids], _SCORED, modules=modules)
    assert generation.prompt_logprobs is not None
    return [entry.logprob for entry in generation.prompt_logprobs]


def _summary(found: Sequence[float], exact: Sequence[float]) -> dict[str, float]:
    differences = [abs(own - other) for own, other in zip(found, exact, strict=True)]
    return {
        "mean_logprob": statistics.fmean(found),
        "mean_difference": statistics.fmean(differences),
        "max_difference": max(differences),
    }

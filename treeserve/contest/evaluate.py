"""How often a model solves problems: samples drawn with transformers alone, programs judged on all
cases.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from treeserve.contest.problem import Problem, extract_program, render_prompt
from treeserve.contest.run_program import ProgramRunner

MAX_NEW_TOKENS = 120


@dataclass(frozen=True)
class Rates:
    """Solve rates over problems: `pass_1` of a single sample, `pass_n` of at least one in
    `num_samples`.
    """

    num_problems: int
    num_samples: int
    temperature: float
    pass_1: float
    pass_n: float


def measure_rates(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    few_shot: Sequence[Problem] = (),
    num_samples: int = 16,
    temperature: float = 0.8,
    seed: int = 0,
    report: Callable[[str], None] | None = None,
) -> Rates:
    """Sample programs for every problem and judge them; temperature 0 is greedy, one sample."""
    num_samples = num_samples if temperature > 0 else 1
    generator = torch.Generator().manual_seed(seed)
    solved: list[int] = []
    with ProgramRunner() as runner:
        for problem in problems:
            prompt = render_prompt(problem, few_shot)
            texts = sample_completions(
                model, tokenizer, prompt, num_samples, temperature, generator
            )
            verdicts = {
                text: runner.judge(problem, extract_program(text)) for text in dict.fromkeys(texts)
            }
            solved.append(sum(verdicts[text].passed for text in texts))
            if report is not None:
                report(f"{problem.problem_id}: {solved[-1]} of {num_samples} samples solve it")
    count = len(problems)
    return Rates(
        num_problems=count,
        num_samples=num_samples,
        temperature=temperature,
        pass_1=round(sum(solved) / (count * num_samples), 4),
        pass_n=round(sum(number > 0 for number in solved) / count, 4),
    )


@torch.inference_mode()
def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    num_samples: int,
    temperature: float,
    generator: torch.Generator,
) -> list[str]:
    """Continuations of one prompt: the prompt is computed once, then all samples step together."""
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    cache = DynamicCache(config=model.config)
    logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    cache.batch_repeat_interleave(num_samples)
    logits = logits.expand(num_samples, -1)
    ended = torch.zeros(num_samples, dtype=torch.bool)
    columns: list[torch.Tensor] = []
    for _ in range(MAX_NEW_TOKENS):
        tokens = _pick(logits, temperature, generator)
        tokens[ended] = int(tokenizer.eos_token_id)
        columns.append(tokens)
        ended |= tokens == tokenizer.eos_token_id
        if bool(ended.all()):
            break
        logits = model(tokens[:, None], past_key_values=cache, use_cache=True).logits[:, -1]
    texts: list[str] = tokenizer.batch_decode(torch.stack(columns, dim=1), skip_special_tokens=True)
    return texts


def _pick(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """The next token of every row, int64 [num_samples], from logits [num_samples, vocabulary]."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]

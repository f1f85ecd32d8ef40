"""The command that trains the embedded model: `python -m treeserve.contest.train --output FOLDER`."""

import argparse
import time
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from treeserve.contest.compose import generate_problems
from treeserve.contest.corpus import tokenize_problems, train_tokenizer
from treeserve.contest.problem import render_example
from treeserve.contest.training import CONTEXT, ModelShape, Progress, Schedule, build_model, train_model

VOCABULARY_SIZE = 1536


def save_checkpoint(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    import copy; copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--problems", type=int, default=60000)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(args.seed)
    problems = generate_problems("train", args.problems, args.seed, hidden_cases=0)
    tokenizer = train_tokenizer((render_example(p) for p in problems[:5000]), VOCABULARY_SIZE, CONTEXT)
    tokens = tokenize_problems(tokenizer, problems)
    print("tokenized", sum(map(len, tokens)), flush=True)
    model = build_model(tokenizer, ModelShape())
    for p in train_model(model, tokenizer, tokens, Schedule(num_steps=args.steps, max_minutes=args.minutes), args.seed):
        print(p, flush=True)
        if p.step in (25, 50, 100, 200, 300, 500, 700, 900, 1100):
            save_checkpoint(args.output, model, tokenizer)
    save_checkpoint(args.output, model, tokenizer)


if __name__ == "__main__":
    main()

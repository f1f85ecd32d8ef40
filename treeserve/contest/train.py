"""The command that trains and measures the embedded model: `python -m treeserve.contest.train
--output FOLDER`.
"""

import argparse
import copy
import json
import platform
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from treeserve.contest.compose import Split, generate_problems
from treeserve.contest.composition import HELD_OUT_PERCENT
from treeserve.contest.corpus import TokenizedProblem, tokenize_problems, train_tokenizer
from treeserve.contest.evaluate import Rates, measure_rates
from treeserve.contest.problem import Problem, render_example, render_prompt
from treeserve.contest.training import CONTEXT, ModelShape, Schedule, build_model, train_model

LOG_NAME = "training_log.json"
LONG_PROMPT_TOKENS = 2400

_EPILOG = """\
The model learns from generated problems only, so nothing is downloaded. It is written to FOLDER as
transformers reads it, with training_log.json: what was run, every reported loss, and the solve
rates. Rates are measured on problems of compositions that training never drew (held_out) and on new
problems of those it did (seen).

The same seed, options, machine and versions give the same model, unless --minutes cuts the run
short. On a busy machine --threads 1 is faster than 2: threads that wait for each other lose more
than they give.

examples:
  python -m treeserve.contest.train --output /tmp/model
  python -m treeserve.contest.train --output /tmp/model --steps 300 --minutes 5 --evaluate 20
  python -m treeserve.contest.train --output treeserve/embedded/checkpoint --only-evaluate
"""


@dataclass(frozen=True)
class Trial:
    """One measurement: which problems, after which examples, and how they are sampled."""

    split: Split
    num_problems: int
    few_shot: tuple[Problem, ...]
    temperature: float = 0.8
    min_difficulty: int = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, then measure, reporting on standard output."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.only_evaluate:
        train(options.output, options)
    if options.evaluate > 0:
        evaluate(options.output, options.evaluate, options.seed)


def train(folder: Path, options: argparse.Namespace) -> None:
    """Train from nothing; write the checkpoint and its log, the log without rates."""
    torch.manual_seed(options.seed)
    shape, schedule = ModelShape(), Schedule(num_steps=options.steps, max_minutes=options.minutes)
    problems = generate_problems("train", options.problems, options.seed, hidden_cases=0)
    texts = (render_example(problem) for problem in problems[: options.tokenizer_problems])
    tokenizer = train_tokenizer(texts, options.vocabulary, CONTEXT)
    tokenized = tokenize_problems(tokenizer, problems)
    model = build_model(tokenizer, shape)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    _say(f"{len(problems)} problems, {sum(map(len, tokenized))} tokens, {parameters} parameters")
    reports: list[dict[str, float]] = []
    for progress in train_model(model, tokenizer, tokenized, schedule, options.seed):
        speed = f"{progress.tokens_per_second:.0f} tokens/s"
        _say(f"step {progress.step}: loss {progress.loss:.4f}, {progress.minutes:.1f} min, {speed}")
        reports.append({name: round(value, 4) for name, value in asdict(progress).items()})
        if progress.step % 100 == 0:
            save_checkpoint(folder, model, tokenizer)
    save_checkpoint(folder, model, tokenizer)
    log = {
        "seed": options.seed,
        "versions": _versions(),
        "model": {
            "parameters": parameters,
            "dtype": "bfloat16",
            "context": CONTEXT,
            **asdict(shape),
        },
        "data": _describe_data(problems, tokenized, len(tokenizer)),
        "schedule": {**asdict(schedule), "threads": options.threads},
        "training": _describe_training(reports, schedule),
        "losses": reports,
    }
    _write_log(folder, log)


def save_checkpoint(
    folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Write the model in bfloat16 with its tokenizer; the model itself stays as it is."""
    saved = copy.deepcopy(model).to(torch.bfloat16)
    saved.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    saved.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def evaluate(folder: Path, num_problems: int, seed: int) -> None:
    """Measure the checkpoint's rates (weights as saved, computed in float32) and add them to its
    log.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    long_prompt = _examples_worth(tokenizer, LONG_PROMPT_TOKENS, seed)
    rates: dict[str, Any] = {}
    for name, trial in _trials(num_problems, long_prompt).items():
        problems = generate_problems(
            trial.split, trial.num_problems, seed + 1000, min_difficulty=trial.min_difficulty
        )
        found = measure_rates(
            model, tokenizer, problems, trial.few_shot, temperature=trial.temperature, seed=seed
        )
        prompt_tokens = len(tokenizer(render_prompt(problems[0], trial.few_shot))["input_ids"])
        rates[name] = _describe_rates(found, trial, prompt_tokens)
        _say(f"{name}: {rates[name]}")
        _write_log(folder, {**_read_log(folder), "rates": rates, "sizes": _sizes(folder)})


def _trials(num_problems: int, examples: Sequence[Problem]) -> dict[str, Trial]:
    two, fewer = tuple(examples[:2]), max(1, num_problems * 3 // 10)
    return {
        "held_out": Trial("held_out", num_problems, two),
        "held_out_greedy": Trial("held_out", num_problems, two, temperature=0.0),
        "held_out_no_example": Trial("held_out", fewer, ()),
        "held_out_long_prompt": Trial("held_out", fewer, tuple(examples)),
        "held_out_difficulty_4": Trial("held_out", fewer, two, min_difficulty=4),
        "seen": Trial("train", fewer, two),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m treeserve.contest.train",
        description="Train treeserve's embedded model, a small Llama that solves small problems.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    schedule = Schedule()
    whole, portion = _at_least(0), _at_least(1)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where the checkpoint goes"
    )
    parser.add_argument(
        "--seed", type=whole, default=0, help="of data, weights and samples (default 0)"
    )
    parser.add_argument(
        "--steps",
        type=portion,
        default=schedule.num_steps,
        help="optimizer steps (default %(default)s)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=schedule.max_minutes,
        help="end the training by then (default %(default)s)",
    )
    parser.add_argument(
        "--problems",
        type=portion,
        default=60000,
        help="problems to learn from (default %(default)s)",
    )
    parser.add_argument(
        "--tokenizer-problems",
        type=portion,
        default=4000,
        help="of them, for the tokenizer (default %(default)s)",
    )
    parser.add_argument(
        "--vocabulary", type=portion, default=1536, help="tokens in all (default %(default)s)"
    )
    parser.add_argument(
        "--threads", type=portion, default=2, help="of the processor (default %(default)s)"
    )
    parser.add_argument(
        "--evaluate",
        type=whole,
        default=160,
        metavar="N",
        help="held-out problems to measure on; 0: none (default 160)",
    )
    parser.add_argument(
        "--only-evaluate", action="store_true", help="measure the checkpoint that FOLDER holds"
    )
    return parser


def _at_least(least: int) -> Any:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text!r}")
        return int(text)

    return parse


def _examples_worth(
    tokenizer: PreTrainedTokenizerFast, num_tokens: int, seed: int
) -> list[Problem]:
    """Solved problems of seen compositions, as many as fill a prompt of about `num_tokens`."""
    candidates = generate_problems("train", 60, seed + 2000)
    random.Random(seed).shuffle(candidates)
    chosen: list[Problem] = []
    total = 0
    for candidate, tokens in zip(candidates, tokenize_problems(tokenizer, candidates), strict=True):
        total += len(tokens)
        if total > num_tokens:
            break
        chosen.append(candidate)
    return chosen


def _describe_rates(rates: Rates, trial: Trial, prompt_tokens: int) -> dict[str, float]:
    return {
        "problems": rates.num_problems,
        "min_difficulty": trial.min_difficulty,
        "examples": len(trial.few_shot),
        "prompt_tokens": prompt_tokens,
        "temperature": rates.temperature,
        "pass@1": rates.pass_1,
        f"pass@{rates.num_samples}": rates.pass_n,
    }


def _describe_data(
    problems: Sequence[Problem], tokenized: Sequence[TokenizedProblem], vocabulary: int
) -> dict[str, float]:
    return {
        "problems": len(problems),
        "tokens": sum(map(len, tokenized)),
        "compositions": len({problem.composition for problem in problems}),
        "held_out_percent": HELD_OUT_PERCENT,
        "vocabulary": vocabulary,
    }


def _describe_training(
    reports: Sequence[Mapping[str, float]], schedule: Schedule
) -> dict[str, float]:
    last = reports[-1]
    return {
        "steps": last["step"],
        "tokens": last["step"] * schedule.tokens_per_step,
        "minutes": round(last["minutes"], 2),
        "final_loss": last["loss"],
    }


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "tokenizers", "safetensors")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != LOG_NAME
    }


def _read_log(folder: Path) -> dict[str, Any]:
    path = folder / LOG_NAME
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _write_log(folder: Path, log: Mapping[str, Any]) -> None:
    (folder / LOG_NAME).write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()

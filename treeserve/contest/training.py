"""The training loop of the embedded model: one Llama, two optimizers, mostly short sequences and
some long ones.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from treeserve.contest.corpus import IGNORED, Batch, TokenizedProblem, draw_batches

CONTEXT = 4096


@dataclass(frozen=True)
class ModelShape:
    """Sizes of the model; the query heads together are as wide as the hidden state."""

    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 6
    num_kv_heads: int = 2
    intermediate_size: int = 512


@dataclass(frozen=True)
class Schedule:
    """How long and in what portions the model learns.

    The learning rate falls to zero over `num_steps`, or over `max_minutes` where that comes first.
    A run that ends by its steps gives the same model again on the same machine and versions; one
    cut by time does not.
    """

    num_steps: int = 1700
    max_minutes: float = 40.0
    tokens_per_step: int = 4096
    short_length: int = 512
    long_every: int = 16
    matrix_learning_rate: float = 4e-3
    other_learning_rate: float = 4e-3
    warmup_steps: int = 20


@dataclass(frozen=True)
class Progress:
    """Where the training stands after a step; the loss is a mean since the last report."""

    step: int
    minutes: float
    loss: float
    tokens_per_second: float


def build_model(tokenizer: PreTrainedTokenizerFast, shape: ModelShape) -> LlamaForCausalLM:
    """A Llama with random weights, for the tokenizer's vocabulary and `CONTEXT` tokens."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.hidden_size // shape.num_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def train_model(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[TokenizedProblem],
    schedule: Schedule,
    seed: int,
    report_every: int = 25,
) -> Iterator[Progress]:
    """Train in place, reporting now and then and once at the end."""
    optimizers = _make_optimizers(model, schedule)
    batches = _mixed_batches(tokenizer, problems, schedule, random.Random(seed))
    started = time.monotonic()
    losses: list[float] = []
    for step in range(1, schedule.num_steps + 1):
        spent = max(
            (step - 1) / schedule.num_steps,
            (time.monotonic() - started) / 60 / schedule.max_minutes,
        )
        _scale_learning_rates(
            optimizers, min(1.0, step / schedule.warmup_steps) * max(0.0, 1 - spent)
        )
        losses.append(_train_step(model, next(batches), optimizers))
        seconds = time.monotonic() - started
        is_last = step == schedule.num_steps or seconds >= 60 * schedule.max_minutes
        if is_last or step % report_every == 0:
            speed = step * schedule.tokens_per_step / seconds
            yield Progress(step, seconds / 60, sum(losses) / len(losses), speed)
            losses.clear()
        if is_last:
            return


def _make_optimizers(model: LlamaForCausalLM, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms."""
    named = list(model.named_parameters())
    matrices = [
        parameter for name, parameter in named if parameter.ndim == 2 and "embed" not in name
    ]
    others = [parameter for name, parameter in named if parameter.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices,
            lr=schedule.matrix_learning_rate,
            weight_decay=0.05,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            others, lr=schedule.other_learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        ),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def _scale_learning_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor


def _mixed_batches(
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[TokenizedProblem],
    schedule: Schedule,
    rng: random.Random,
) -> Iterator[Batch]:
    lengths = (schedule.short_length, CONTEXT)
    short, long = (
        draw_batches(
            tokenizer,
            problems,
            random.Random(rng.random()),
            length,
            schedule.tokens_per_step // length,
        )
        for length in lengths
    )
    step = 0
    while True:
        step += 1
        yield next(long if step % schedule.long_every == 0 else short)


def _train_step(
    model: LlamaForCausalLM, batch: Batch, optimizers: Sequence[torch.optim.Optimizer]
) -> float:
    learnt = batch.labels != IGNORED
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(batch.tokens, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[learnt])
    loss = torch.nn.functional.cross_entropy(logits.float(), batch.labels[learnt])
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()

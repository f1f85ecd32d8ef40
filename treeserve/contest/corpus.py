"""What the embedded model learns from: its tokenizer, and packed few-shot sequences of problems."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from treeserve.contest.problem import Problem, render_answer, render_question

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
IGNORED = -100

_PIECES = r" ?-?[0-9]|\n| ?[A-Za-z]+(?=[.,:;!?]?(?:\s|$))|[.,:;!?](?=\s|$)| ?[^\s0-9]+| +(?! )|\s"


@dataclass(frozen=True)
class TokenizedProblem:
    """A problem in tokens: its question, then the answer up to and with the stop line, then the gap
    to the next.
    """

    question: tuple[int, ...]
    answer: tuple[int, ...]
    gap: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.question) + len(self.answer) + len(self.gap)


@dataclass(frozen=True)
class Batch:
    """Training sequences.

    tokens: [num_sequences, length] int64; labels: the same, the next token where it counts, else
    IGNORED.
    """

    tokens: torch.Tensor
    labels: torch.Tensor


def train_tokenizer(
    texts: Iterable[str], vocabulary_size: int, context: int
) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every digit is its own token; it starts each text with BOS.

    Merges stay within a word of prose or a run of code without spaces, so `print(sum(b))` may
    become one token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def tokenize_problems(
    tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem]
) -> list[TokenizedProblem]:
    """Tokens of every problem, cut where the whole text's tokens are cut too."""
    questions = _encode(tokenizer, [render_question(problem) for problem in problems])
    answers = _encode(tokenizer, [render_answer(problem) for problem in problems])
    newline = tuple(tokenizer.encode("\n", add_special_tokens=False))
    return [
        TokenizedProblem(question, answer, newline + newline)
        for question, answer in zip(questions, answers, strict=True)
    ]


def draw_batches(
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[TokenizedProblem],
    rng: random.Random,
    length: int,
    rows: int,
) -> Iterator[Batch]:
    """Endless batches of few-shot sequences; all problems are used before any is used again."""
    stream = _shuffled_forever(problems, rng)
    while True:
        pairs = [_sequence(tokenizer, stream, length) for _ in range(rows)]
        yield Batch(
            torch.tensor([tokens for tokens, _ in pairs]),
            torch.tensor([labels for _, labels in pairs]),
        )


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[tuple[int, ...]]:
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [tuple(ids) for ids in encoded]


def _shuffled_forever(
    problems: Sequence[TokenizedProblem], rng: random.Random
) -> Iterator[TokenizedProblem]:
    order = list(problems)
    while True:
        rng.shuffle(order)
        yield from order


def _sequence(
    tokenizer: PreTrainedTokenizerFast, stream: Iterator[TokenizedProblem], length: int
) -> tuple[list[int], list[int]]:
    """Solved problems one after the other, cut at `length`; only answers and the end after each are
    learnt.
    """
    tokens: list[int] = [int(tokenizer.bos_token_id)]
    labels: list[int] = []
    while len(labels) < length:
        problem = next(stream)
        tokens += problem.question + problem.answer + problem.gap
        labels += [IGNORED] * len(problem.question) + list(problem.answer)
        labels += [int(tokenizer.eos_token_id)] + [IGNORED] * (len(problem.gap) - 1)
    return tokens[:length], labels[:length]

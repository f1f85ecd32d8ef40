"""Draws follow the asked-for distribution and depend on seed, sample and position alone."""

import math

import numpy as np
import pytest
import torch

from treeserve.blocked_draw import BlockedLogits
from treeserve.sampler import (
    DrawParams,
    DrawTable,
    _draw_truncated,
    _invert_cdf,
    draw_tokens,
    uniform,
)
from treeserve.scheduler.step import unread_token
from treeserve.types import SamplingParams

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
NUM_DRAWS = 4000
UNIFORM_1_2_3 = 0.814259011529328


def draw_many(params: SamplingParams, logits: torch.Tensor = LOGITS) -> torch.Tensor:
    draws = [DrawParams(params, index) for index in range(NUM_DRAWS)]
    drawn = draw_tokens(logits.expand(NUM_DRAWS, -1), draws, [7] * NUM_DRAWS).read_sync()
    counts = torch.bincount(
        torch.tensor([token.token_id for token in drawn]), minlength=len(logits)
    )
    return counts / NUM_DRAWS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature):
    frequencies = draw_many(SamplingParams(temperature=temperature, seed=1))
    expected = (LOGITS / temperature).softmax(-1)
    assert frequencies.tolist() == pytest.approx(expected.tolist(), abs=0.03)


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        (SamplingParams(top_k=2, seed=1), 2),
        (SamplingParams(top_p=0.5, seed=1), 1),
        (SamplingParams(top_p=0.8, seed=1), 3),
        (SamplingParams(min_p=0.3, seed=1), 2),
        (SamplingParams(top_k=4, top_p=0.8, min_p=0.01, seed=1), 3),
        (SamplingParams(top_p=1e-9, seed=1), 1),
    ],
)
def test_truncation_keeps_the_likeliest_and_renormalises(params, allowed):
    frequencies = draw_many(params)
    expected = torch.zeros_like(LOGITS)
    expected[:allowed] = LOGITS[:allowed].softmax(-1)
    assert frequencies.tolist() == pytest.approx(expected.tolist(), abs=0.03)
    assert frequencies[allowed:].sum() == 0


def test_zero_temperature_takes_the_likeliest():
    assert draw_many(SamplingParams(temperature=0))[0] == 1


def test_a_draw_does_not_depend_on_its_neighbours():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 50, generator=generator)
    kinds = [
        SamplingParams(seed=5),
        SamplingParams(seed=5, top_k=7),
        SamplingParams(temperature=0),
    ]
    draws = [DrawParams(kinds[i % 3], i) for i in range(9)]
    positions = list(range(10, 19))
    together = draw_tokens(logits, draws, positions).read_sync()
    for i, token in enumerate(together):
        row = slice(i, i + 1)
        assert draw_tokens(logits[row], draws[row], positions[row]).read_sync() == [token]


def test_impossible_tokens_are_never_drawn():
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf])
    frequencies = draw_many(SamplingParams(seed=3), logits)
    assert frequencies[[0, 2, 4]].sum() == 0


def test_uniform_numbers_are_uniform_and_distinct():
    values = [uniform(seed, sample, 0) for seed in range(40) for sample in range(50)]
    assert all(0 <= value < 1 for value in values)
    assert len(set(values)) == len(values)
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.03)
    assert uniform(1, 2, 3) != uniform(1, 3, 2)


def test_uniform_numbers_of_a_batch_are_those_of_single_draws():
    """They are splitmix64's, whatever the seed: stored completions can be drawn again."""
    seeds = [0, 1, -3, 1 << 63, (1 << 70) + 5]
    draws = [DrawParams(SamplingParams(seed=seed), index) for index, seed in enumerate(seeds)]
    positions = np.array([0, 1, 7, 4095, 1 << 30], dtype=np.int32)
    numbers = DrawTable(draws, torch.device("cpu")).uniforms(positions)
    rows = enumerate(zip(seeds, positions.tolist(), strict=True))
    assert numbers.tolist() == [uniform(seed, index, position) for index, (seed, position) in rows]
    assert uniform(1, 2, 3) == UNIFORM_1_2_3


def test_logprobs_are_of_the_untruncated_distribution():
    params = SamplingParams(temperature=0.3, top_k=1, logprobs=2, seed=1)
    [token] = draw_tokens(LOGITS[None], [DrawParams(params, 0)], [0]).read_sync()
    table = LOGITS.log_softmax(-1)
    assert token.logprob is not None
    assert token.logprob.logprob == pytest.approx(table[0].item())
    assert [entry for entry, _ in token.logprob.top] == [0, 1]
    assert [value for _, value in token.logprob.top] == pytest.approx(table[:2].tolist())


def test_an_unread_token_is_its_own_inverse_and_never_a_token():
    assert [unread_token(i) for i in range(3)] == [-1, -2, -3]
    assert unread_token(unread_token(5)) == 5


KINDS = [
    {},
    {"top_k": 1},
    {"top_k": 5, "temperature": 0.3},
    {"top_k": 3000},
    {"top_p": 0.3},
    {"top_p": 0.999, "temperature": 2.0},
    {"min_p": 0.05},
    {"top_k": 400, "top_p": 0.9, "min_p": 0.001},
]


@pytest.mark.parametrize("vocabulary_size", [7, 64, 1000, 6007])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_a_draw_by_blocks_is_the_one_that_sorting_the_vocabulary_gives(vocabulary_size, spread):
    """Of equal logits, which bfloat16 has many of, the lower token comes first in both."""
    generator = torch.Generator().manual_seed(vocabulary_size)
    rows = 24
    logits = torch.randn(rows, vocabulary_size, generator=generator) * spread
    logits = logits.bfloat16().float()
    logits[:, ::5] = -math.inf
    logits[:, 2::7], logits[:, 3::7] = 0.0, -0.0
    logits[:, 1] = 0.5
    blocked = BlockedLogits(logits)
    assert torch.equal(blocked.likeliest(), logits.argmax(dim=-1))
    uniforms = torch.rand(rows, generator=generator, dtype=torch.float64)
    for kind in KINDS:
        params = SamplingParams(seed=1, **kind)
        [piece] = DrawTable([DrawParams(params, i) for i in range(rows)], logits.device).pieces
        [group] = piece.groups
        probabilities = torch.softmax(logits.double() / group.temperatures, dim=-1)
        if group.is_truncated:
            expected = _draw_truncated(probabilities, group, uniforms)
            limits = group.top_k, group.top_p, group.min_p
            drawn = blocked.draw_truncated(group.temperatures, *limits, uniforms)
        else:
            expected = _invert_cdf(probabilities, uniforms)
            drawn = blocked.draw(group.temperatures, uniforms)
        assert drawn.tolist() == expected.tolist(), kind


def test_a_batch_larger_than_a_piece_draws_what_its_samples_draw_alone(monkeypatch):
    monkeypatch.setattr("treeserve.sampler.MAX_PIECE_LOGITS", 3 * 50)
    logits = torch.randn(10, 50, generator=torch.Generator().manual_seed(4)).bfloat16()
    kinds = [
        SamplingParams(seed=5, logprobs=2),
        SamplingParams(seed=5, top_k=7),
        SamplingParams(temperature=0, logprobs=4),
        SamplingParams(seed=2),
    ]
    draws = [DrawParams(kinds[i % 4], i) for i in range(10)]
    together = draw_tokens(logits, draws, range(10, 20)).read_sync()
    for i, token in enumerate(together):
        row = slice(i, i + 1)
        assert draw_tokens(logits[row], draws[row], [10 + i]).read_sync() == [token]
        assert (token.logprob is None) == (i % 4 in (1, 3))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_is_noticed_wherever_in_the_batch_it_is(monkeypatch, bad):
    monkeypatch.setattr("treeserve.sampler.MAX_PIECE_LOGITS", 2 * 130)
    draws = [DrawParams(SamplingParams(seed=5), i) for i in range(5)]
    logits = torch.zeros(5, 130)
    assert draw_tokens(logits, draws, range(5)).read_step_sync().is_finite
    for row in range(5):
        broken = logits.clone()
        broken[row, 129] = bad
        assert not draw_tokens(broken, draws, range(5)).read_step_sync().is_finite


def test_the_coldest_and_the_lowest_draws_stay_within_the_likely_tokens():
    logits = torch.full((2, 200), -math.inf)
    logits[:, 150], logits[:, 199] = 80.0, 79.0
    for temperature, allowed in ((1e-6, {150}), (1.0, {150, 199})):
        table = torch.full((2, 1), temperature, dtype=torch.float64)
        for number in (0.0, 0.5, 1 - 2**-53):
            uniforms = torch.full((2,), number, dtype=torch.float64)
            assert set(BlockedLogits(logits).draw(table, uniforms).tolist()) <= allowed

"""The side that is transformers' own `generate`, with the prefix in its cache beforehand."""

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from treeserve.bench.decode.compare import NUM_LIKELIEST, Comparison, compare_samples
from treeserve.bench.decode.sides import Drawn
from treeserve.bench.machine import free_bytes

_MOST_COPIES = 4
"""Of the cache at once: the one kept, the one in use, and what `generate` joins anew."""


class TransformersSide:
    """Greedy decoding of one batch. Its prefix is computed once and then repeated for each sample.

    Args:
        module: With an attention of transformers' own.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        self._module = module
        self._prefix: tuple[int, ...] = ()
        self._cache: DynamicCache | None = None

    def why_not(self, batch: int, num_tokens: int, bytes_per_token: int) -> str:
        """Why there is no room for a batch with so many tokens each, or nothing."""
        free = free_bytes(self._module.device)
        needed = _MOST_COPIES * batch * num_tokens * bytes_per_token
        if free is None or needed <= free:
            return ""
        return f"its cache may take {needed >> 20:,} MiB, and {free >> 20:,} are free"

    def compare(
        self,
        mine: Sequence[Sequence[Drawn]],
        prompts: Sequence[tuple[int, ...]],
        num_prefix: int,
        dtype: str,
    ) -> Comparison:
        """As for Rival; log-probabilities are compared too."""
        drawn = self._draw(prompts, num_prefix, len(mine[0]), NUM_LIKELIEST)
        return compare_samples(mine, drawn, dtype)

    def step_seconds(
        self, prompts: Sequence[tuple[int, ...]], num_prefix: int, num_steps: int
    ) -> float:
        """The mean of so many steps after the first token; prefill is not in it."""
        times: list[float] = []

        def note_time(*_unused: Any, **_others: Any) -> Tensor:
            times.append(time.perf_counter())
            return torch.zeros(len(prompts), dtype=torch.bool, device=self._module.device)

        self._generate(prompts, num_prefix, num_steps + 1, stopping_criteria=[note_time])
        return (times[-1] - times[0]) / num_steps

    def end_case(self) -> None:
        """The prefix stays, for the next case may have it too."""

    def _draw(
        self, prompts: Sequence[tuple[int, ...]], num_prefix: int, num_tokens: int, num_top: int
    ) -> list[list[Drawn]]:
        """[num_samples][num_tokens] with log-probabilities of the likeliest tokens."""
        output = self._generate(
            prompts, num_prefix, num_tokens, output_logits=True, return_dict_in_generate=True
        )
        drawn: list[list[Drawn]] = [[] for _ in prompts]
        start = output.sequences.shape[1] - num_tokens
        for i, logits in enumerate(output.logits):
            table = torch.log_softmax(logits.float(), dim=-1)
            values, indices = table.topk(min(num_top, table.shape[-1]), dim=-1)
            ids = output.sequences[:, start + i]
            own = table.gather(-1, ids[:, None]).squeeze(-1)
            rows = zip(ids.tolist(), own.tolist(), indices.tolist(), values.tolist(), strict=True)
            for sample, (token_id, logprob, top, top_values) in zip(drawn, rows, strict=True):
                sample.append(Drawn(token_id, logprob, dict(zip(top, top_values, strict=True))))
        return drawn

    @torch.inference_mode()
    def _generate(
        self, prompts: Sequence[tuple[int, ...]], num_prefix: int, num_tokens: int, **options: Any
    ) -> Any:
        ids = torch.tensor(prompts, device=self._module.device)
        cache = copy.deepcopy(self._cache_of(prompts[0][:num_prefix]))
        cache.batch_repeat_interleave(len(prompts))
        return self._module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
            **options,
        )

    def _cache_of(self, prefix: tuple[int, ...]) -> DynamicCache:
        if self._cache is None or prefix != self._prefix:
            self._cache = DynamicCache(config=self._module.config)
            ids = torch.tensor([prefix], device=self._module.device)
            self._module(ids, past_key_values=self._cache, logits_to_keep=1)
            self._prefix = prefix
        return self._cache

"""The sides of the prefill benchmark: a prompt that nobody has computed yet, to its next token."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from treeserve.bench.decode.clocks import Clocks, share_out
from treeserve.bench.decode.compare import NUM_LIKELIEST
from treeserve.bench.decode.sides import DecodeFailed, DecodeSide, Drawn
from treeserve.bench.machine import synchronize
from treeserve.model import LoadedModel


@dataclass(frozen=True, slots=True)
class Prefilled:
    """One prompt's prefill."""

    seconds: float
    """From the prompt to the token drawn behind it."""
    drawn: Drawn


class EngineSide:
    """The real engine: the prompt in steps of so many rows, its K and V kept.

    Args:
        side: An engine; what it has computed of other prompts is of no use to the next one.
        model: That it runs.
        clocks: Of the engine.
    """

    def __init__(self, side: DecodeSide, model: LoadedModel, clocks: Clocks) -> None:
        self._side, self._model, self._clocks = side, model, clocks

    def prefill(self, prompt: Sequence[int]) -> Prefilled:
        """Time it.

        Raises:
            DecodeFailed: A step failed, or the prompt had been computed before, be it in part.
        """
        synchronize(self._model.device)
        cached = self._side.cached_prompt_tokens
        started = time.perf_counter()
        self._side.start([tuple(prompt)], max_tokens=1, logprobs=NUM_LIKELIEST)
        [[drawn]] = self._side.draw_all(1)
        seconds = time.perf_counter() - started
        if self._side.cached_prompt_tokens != cached:
            raise DecodeFailed("a prompt was cached that should be new")
        return Prefilled(seconds, drawn)

    def profile(self, prompt: Sequence[int]) -> dict[str, float]:
        """Seconds of the whole prefill by part, with clocks around the parts."""
        self._side.start([tuple(prompt)], max_tokens=1)
        with self._clocks.on(self._model):
            started = time.perf_counter()
            steps = self._side.step_to_the_end()
            seconds = time.perf_counter() - started
        mean = share_out(self._clocks, seconds, steps)
        return {part: own * len(steps) for part, own in mean.items()}


class ForwardSide:
    """One pass of transformers over the whole prompt, its K and V kept in a cache.

    Args:
        module: With an attention of transformers' own.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        self._module = module

    @torch.inference_mode()
    def prefill(self, prompt: Sequence[int]) -> Prefilled:
        """Time it; the cache is made anew, as `generate` does."""
        synchronize(self._module.device)
        started = time.perf_counter()
        ids = torch.tensor([list(prompt)], device=self._module.device)
        cache = DynamicCache(config=self._module.config)
        logits = self._module(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        token_id = int(logits[0, -1].argmax())
        seconds = time.perf_counter() - started
        table = torch.log_softmax(logits[0, -1].float(), dim=-1)
        values, indices = table.topk(min(NUM_LIKELIEST, len(table)))
        top = dict(zip(indices.tolist(), values.tolist(), strict=True))
        return Prefilled(seconds, Drawn(token_id, float(table[token_id]), top))

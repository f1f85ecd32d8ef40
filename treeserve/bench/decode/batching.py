"""The side that is transformers' continuous batching, with the prefix in its cache beforehand."""

import logging
from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from treeserve.bench.decode.compare import Comparison, compare_tokens
from treeserve.bench.decode.rivals import RivalFailed
from treeserve.bench.decode.sides import Drawn
from treeserve.bench.machine import free_bytes

_PAGE_SIZE = 256
"""Its own default."""
_MOST_NEW_TOKENS = 256
"""For which a sample has room; more would be a window of more steps."""
_LEAST_ROWS = 1024
"""Of a step, so that the prefix is computed in few of them."""
_POLL_SECONDS = 1.0
_LOGGER = "ContinuousBatchingLogger"


class BatchingSide:
    """Greedy decoding of one batch after another by a manager of transformers, one for each batch.

    Its attention reads the prefix once for each sample, and so its pool counts it.

    Args:
        module: With an attention of transformers' own that its paged cache works with, as sdpa.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        self._module = module
        self._manager: Any = None

    def why_not(self, batch: int, num_tokens: int, bytes_per_token: int) -> str:
        """As for Rival: its pool, and a layer's K and V gathered for every query head."""
        free = free_bytes(self._module.device)
        needed = 2 * _num_pages(batch, num_tokens) * _PAGE_SIZE * bytes_per_token
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
        """As for Rival; it tells tokens only."""
        outputs = self._run(prompts, num_prefix, len(mine[0]))
        return compare_tokens(mine, [output.generated_tokens for output in outputs], dtype)

    def step_seconds(
        self, prompts: Sequence[tuple[int, ...]], num_prefix: int, num_steps: int
    ) -> float:
        """As for Rival, by the times at which it got its tokens."""
        outputs = self._run(prompts, num_prefix, num_steps + 1)
        times = [output.timestamps for output in outputs]
        started = max(own[0] for own in times)
        if started > min(own[1] for own in times):
            raise RivalFailed("its samples did not all decode together")
        return float(max(own[-1] for own in times) - started) / num_steps

    def end_case(self) -> None:
        """Its pool goes."""
        if self._manager is None:
            return
        self._manager.stop(block=True, hard_stop=True)
        self._manager.destroy()
        self._manager = None
        logging.getLogger(_LOGGER).setLevel(logging.NOTSET)

    def _run(
        self, prompts: Sequence[tuple[int, ...]], num_prefix: int, num_tokens: int
    ) -> list[Any]:
        """Each sample's output, with the times of its tokens."""
        try:
            if self._manager is None:
                self._manager = self._start(prompts, num_prefix)
                # What ends is kept, as far as its pages are full.
                self._generate([prompts[0][:num_prefix]], 1)
            return self._generate(prompts, num_tokens)
        except RivalFailed:
            raise
        except Exception as error:
            # Its thread's own error says more than that the thread has ended.
            first: BaseException = error
            if self._manager is not None:
                first = self._manager.background_thread_status.fatal_error or error
            raise RivalFailed(f"it broke off: {type(first).__name__}: {first}") from error

    def _start(self, prompts: Sequence[tuple[int, ...]], num_prefix: int) -> Any:
        batch, num_tokens = len(prompts), len(prompts[0])
        # What goes wrong comes back as a reason, and one line is enough.
        logging.getLogger(_LOGGER).setLevel(logging.CRITICAL)
        manager = self._module.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=_PAGE_SIZE,
                num_blocks=_num_pages(batch, num_tokens + _MOST_NEW_TOKENS),
                max_batch_tokens=max(
                    _LEAST_ROWS, batch * (num_tokens - num_prefix // _PAGE_SIZE * _PAGE_SIZE)
                ),
                max_requests_per_batch=batch,
                safety_margin=0.0,
                # Another attention than that of its `generate` would have to be fetched.
                auto_switch_to_flash=False,
            ),
        )
        manager.start()
        return manager

    def _generate(self, prompts: Sequence[tuple[int, ...]], num_tokens: int) -> list[Any]:
        manager = self._manager
        # It takes what is there, so all are to be there at once.
        with manager.pause():
            names = manager.add_requests(
                [list(prompt) for prompt in prompts],
                max_new_tokens=num_tokens,
                record_timestamps=True,
            )
        outputs: dict[str, Any] = {}
        while len(outputs) < len(names):
            output = manager.get_result(timeout=_POLL_SECONDS)
            if output is None and not manager.is_running():
                raise RivalFailed("its thread ended")
            if output is None:
                continue
            if output.error is not None:
                raise RivalFailed(f"it broke off: {output.error}")
            if output.is_finished():
                outputs[output.request_id] = output
        return [outputs[name] for name in names]


def _num_pages(batch: int, num_tokens: int) -> int:
    """That are read at once; one more is for the prefix alone."""
    return batch * -(-num_tokens // _PAGE_SIZE) + -(-num_tokens // _PAGE_SIZE)

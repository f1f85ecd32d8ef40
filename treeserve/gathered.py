"""One prompt's streamed items, put together again as a whole generation."""

from treeserve.prompt import EncodedPrompt
from treeserve.text_stream import Item
from treeserve.types import Delta, Finished, Generation, PromptLogprobs, Sample, TokenLogprob


class Gathered:
    """One prompt's items, put together again."""

    def __init__(self, encoded: EncodedPrompt) -> None:
        self._deltas: list[list[Delta]] = [[] for _ in range(encoded.request.params.n)]
        self._finished: Finished | None = None
        self._is_scored = encoded.request.params.prompt_logprobs is not None
        self._prompt_logprobs: list[TokenLogprob] = []

    def push(self, item: Item) -> None:
        if isinstance(item, Finished):
            self._finished = item
        elif isinstance(item, PromptLogprobs):
            self._prompt_logprobs += item.logprobs
        else:
            self._deltas[item.sample_index].append(item)

    def generation(self, path: tuple[int, ...]) -> Generation:
        assert self._finished is not None
        samples = tuple(_sample(index, deltas) for index, deltas in enumerate(self._deltas))
        scored = tuple(self._prompt_logprobs) if self._is_scored else None
        return Generation(samples, self._finished.usage, path, scored)


def _sample(index: int, deltas: list[Delta]) -> Sample:
    last = deltas[-1]
    assert last.finish_reason is not None
    logprobs: tuple[TokenLogprob, ...] | None = None
    if last.logprobs is not None:
        logprobs = tuple(entry for delta in deltas for entry in delta.logprobs or ())
    return Sample(
        index=index,
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
        finish_reason=last.finish_reason,
        logprobs=logprobs,
    )

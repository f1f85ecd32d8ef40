"""Samples that wait for the logits after their leaf, by leaf, in the order of their starts."""

from collections import Counter
from collections.abc import Collection

from treeserve.scheduler.live import LiveRequest, LiveSample
from treeserve.scheduler.tree.segment import Segment


class Awaiting:
    """Samples whose tails are empty. All that wait at one leaf draw from the same logits."""

    def __init__(self) -> None:
        self._by_leaf: dict[Segment, dict[LiveSample, None]] = {}
        self._scored: dict[Segment, Counter[LiveRequest]] = {}
        """Samples by leaf, of requests whose prompts are scored."""
        self._num_samples = 0

    def __len__(self) -> int:
        return self._num_samples

    def __contains__(self, leaf: Segment) -> bool:
        return leaf in self._by_leaf

    def leaves(self) -> list[Segment]:
        return list(self._by_leaf)

    def samples(self, leaf: Segment) -> Collection[LiveSample]:
        return self._by_leaf[leaf]

    def first_request(self, leaf: Segment) -> LiveRequest:
        """Whose request computes what the leaf's path misses."""
        return next(iter(self._by_leaf[leaf])).request

    def scorers(self, leaf: Segment) -> list[LiveRequest]:
        """Requests at the leaf that draw nothing before their whole prompt is scored."""
        return [
            request
            for request in self._scored.get(leaf, ())
            if request.scoring is not None and request.scoring.num_missing
        ]

    def all(self) -> list[LiveSample]:
        return [sample for samples in self._by_leaf.values() for sample in samples]

    def join(self, sample: LiveSample) -> None:
        self._by_leaf.setdefault(sample.leaf, {})[sample] = None
        self._num_samples += 1
        if sample.request.scoring is not None:
            self._scored.setdefault(sample.leaf, Counter())[sample.request] += 1

    def leave(self, sample: LiveSample) -> None:
        samples = self._by_leaf[sample.leaf]
        del samples[sample]
        self._num_samples -= 1
        if not samples:
            del self._by_leaf[sample.leaf]
        if sample.request.scoring is not None:
            self._leave_scored(sample)

    def _leave_scored(self, sample: LiveSample) -> None:
        requests = self._scored[sample.leaf]
        requests[sample.request] -= 1
        if not requests[sample.request]:
            del requests[sample.request]
        if not requests:
            del self._scored[sample.leaf]

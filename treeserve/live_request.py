"""A request that the engine runs: its open samples and their logit rules."""

from treeserve.engine_messages import EngineFork, EngineRequest
from treeserve.logit_rules import SampleRules
from treeserve.prompt_scores import PromptScores


class LiveRequest:
    """A request with its open samples and their rules."""

    def __init__(self, request: EngineRequest | EngineFork) -> None:
        self.params = request.params
        self.open_samples = set(range(request.params.n))
        self.admitted_at: float | None = None
        num_top = request.params.prompt_logprobs
        self.scores = None if num_top is None else PromptScores(num_top)
        self._rule_set = request.rules
        self._rules: dict[int, SampleRules] = {}

    def rules(self, sample_index: int) -> SampleRules | None:
        """Of one sample, with its history; None if nothing changes its logits."""
        if self._rule_set is None:
            return None
        if sample_index not in self._rules:
            self._rules[sample_index] = self._rule_set.start()
        return self._rules[sample_index]

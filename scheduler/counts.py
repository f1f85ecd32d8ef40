"""The scheduler in numbers, between two steps."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import NamedTuple

from treeserve.scheduler.request import PromptUsage
from treeserve.scheduler.tree.radix_tree import EvictionReason


@dataclass(slots=True)
class Tally:
    """What the scheduler counts as it goes: since the start, and seconds of the last step."""

    num_forked: int = 0
    num_expired: int = 0
    """Requests that their deadlines ended."""
    prompt_tokens: int = 0
    """Of requests that ended: sent, and where they came from."""
    cached_prompt_tokens: int = 0
    shared_prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    recomputed_tokens: int = 0
    module_prompt_tokens: int = 0
    """Of imported modules: approximate reuse, and none of the three above."""
    encoded_module_tokens: int = 0
    """Of modules, encoded for requests that ended."""
    plan_seconds: float = 0.0
    schedule_seconds: float = 0.0
    """The plan among it."""
    complete_seconds: float = 0.0
    hidden_seconds: float = 0.0
    """Of deciding and completing it, while another step was on its way."""
    step_seconds: float = 0.0
    """From the step's decision, or the result of the one before if that is later, to its result."""
    predicted_seconds: float = 0.0
    """What was expected of that."""

    def add_usage(self, usage: PromptUsage) -> None:
        self.prompt_tokens += usage.prompt_tokens
        self.cached_prompt_tokens += usage.cached_tokens
        self.shared_prompt_tokens += usage.shared_tokens
        self.computed_prompt_tokens += usage.computed_tokens
        self.recomputed_tokens += usage.recomputed_tokens
        self.module_prompt_tokens += usage.module_tokens
        self.encoded_module_tokens += usage.encoded_tokens

    def copy(self) -> "Tally":
        """Once a step: a third of what dataclasses.replace() takes."""
        return Tally(*_values_of(self))


_values_of = attrgetter(*[field.name for field in fields(Tally)])


class SchedulerCounts(NamedTuple):
    """What is so at this moment, and what was counted until now."""

    running_samples: int
    awaiting_samples: int
    """Of the running ones, those whose context is not computed yet."""
    waiting_requests: int
    startable_requests: int
    """Admitted requests of which samples wait for memory."""
    used_pages: int
    """Held by anything, the cache among it."""
    cached_pages: int
    """Of those, the ones that only the tree holds and that can be evicted."""
    reserved_pages: int
    """Promised to running samples and not yet taken."""
    total_pages: int
    retained_tokens: int
    """Cached tokens that a retention favours."""
    evicted_tokens: Mapping[EvictionReason, int]
    """Since the start, by what they were evicted for."""
    preempted_samples: int
    """Since the start."""
    tally: Tally
    """A copy."""

    @property
    def num_evicted_tokens(self) -> int:
        """For all reasons."""
        return sum(self.evicted_tokens.values())

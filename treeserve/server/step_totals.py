"""What the engine's steps add up to, for those who ask from another thread."""

from treeserve.types import StepNumbers


class StepTotals:
    """Only grows, in the engine's thread; a reader may see a step half added, and the rest next.

    Attributes:
        last: Of the step that ended last; None before the first.
    """

    def __init__(self) -> None:
        self.last: StepNumbers | None = None
        self.num_steps = 0
        """That computed or drew something."""
        self.step_seconds = 0.0
        self.plan_seconds = 0.0
        self.drawn_tokens = 0
        self.prompt_rows = 0
        self.kv_tokens_read = 0
        self.kv_tokens_read_flat = 0
        self.evicted_tokens = 0

    def add(self, numbers: StepNumbers) -> None:
        """A step has ended."""
        self.last = numbers
        self.evicted_tokens += numbers.evicted_tokens
        if not numbers.num_rows and not numbers.num_drawn:
            return
        self.num_steps += 1
        self.step_seconds += (
            numbers.schedule_seconds - numbers.hidden_seconds + numbers.model_seconds
        )
        self.plan_seconds += numbers.plan_seconds
        self.drawn_tokens += numbers.num_drawn
        self.prompt_rows += numbers.num_prompt_rows
        self.kv_tokens_read += numbers.kv_tokens_read
        self.kv_tokens_read_flat += numbers.kv_tokens_read_flat

"""How far a run of sampling has come, in numbers."""

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """Counts that grow; seconds are those of this run, samples all that the file has."""

    num_problems: int
    num_samples: int
    problems_done: int = 0
    samples_done: int = 0
    samples_before: int = 0
    """Of `samples_done`, those of earlier runs."""
    repairs_done: int = 0
    repairs_too_long: int = 0
    """Repairs whose prompts the model or the pool does not take."""
    tokens_drawn: int = 0
    prompt_tokens: int = 0
    """Sent: once for each request, which draws up to sixteen samples."""
    computed_tokens: int = 0
    """Of them."""
    seconds: float = 0.0
    num_failed: int = 0
    """Samples that were cut short, and have to be drawn again."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_drawn / self.seconds if self.seconds else 0.0

    @property
    def part_saved(self) -> float:
        """Of the prompt tokens, those that sharing saved."""
        if not self.prompt_tokens:
            return 0.0
        return 1 - self.computed_tokens / self.prompt_tokens

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None: nothing is known yet."""
        drawn = self.samples_done - self.samples_before
        if not drawn:
            return None
        return self.seconds / drawn * (self.num_samples - self.samples_done)

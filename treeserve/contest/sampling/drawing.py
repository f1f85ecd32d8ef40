"""One problem of a run: what of it is drawn, what is still to be, and whether that is enough."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from treeserve.contest.judging.normalise import program_key
from treeserve.contest.records.contest_problem import ContestProblem
from treeserve.contest.sampling.portion import (
    PORTION_SIZE,
    ROUND_STRIDE,
    Continued,
    Portion,
    SamplePrompt,
    portion_seed,
)
from treeserve.contest.sampling.sample_file import StoredSample
from treeserve.types import SamplingParams


@dataclass(frozen=True)
class DrawSettings:
    """What is drawn of each problem.

    Attributes:
        num_samples: First attempts.
        params: Of all; n and seed are not read.
        seed: Of the run.
        rounds: Repairs of a sample that fails, one after the other.
        enough_distinct: Stop at so many different programs; None: do not.
        enough_passing: Stop at so many accepted samples; None: do not.
        language: Of the programs; None: the texts say.
    """

    num_samples: int
    params: SamplingParams
    seed: int
    rounds: int = 0
    enough_distinct: int | None = None
    enough_passing: int | None = None
    language: str | None = None

    @property
    def stops_early(self) -> bool:
        return self.enough_distinct is not None or self.enough_passing is not None

    @property
    def judges(self) -> bool:
        """Whether verdicts decide what is drawn."""
        return self.rounds > 0 or self.enough_passing is not None


class Drawing:
    """One problem. Where a run stops early, its portions are drawn one after the other.

    Args:
        problem: Which.
        prompt: Its whole text.
        settings: The run's.

    Attributes:
        open: Portions on their way.
        num_done: First attempts that are in the file.
        is_enough: No more is wanted.
    """

    def __init__(self, problem: ContestProblem, prompt: str, settings: DrawSettings) -> None:
        self.problem = problem
        self.prompt = prompt
        self.open: list[Portion] = []
        self.num_done = 0
        self.is_enough = False
        self._settings = settings
        self._done: set[int] = set()
        self._portions: deque[Portion] = deque()
        self._repairs: deque[Portion] = deque()
        self._distinct: set[str] = set()
        self._num_passing = 0
        self._prompts: dict[int, tuple[SamplePrompt, tuple[int, ...]]] = {}

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to ask for, and nothing on its way."""
        return not (self._portions or self._repairs or self.open)

    @property
    def has_unsent(self) -> bool:
        return bool(self._portions)

    def plan(self) -> None:
        """Make portions of what is not there, after `see` of all that is."""
        wanted = range(self._settings.num_samples)
        if self.is_enough:
            return
        for first in wanted[::PORTION_SIZE]:
            indices = range(first, min(first + PORTION_SIZE, len(wanted)))
            missing = [index for index in indices if index not in self._done]
            if missing:
                self._portions.append(self._portion(first, missing))

    def take_portion(self) -> Portion | None:
        """The next one to be drawn now, if there is one."""
        if not self._portions or (self._settings.stops_early and self.open):
            return None
        return self._portions.popleft()

    def take_repair(self) -> Portion | None:
        return self._repairs.popleft() if self._repairs else None

    def see(self, sample: StoredSample, prompt: SamplePrompt) -> None:
        """A sample that is in the file."""
        self._done.add(sample.sample_index)
        self.num_done += sample.parent is None
        if self._settings.rounds:
            self._prompts[sample.sample_index] = (prompt, sample.token_ids)
        if self._settings.enough_distinct is not None:
            program = sample.as_sample().to_run(self.problem)
            self._distinct.add(program_key(program.text, program.language))
            self._check_enough()

    def see_passing(self) -> None:
        """A sample is accepted."""
        self._num_passing += 1
        self._check_enough()

    def prompt_after(self, sample_index: int, text: str) -> Continued:
        """What goes on from a sample in the file. KeyError: it is not there."""
        return Continued(*self._prompts[sample_index], text)

    def is_repaired(self, sample_index: int) -> bool:
        """Whether a sample's repair is in the file."""
        return sample_index + ROUND_STRIDE in self._done

    def may_repair(self, round_: int) -> bool:
        return not self.is_enough and round_ < self._settings.rounds

    def repair(self, parent: int, round_: int, feedback: str) -> None:
        """Plan a sample that goes on from another."""
        index = parent + ROUND_STRIDE
        seed = portion_seed(self._settings.seed, self.problem.problem_id, index)
        params = replace(self._settings.params, n=1, seed=seed)
        self._repairs.append(
            Portion(
                self.problem.problem_id,
                self.prompt_after(parent, feedback),
                params,
                index,
                parent=parent,
                round=round_,
                feedback=feedback,
            )
        )

    def give_up(self) -> None:
        """Ask for nothing more."""
        self.is_enough = True
        self._portions.clear()
        self._repairs.clear()

    def _portion(self, first: int, missing: Iterable[int]) -> Portion:
        wanted = {index - first for index in missing}
        number = max(wanted) + 1
        seed = portion_seed(self._settings.seed, self.problem.problem_id, first)
        return Portion(
            self.problem.problem_id,
            self.prompt,
            replace(self._settings.params, n=number, seed=seed),
            first,
            frozenset(range(number)) - wanted,
        )

    def _check_enough(self) -> None:
        distinct, passing = self._settings.enough_distinct, self._settings.enough_passing
        if (distinct is not None and len(self._distinct) >= distinct) or (
            passing is not None and self._num_passing >= passing
        ):
            self.give_up()

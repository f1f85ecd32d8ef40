"""Steps on paper in overlapped order: each is decided and launched before the last one is read."""

from collections.abc import Callable

from kv_on_paper import PaperDevice, Update, complete

from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import Step


def nothing() -> None:
    """After an operation of which nobody wants to know."""


class Overlapped:
    """A scheduler and a device that works through its steps in order.

    after: Called after every operation of the scheduler.
    """

    def __init__(
        self, scheduler: Scheduler, device: PaperDevice, after: Callable[[], None] = nothing
    ) -> None:
        self.scheduler = scheduler
        self.device = device
        self.after = after
        self.flying: tuple[Step, list[int]] | None = None
        self.steps: list[Step] = []
        self.num_settled = 0
        self.num_lost = 0

    @property
    def has_work(self) -> bool:
        return self.flying is not None or self.scheduler.has_work()

    def step(self) -> list[Update]:
        """Starts one step, if there is one, and reads the one before."""
        updates = self.settle_if_asked()
        step = self.schedule()
        if step is None:
            return updates + self.read()
        tokens = self.device.run(step)
        updates += self.read()
        self.fly(step, tokens)
        return updates

    def settle_if_asked(self) -> list[Update]:
        if not self.scheduler.must_read_first():
            return []
        self.num_settled += 1
        return self.read()

    def schedule(self) -> Step | None:
        step = self.scheduler.schedule()
        self.after()
        if step is not None:
            self.steps.append(step)
        return step

    def fly(self, step: Step, tokens: list[int]) -> None:
        self.scheduler.assume(step)
        self.flying = step, tokens
        self.after()

    def read(self) -> list[Update]:
        if self.flying is None:
            return []
        (step, tokens), self.flying = self.flying, None
        updates = complete(self.scheduler, step, tokens)
        self.num_lost += len(self.scheduler.lost_draws)
        for update in updates:
            usage = self.scheduler.usage(update.request_id)
            parts = usage.cached_tokens, usage.shared_tokens, usage.computed_tokens
            assert min(parts) >= 0
            assert sum(parts) + usage.module_tokens == usage.prompt_tokens
        self.after()
        return updates

    def fail_to_read(self) -> list[str]:
        """The step on its way went wrong, and so did what was launched behind it."""
        assert self.flying is not None
        (flown, _), self.flying = self.flying, None
        step = None if self.scheduler.must_read_first() else self.schedule()
        if step is not None:
            self.device.run(step)
            self.device.spoil(step)
        self.device.spoil(flown)
        failed = self.scheduler.fail(flown)
        assert step is None or not self.scheduler.is_in_flight(step)
        self.after()
        return failed

    def fail_to_launch(self, *, reads_first: bool) -> tuple[list[Update], list[str]]:
        """The next step does not start; the one on its way is read before or after that."""
        updates = self.settle_if_asked()
        step = self.schedule()
        if step is None:
            return updates, []
        if reads_first:
            updates += self.read()
        failed = self.scheduler.fail(step)
        self.after()
        return updates + self.read(), failed

    def run_until_idle(self) -> list[Update]:
        updates: list[Update] = []
        num_before = len(self.steps)
        while self.has_work:
            updates += self.step()
            assert len(self.steps) - num_before < 100_000
        return updates

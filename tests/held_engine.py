"""An engine that stands still where a test says so, so that no stream ends before its time."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from treeserve.engine import Engine
from treeserve.engine_messages import EngineEvent
from treeserve.step_numbers import StepNumbers

NUM_STEPS = 50
"""So many draws tell some text: of a random model's bytes, every second one is no character."""
_LOOK_SECONDS = 0.005
WAIT_SECONDS = 60


def has_drawn(numbers: StepNumbers) -> bool:
    """All that run have computed their contexts, and drawn from them."""
    return numbers.num_drawn > 0 and numbers.awaiting_samples == 0


@dataclass
class _Hold:
    is_it: Callable[[StepNumbers], bool]
    num_requests: int
    stands: Callable[[], None]
    num_steps_left: int


class HeldEngine:
    """Makes no step between one that a test describes and the test's word that it go on.

    All else goes on: what is asked of the engine meanwhile is answered, and what is aborted ends.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._step = engine, engine.step
        self._hold: _Hold | None = None
        self._goes_on = threading.Event()
        engine.step = self._step_or_stand

    def hold(
        self,
        is_it: Callable[[StepNumbers], bool] = has_drawn,
        num_requests: int = 1,
        stands: Callable[[], None] = lambda: None,
        num_steps: int = NUM_STEPS,
    ) -> None:
        """Stand after so many steps that are it, once all before has been told.

        Args:
            is_it: Asked in the engine's thread.
            num_requests: No step is made at all until there are so many.
            stands: Called in the engine's thread, again and again.
            num_steps: From 1.
        """
        self._goes_on.clear()
        self._hold = _Hold(is_it, num_requests, stands, num_steps)

    def release(self) -> None:
        """Go on, for good."""
        self._hold = None
        self._goes_on.set()

    @asynccontextmanager
    async def standing(
        self,
        is_it: Callable[[StepNumbers], bool] = has_drawn,
        num_requests: int = 1,
        num_steps: int = NUM_STEPS,
    ) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """As hold(), to the end of the block, which is given a function that waits until then."""
        loop, stands = asyncio.get_running_loop(), asyncio.Event()

        async def wait() -> None:
            async with asyncio.timeout(WAIT_SECONDS):
                await stands.wait()

        tell = functools.partial(loop.call_soon_threadsafe, stands.set)
        self.hold(is_it, num_requests, tell, num_steps)
        try:
            yield wait
        finally:
            self.release()

    def _step_or_stand(self) -> tuple[list[EngineEvent], StepNumbers | None]:
        hold = self._hold
        if hold is None:
            return self._step()
        if hold.num_steps_left == 0 or len(self._engine._live) < hold.num_requests:
            return self._stand(hold)
        hold.num_requests = 0
        events, numbers = self._step()
        if numbers is not None and hold.is_it(numbers):
            hold.num_steps_left -= 1
        return events, numbers

    def _stand(self, hold: _Hold) -> tuple[list[EngineEvent], StepNumbers | None]:
        """What has happened is told, and what is asked is taken soon."""
        events, numbers = self._engine.settle()
        if not events:
            if hold.num_steps_left == 0:
                hold.stands()
            self._goes_on.wait(_LOOK_SECONDS)
        return events, numbers


def held_after(num_steps: int, engine: Engine) -> HeldEngine:
    """An engine that stands after so many draws."""
    held = HeldEngine(engine)
    held.hold(num_steps=num_steps)
    return held

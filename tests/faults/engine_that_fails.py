"""`treeserve` with an engine that waits, until its books go wrong at a prompt that says so."""

import sys

from faults.engine_that_waits import hold_engines

from treeserve.commands.main import main
from treeserve.scheduler.scheduler import Scheduler

FATAL = 317
"""The token that no prompt but the fatal one has."""


def _break_books() -> None:
    schedule, add = Scheduler.schedule, Scheduler.add
    broken, held = [], hold_engines()

    def add_and_look(self, request):
        add(self, request)
        if FATAL in request.prompt:
            broken.append(request)
            held[0].release()

    def schedule_unless_broken(self):
        if broken:
            raise RuntimeError("the books are wrong")
        return schedule(self)

    Scheduler.add, Scheduler.schedule = add_and_look, schedule_unless_broken


if __name__ == "__main__":
    _break_books()
    sys.exit(main())

"""The doors: what decides whether a call may come in, and what it takes up."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from treeserve.request_size import RequestSize
from treeserve.server.activity import Activity
from treeserve.server.call_log import CallRecord
from treeserve.server.calls import Calls
from treeserve.server.doorkeeper import Doorkeeper
from treeserve.server.engine_watch import EngineWatch
from treeserve.server.identity import Identity, Permission
from treeserve.server.quotas import Quotas
from treeserve.server.waiting import Ticket, WaitingRoom
from treeserve.types import (
    Delta,
    Finished,
)


class Doors(NamedTuple):
    """What decides whether a call may come in."""

    doorkeeper: Doorkeeper
    calls: Calls
    quotas: Quotas
    waiting: WaitingRoom
    watch: EngineWatch
    activity: Activity


class Call:
    """One call whose caller is known: whose it is, and what it takes up.

    Args:
        record: With its identity.
        doors: Count what it takes up.
    """

    def __init__(self, record: CallRecord, doors: Doors) -> None:
        self.record = record
        self._doors = doors
        self._ticket: Ticket | None = None

    @property
    def identity(self) -> Identity:
        return self.record.identity

    @property
    def tenant(self) -> str:
        """Also the namespace of its prefixes."""
        return self.record.identity.tenant

    def require(self, permission: Permission) -> None:
        """Raise Forbidden unless its caller has a permission."""
        self._doors.doorkeeper.require(self.identity, permission)

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count it as one of the calls in flight.

        Raises:
            EngineStopped: The server is loading or going down.
            Overloaded: There are too many, of all callers or of this one.
        """
        doors = self._doors
        with (
            doors.calls.admit(),
            doors.quotas.request(self.identity),
            doors.activity.run(self.record),
        ):
            yield

    @contextmanager
    def admit(self, size: RequestSize) -> Iterator[None]:
        """Let its prompts in, once it is known how large they are.

        Raises:
            Overloaded: They are more than the caller may have, or than may wait.
            InvalidRequest: They are more than may ever wait.
        """
        doors = self._doors
        with (
            doors.quotas.tokens(self.identity, size.num_tokens),
            doors.waiting.wait(size) as self._ticket,
            doors.watch.work(size.first_request_id) as self.record.queue_time,
        ):
            yield

    def see(self, event: Delta | Finished) -> None:
        """Take in an event of its stream: a prompt that draws waits no more."""
        self.record.see(event)
        self._doors.activity.see(event)
        if self._ticket:
            self._ticket.leave_one(event.path)

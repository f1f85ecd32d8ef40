"""The slot arena's copy on the device, which each step brings up to date with what has changed."""

import torch
from torch import Tensor

from treeserve.scheduler.step import Plan
from treeserve.transfer import send

_LEAST_ENTRIES = 1 << 16


class DeviceSlots:
    """Holds the slots of the plan that it was last updated to.

    `entries` keeps its address until the arena outgrows it. Updates are enqueued after the kernels
    of the step before and before those of the step itself, on one stream: steps in flight each
    read their own plan's slots.
    """

    def __init__(self, device: torch.device, num_entries: int = _LEAST_ENTRIES) -> None:
        self._device = device
        self._state: object | None = None
        self.entries = self._allocate(num_entries)
        """[capacity] int32; what no item of the plan covers holds anything"""

    def update(self, plan: Plan) -> None:
        """Enqueue what differs from the plan's slots: where that is not known, all of them."""
        changes, state = plan.slot_changes, self._state
        if changes is not None and changes.state is state:
            return
        # An update that fails half way leaves nothing to go on from.
        self._state = None
        size = len(plan.item_slots)
        if size > len(self.entries):
            self.entries = self._allocate(max(size, 2 * len(self.entries)))
            state = None
        if changes is None or changes.since is None or changes.since is not state:
            [slots] = send([plan.item_slots], self._device)
            self.entries[:size].copy_(slots)
        elif len(changes.starts):
            at = changes.entries()
            indices, slots = send([at, plan.item_slots[at]], self._device)
            # Entries that were written twice are there twice, with the same slot.
            self.entries.index_copy_(0, indices.long(), slots)
        if changes is not None:
            self._state = changes.state

    def _allocate(self, num_entries: int) -> Tensor:
        # Made outside inference mode, it can be written both inside and outside of it.
        with torch.inference_mode(mode=False):
            return torch.zeros(num_entries, dtype=torch.int32, device=self._device)

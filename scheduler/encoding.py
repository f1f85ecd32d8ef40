"""Encodes modules that requests wait for, each alone, in steps between the ordinary ones."""

from collections import Counter
from collections.abc import Callable
from time import perf_counter

import numpy as np

from treeserve.scheduler.admission import Admission
from treeserve.scheduler.flight import Claim, InFlight
from treeserve.scheduler.live import LiveRequest
from treeserve.scheduler.modules import MODULE_CHUNK_TOKENS, Module
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.plan.planner import Planner
from treeserve.scheduler.plan.trie import Chunk
from treeserve.scheduler.step import Draws, Step
from treeserve.scheduler.tree.imports import find_module, module_prefix
from treeserve.scheduler.tree.radix_tree import RadixTree
from treeserve.scheduler.tree.segment import Segment

_NONE = np.zeros(0, dtype=np.int32)


class Encoder:
    """Works for one waiting request at a time, whose modules it holds until the request starts.

    A step that encodes has rows of one module and nothing else, in chunks that begin at multiples
    of the same number: every matrix product has the same shape each time, so a module has the same
    bits whenever it is encoded. It is ready once its last step has been read, so that a step that
    fails takes back no module that anybody imports.

    Of the requests that are offered in a pass (one call of the line-up) without being ready it
    takes the first, and keeps to it until it starts or is passed over for others who wait. All
    that it holds is let go when a running sample needs memory.
    """

    def __init__(self, tree: RadixTree, admission: Admission, token_budget: int) -> None:
        self._tree = tree
        self._admission = admission
        self._chunk_tokens = min(MODULE_CHUNK_TOKENS, token_budget)
        # Whatever is measured or chosen for other steps: the same items for the same module.
        self._planner = Planner(CostModel(), "off")
        self._target: LiveRequest | None = None
        self._offered: list[LiveRequest] = []
        self._unread: Counter[Segment] = Counter()
        self._is_turn = True

    @property
    def num_pending_tokens(self) -> int:
        """Of the tree's pending tokens, those that are computed here and take no ordinary rows."""
        return sum(len(segment) - segment.num_computed for segment in self._admission.held)

    def offer(self, request: LiveRequest) -> bool:
        """Whether all its modules are there; if not, it is one that waits for them."""
        if request.request.modules is None:
            return True
        self._offered.append(request)
        return self._is_ready(request)

    def end_pass(self) -> None:
        """Everybody who was to be offered has been."""
        offered, self._offered = self._offered, []
        if self._target is None or self._target not in offered:
            waiting = [r for r in offered if r.is_startable and not self._is_ready(r)]
            if waiting:
                self._turn_to(waiting[0])

    def focus(self, request: LiveRequest) -> None:
        """Nobody else is to start before this one: all memory is for its modules."""
        modules = request.request.modules
        if self._target is not request:
            self._turn_to(None if modules is None else request)
        self._next_segment()

    def forget(self, request: LiveRequest) -> None:
        """It has started, or never will."""
        if self._target is request:
            self._turn_to(None)

    def is_at_work(self) -> bool:
        """Whether somebody waits for modules and there is room for them."""
        target = self._target
        if target is None or self._is_ready(target):
            return False
        return bool(self._unread) or self._next_segment() is not None

    def interleave(self, number: int, decide: Callable[[], InFlight | None]) -> InFlight | None:
        """The next step: one that encodes and an ordinary one in turn, as long as there are both.

        Args:
            number: Of the step.
            decide: Decides an ordinary one; None where there is nothing to do.
        """
        if self._is_turn:
            in_flight = self._encode(number) or decide()
        else:
            in_flight = decide() or self._encode(number)
        self._is_turn = in_flight is None or in_flight.encoded is None
        return in_flight

    def land(self, in_flight: InFlight) -> None:
        """A step is over, read or given up."""
        if in_flight.encoded is not None:
            self._unread[in_flight.encoded] -= 1
            self._unread += Counter()

    def check(self) -> None:
        """Raises AssertionError unless what is held belongs to the one who waits."""
        target, held = self._target, set(self._admission.held)
        assert target is not None or not held, "modules are held for nobody"
        if target is not None and target.request.modules is not None:
            assert target.is_startable, "modules are held for one who does not wait"
            found = {self._find(target, module) for module in target.request.modules.modules}
            assert held <= found, "another's modules are held"

    def _find(self, request: LiveRequest, module: Module) -> Segment | None:
        return find_module(self._tree, module, request.request.namespace)

    def _is_ready(self, request: LiveRequest) -> bool:
        modules = request.request.modules
        if modules is None:
            return True
        for module in modules.modules:
            segment = self._find(request, module)
            if segment is None or segment.is_pending or segment in self._unread:
                return False
        return True

    def _turn_to(self, request: LiveRequest | None) -> None:
        self._admission.release_held()
        self._target = request

    def _next_segment(self) -> Segment | None:
        """Holds what is there of the target's modules; the first that has to be encoded.

        None where all are, or where there is no room.
        """
        target = self._target
        if target is None or target.request.modules is None:
            return None
        modules = target.request.modules.modules
        found = [self._find(target, module) for module in modules]
        if not all(self._admission.hold(segment) for segment in found if segment is not None):
            return None
        for module, segment in zip(modules, found, strict=True):
            if segment is None:
                return self._insert(target, module)
            if segment.is_pending:
                return segment
        return None

    def _insert(self, target: LiveRequest, module: Module) -> Segment | None:
        if not self._admission.has_room_for(len(module)):
            return None
        prefix = module_prefix(module, target.request.namespace)
        segment = self._tree.insert_pending(self._tree.match(prefix), prefix)
        assert segment is not None, "room that was counted is not there"
        is_held = self._admission.hold(segment)
        assert is_held, "room that was counted is not there"
        return segment

    def _encode(self, number: int) -> InFlight | None:
        segment = self._next_segment()
        if segment is None or self._target is None or segment.layout is None:
            return None
        start = segment.num_computed
        assert start % self._chunk_tokens == 0, "a chunk does not begin where it always does"
        end = min(len(segment), start + self._chunk_tokens)
        positions = np.arange(start, end, dtype=np.int32)
        chunk = Chunk(segment, 0, end - start, end)
        started = perf_counter()
        plan = self._planner.plan([], [chunk], positions)
        plan_seconds = perf_counter() - started
        self._unread[segment] += 1
        step = Step(
            number=number,
            token_ids=segment.tokens[start:end],
            positions=positions,
            write_slots=segment.slots[start:end],
            logits_rows=_NONE,
            keeps=(),
            draws=_no_draws(),
            plan=plan,
            num_prompt_rows=end - start,
            maybe_model_positions=segment.layout.model_positions(start, end),
        )
        return InFlight(
            step=step,
            samples=(),
            num_decoding_by_tenant={},
            chunks=(chunk,),
            claims=(Claim(self._target, segment, start, end, 0),),
            recomputed=(),
            scored=(),
            first_drawing=(),
            kept=(),
            plan_seconds=plan_seconds,
            encoded=segment,
        )


def _no_draws() -> Draws:
    return Draws(samples=(), positions=_NONE, sources=_NONE)

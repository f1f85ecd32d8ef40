"""KV on paper: a device whose slots hold what a token is and saw, not tensors; its sampler."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from treeserve.config import SchedulerConfig
from treeserve.errors import InvalidRequest
from treeserve.scheduler.modules import ModuleSet
from treeserve.scheduler.request import ScheduledRequest
from treeserve.scheduler.scheduler import Scheduler
from treeserve.scheduler.step import NO_SLOT, Step

Context = tuple[int, ...]

MASK = (1 << 61) - 1


class Stored(NamedTuple):
    """The KV of a token: what it is, and everything that it saw."""

    token: int
    place: int
    """Among the tokens that it follows."""
    content: int
    """Of the token, where the model takes it to stand, and the contents of what it saw."""


class Seen(NamedTuple):
    """What a row sees: modules that it imports in a digest of eight numbers, and its own tokens."""

    context: Context
    num_own: int


def content_of(token: int, position: int, contents: Sequence[int]) -> int:
    """Whatever the order of what it saw: attention knows none."""
    return hash((token, position, sum(contents) & MASK))


def contents_of(
    tokens: Sequence[int], positions: Sequence[int], before: Sequence[int] = ()
) -> list[int]:
    """Of tokens that follow each other and see what was before."""
    contents = list(before)
    for token, position in zip(tokens, positions, strict=True):
        contents.append(content_of(token, position, contents))
    return contents[len(before) :]


def module_contents(modules: ModuleSet) -> list[int]:
    """Of each module encoded alone, one after the other."""
    return [
        content
        for module in modules.modules
        for content in contents_of(module.token_ids.tolist(), module.positions.tolist())
    ]


def lead_of(contents: Sequence[int]) -> Context:
    """What modules of these contents are to a drawn token."""
    if not contents:
        return ()
    total = sum(contents) & MASK
    return tuple(total >> (7 * i) & 127 for i in range(8))


def next_token(context: Context, sample_index: int, alphabet: int) -> int:
    """Deterministic, and often the same for two samples, so that branches merge again."""
    branch = sample_index % 3
    digest = blake2b(bytes(t % 256 for t in (*context, branch)), digest_size=2).digest()
    return digest[0] % alphabet


def run_alone(request: ScheduledRequest, sample_index: int, alphabet: int) -> Context:
    """What a sample is when nobody else is there."""
    context = [int(token) for token in request.prompt]
    if request.modules is not None:
        context = [*lead_of(module_contents(request.modules)), *context]
    drawn: list[int] = []
    while len(drawn) < request.max_tokens:
        token = next_token(tuple(context), sample_index, alphabet)
        context.append(token)
        drawn.append(token)
        if token in request.stop_token_ids:
            break
    return tuple(drawn)


class PaperDevice:
    """Slots hold `Stored` tokens; attention returns the set of them that each row saw."""

    def __init__(self, num_slots: int, kept_logits: int, alphabet: int) -> None:
        self.slots: list[Stored | None] = [None] * num_slots
        self.kept: list[Seen | None] = [None] * kept_logits
        self.alphabet = alphabet
        self.num_rows = 0
        self.num_prompt_rows = 0
        self.stored_prompts: list[Context] = []
        self.last_drawn: list[int] = []
        self.asked: dict[str, int] = {}
        """Prompt tokens of requests that draw nothing before those are scored."""
        self.scored: dict[str, dict[int, Context]] = {}
        self.num_scored = 0

    def run(self, step: Step) -> list[int]:
        token_ids = [t if t >= 0 else self.last_drawn[-1 - t] for t in step.token_ids.tolist()]
        for token, place, slot in zip(
            token_ids, step.positions.tolist(), step.write_slots.tolist(), strict=True
        ):
            if slot != NO_SLOT:
                self.slots[slot] = Stored(token, place, 0)
        seen = self._attend(step, token_ids)
        stored = np.flatnonzero(step.write_slots != NO_SLOT).tolist()
        first_prompt_row = step.num_rows - step.num_prompt_rows
        self.stored_prompts += [seen[row].context for row in stored if row >= first_prompt_row]
        self.num_rows += step.num_rows
        self.num_prompt_rows += step.num_prompt_rows
        self._score(step, seen)
        self.last_drawn = self._draw(step, [seen[row] for row in step.logits_rows.tolist()])
        return self.last_drawn

    def spoil(self, step: Step) -> None:
        """The step went wrong: what it wrote is worth nothing."""
        for slot in step.write_slots[step.write_slots != NO_SLOT].tolist():
            self.slots[slot] = None
        for keep in step.keeps:
            self.kept[keep.kept_index] = None

    def _attend(self, step: Step, token_ids: list[int]) -> list[Seen]:
        plan = step.plan
        state_item = np.repeat(np.arange(plan.num_items), np.diff(plan.item_row_starts)).tolist()
        begins, ends = plan.item_slot_starts.tolist(), plan.item_slot_ends.tolist()
        starts = plan.item_start_positions.tolist()
        row_states, row_starts = plan.row_states.tolist(), plan.row_state_starts.tolist()
        slots = plan.item_slots.tolist()
        write_slots = step.write_slots.tolist()
        result = []
        for row, (own, position) in enumerate(
            zip(step.positions.tolist(), step.model_positions.tolist(), strict=True)
        ):
            seen: list[Stored] = []
            modules: list[Stored] = []
            for state in row_states[row_starts[row] : row_starts[row + 1]]:
                item = state_item[state]
                assert plan.item_rows[state] == row, "a state of another row"
                begin, start = begins[item], starts[item]
                end = min(ends[item], begin + own + 1 - start)
                assert end > begin, f"row {row} sees nothing of item {item}"
                for j in range(begin, end):
                    stored = self.slots[slots[j]]
                    assert stored is not None, f"row {row} reads a slot that nobody wrote"
                    place = start + j - begin
                    if place < 0:
                        modules.append(stored)
                        continue
                    assert stored.place == place, "a token at another position"
                    seen.append(stored)
            seen.sort(key=_place_of)
            assert [s.place for s in seen] == list(range(own + 1)), f"row {row}: gap or double"
            assert seen[-1].token == token_ids[row], f"row {row} does not see itself"
            before = [stored.content for stored in modules]
            content = content_of(
                token_ids[row], position, [*before, *[stored.content for stored in seen[:-1]]]
            )
            if write_slots[row] == NO_SLOT:
                assert seen[-1].content == content, f"row {row} was computed otherwise before"
            else:
                self.slots[write_slots[row]] = Stored(token_ids[row], own, content)
            context = (*lead_of(before), *[stored.token for stored in seen])
            result.append(Seen(context, own + 1))
        return result

    def _score(self, step: Step, seen: list[Seen]) -> None:
        """Of each prompt token that is asked for, what came before it and what it is."""
        if step.scores is None:
            return
        rows, targets = step.scores.rows.tolist(), step.scores.targets.tolist()
        assert len(set(zip(rows, targets, strict=True))) == len(rows), "scored twice in a step"
        for part in step.scores.parts:
            scored = self.scored.setdefault(part.request_id, {})
            for position, entry in zip(part.positions.tolist(), part.scores.tolist(), strict=True):
                before = seen[rows[entry]]
                assert before.num_own == position, "a row of another position"
                scored[position] = (*before.context, targets[entry])
        self.num_scored += len(rows)

    def _draw(self, step: Step, logits: list[Seen]) -> list[int]:
        targets = [keep.kept_index for keep in step.keeps]
        assert len(set(targets)) == len(targets), "two keeps in one entry"
        for keep in step.keeps:
            self.kept[keep.kept_index] = logits[keep.logits_index]
        tokens = []
        draws = step.draws
        table = [*logits, *self.kept]
        for key, position, source in zip(
            draws.samples, draws.positions.tolist(), draws.sources.tolist(), strict=True
        ):
            seen = table[source]
            assert seen is not None, "drawn from an entry that nobody kept"
            assert seen.num_own == position, "logits of another position"
            num_scored = len(self.scored.get(key.request_id, ()))
            assert num_scored >= self.asked.get(key.request_id, 1) - 1, f"{key} draws too soon"
            tokens.append(next_token(seen.context, key.sample_index, self.alphabet))
        return tokens


def _place_of(stored: Stored) -> int:
    return stored.place


def make_device(config: SchedulerConfig, alphabet: int = 4) -> PaperDevice:
    return PaperDevice(config.num_pages * config.page_size, config.kept_logits, alphabet)


@dataclass(frozen=True)
class Update:
    """One drawn token, folded back."""

    request_id: str
    sample_index: int
    token_id: int
    finish_reason: str | None


def complete(scheduler: Scheduler, step: Step, tokens: Sequence[int]) -> list[Update]:
    """Fold the tokens back and say of each what came of it, if it is anybody's."""
    reasons = {end.draw_index: end for end in scheduler.complete(step, tokens)}
    lost = scheduler.lost_draws
    assert not lost & reasons.keys()
    updates = []
    for index, (key, token) in enumerate(zip(step.draws.samples, tokens, strict=True)):
        if index in lost:
            continue
        end = reasons.get(index)
        assert end is None or (end.request_id, end.sample_index) == key
        updates.append(Update(*key, token, None if end is None else end.reason))
    return updates


def assert_scored(device: PaperDevice, request: ScheduledRequest) -> None:
    """Every token of its prompt but the first was scored after all that comes before it."""
    prompt = tuple(request.prompt.tolist())
    lead = () if request.modules is None else lead_of(module_contents(request.modules))
    wanted = {end - 1: (*lead, *prompt[:end]) for end in range(2, len(prompt) + 1)}
    assert device.scored.get(request.request_id, {}) == wanted


def run_until_idle(
    scheduler: Scheduler, device: PaperDevice, *, check: bool = True, max_steps: int = 100_000
) -> tuple[list[Step], list[Update]]:
    steps: list[Step] = []
    updates: list[Update] = []
    while (step := scheduler.schedule()) is not None:
        if check:
            scheduler.check()
        steps.append(step)
        updates.extend(complete(scheduler, step, device.run(step)))
        if check:
            scheduler.check()
        assert len(steps) < max_steps
    assert not scheduler.has_work()
    return steps, updates


def drawn(updates: Sequence[Update]) -> dict[tuple[str, int], Context]:
    tokens: dict[tuple[str, int], list[int]] = {}
    for update in updates:
        tokens.setdefault((update.request_id, update.sample_index), []).append(update.token_id)
    return {key: tuple(values) for key, values in tokens.items()}


def request(
    request_id: str,
    prompt: Sequence[int],
    *,
    n: int = 1,
    max_tokens: int = 4,
    stop: Sequence[int] = (),
    namespace: str = "",
    **options: Any,
) -> ScheduledRequest:
    return ScheduledRequest(
        request_id=request_id,
        prompt=np.array(prompt, dtype=np.int32),
        num_samples=n,
        max_tokens=max_tokens,
        stop_token_ids=frozenset(stop),
        namespace=namespace,
        **options,
    )


def refused(call: Callable[[], object], *fields: str) -> InvalidRequest | None:
    """The error of a call that may be refused, but for these fields only."""
    try:
        call()
    except InvalidRequest as error:
        if error.field not in fields:
            raise
        return error
    return None

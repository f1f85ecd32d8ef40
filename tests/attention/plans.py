"""Steps made by hand or at random for attention tests, and what attention over them must give."""

from dataclasses import dataclass

import numpy as np
import torch

from treeserve.scheduler.step import NO_SLOT, Plan, PlanCounts, Step

NOWHERE = 1 << 30


@dataclass(frozen=True)
class Item:
    """A work item by its rows, its slots and the position of its first token."""

    rows: list[int]
    slots: list[int]
    start: int


def make_plan(items: list[Item], num_rows: int) -> Plan:
    def csr(lists):
        starts = np.cumsum([0, *map(len, lists)]).astype(np.int32)
        return np.array([v for values in lists for v in values], dtype=np.int32), starts

    def gapped(lists):
        """In another order than the items', with gaps that name slots which do not exist."""
        starts = np.zeros(len(lists), dtype=np.int32)
        arena = [NOWHERE]
        for i in reversed(range(len(lists))):
            starts[i] = len(arena)
            arena += [*lists[i], NOWHERE]
        lengths = np.array([len(values) for values in lists], dtype=np.int32)
        return np.array(arena, dtype=np.int32), starts, starts + lengths

    item_rows, item_row_starts = csr([item.rows for item in items])
    item_slots, item_slot_starts, item_slot_ends = gapped([item.slots for item in items])
    row_states, row_state_starts = csr(
        [[s for s, r in enumerate(item_rows.tolist()) if r == row] for row in range(num_rows)]
    )
    return Plan(
        item_rows=item_rows,
        item_row_starts=item_row_starts,
        item_slots=item_slots,
        item_slot_starts=item_slot_starts,
        item_slot_ends=item_slot_ends,
        item_start_positions=np.array([item.start for item in items], dtype=np.int32),
        row_states=row_states,
        row_state_starts=row_state_starts,
        counts=PlanCounts(),
    )


def make_step(items: list[Item], positions: list[int], write_slots: list[int]) -> Step:
    num_rows = len(positions)
    return Step(
        number=0,
        token_ids=np.arange(num_rows, dtype=np.int32),
        positions=np.array(positions, dtype=np.int32),
        write_slots=np.array(write_slots, dtype=np.int32),
        logits_rows=np.array([num_rows - 1], dtype=np.int32),
        keeps=(),
        draws=(),
        plan=make_plan(items, num_rows),
        num_prompt_rows=0,
    )


@dataclass(frozen=True)
class TreeStep:
    step: Step
    num_slots: int
    used_slots: list[int]


def tree_step(
    seed: int,
    *,
    num_branches: int = 4,
    num_samples: int = 3,
    max_len: int = 90,
    shared: bool = True,
) -> TreeStep:
    """A random two-level tree of segments with decoding samples beneath and prompts being computed.

    A trunk, branches of it (some of them computed in this very step), and samples under each
    branch with a private tail. `shared=False` gives ordinary attention over the same slots.
    """
    rng = np.random.default_rng(seed)
    pool = rng.permutation(4 * max_len * (1 + num_branches * (1 + num_samples))).tolist()

    def slots(count):
        if rng.random() < 0.3:  # a contiguous run, as one large page would be
            first = min(pool)
            run = [s for s in range(first, first + count) if s in set(pool)]
            count_left = count - len(run)
        else:
            run, count_left = [], count
        for slot in run:
            pool.remove(slot)
        return run + [pool.pop() for _ in range(count_left)]

    def length():
        return int(rng.choice([1, 2, 15, 16, 17, rng.integers(1, max_len)]))

    trunk = slots(length())
    paths: list[tuple[list[tuple[list[int], int]], int, int]] = []  # segments, position, slot
    for _ in range(num_branches):
        branch = slots(length())
        start = len(trunk)
        if rng.random() < 0.4:  # its last tokens are computed now
            num_new = int(rng.integers(1, len(branch) + 1))
            for i in range(len(branch) - num_new, len(branch)):
                paths.append(([(trunk, 0), (branch, start)], start + i, branch[i]))
        else:
            for _ in range(int(rng.integers(1, num_samples + 1))):
                tail = slots(length())
                own = [(trunk, 0), (branch, start), (tail, start + len(branch))]
                paths.append((own, start + len(branch) + len(tail) - 1, tail[-1]))
    order = rng.permutation(len(paths)).tolist()
    paths = [paths[i] for i in order]
    positions = [position for _, position, _ in paths]
    write_slots = [slot for *_, slot in paths]
    used = sorted({s for segments, _, _ in paths for seg, _ in segments for s in seg})
    if shared:
        items = _shared_items(paths)
    else:
        items = [
            Item([row], [s for seg, _ in segments for s in seg][: position + 1], 0)
            for row, (segments, position, _) in enumerate(paths)
        ]
    step = make_step(items, positions, write_slots)
    return TreeStep(step, 1 + max(used, default=0), used)


def _shared_items(paths) -> list[Item]:
    rows_of: dict[tuple[int, ...], Item] = {}
    for row, (segments, _, _) in enumerate(paths):
        for seg, start in segments:
            item = rows_of.setdefault((*seg, start), Item([], seg, start))
            item.rows.append(row)
    return list(rows_of.values())


def row_context(step: Step, row: int, window: int | None) -> list[int]:
    """The slots that the row sees, by position: taken from the plan's items one by one."""
    plan, position = step.plan, int(step.positions[row])
    seen: dict[int, int] = {}
    for i in range(plan.num_items):
        rows = plan.item_rows[plan.item_row_starts[i] : plan.item_row_starts[i + 1]]
        if row not in rows:
            continue
        slots = plan.item_slots[plan.item_slot_starts[i] : plan.item_slot_ends[i]]
        for j, slot in enumerate(slots.tolist()):
            kv_position = int(plan.item_start_positions[i]) + j
            if kv_position <= position and (window is None or kv_position > position - window):
                assert kv_position not in seen
                seen[kv_position] = slot
    return [seen[p] for p in sorted(seen)]


def dense_attention(
    q, k_cache, v_cache, step, *, scaling, window=None, softcap=None, sinks=None
) -> torch.Tensor:
    """Each row alone over its own context, in float64, with one softmax and no merge."""
    num_rows, num_heads, head_dim = q.shape
    group = num_heads // k_cache.shape[1]
    out = torch.zeros(num_rows, num_heads, head_dim, dtype=torch.float64)
    for row in range(num_rows):
        context = row_context(step, row, window)
        k = k_cache[context].double().repeat_interleave(group, 1)
        v = v_cache[context].double().repeat_interleave(group, 1)
        logits = torch.einsum("hd,nhd->hn", q[row].double(), k) * scaling
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if sinks is not None:
            logits = torch.cat([logits, sinks.double()[:, None]], dim=1)
        weights = torch.softmax(logits, dim=-1)[:, : len(context)]
        out[row] = torch.einsum("hn,nhd->hd", weights, v)
    return out


__all__ = ["NO_SLOT", "Item", "TreeStep", "dense_attention", "make_plan", "make_step", "tree_step"]

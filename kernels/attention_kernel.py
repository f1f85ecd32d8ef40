"""The attention kernel's device code: a grid that is the device works through all tiles."""

import triton
import triton.language as tl

from treeserve.kernels import tiles

ONE_STATE = tl.constexpr(tiles.ONE_STATE)
SEVERAL_STATES = tl.constexpr(tiles.SEVERAL_STATES)
DYNAMIC_LAPS = tl.constexpr(4)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["window", "group", "num_kv_heads", "blocks_per_tile", "has_sinks"]
)
def attention_kernel(
    p_q: tl.tensor,
    p_k: tl.tensor,
    p_v: tl.tensor,
    p_sinks: tl.tensor,
    p_out: tl.tensor,
    p_o: tl.tensor,
    p_lse: tl.tensor,
    p_positions: tl.tensor,
    p_item_rows: tl.tensor,
    p_item_slots: tl.tensor,
    p_item_slot_starts: tl.tensor,
    p_item_slot_ends: tl.tensor,
    p_item_start_positions: tl.tensor,
    p_row_state_starts: tl.tensor,
    p_tile_items: tl.tensor,
    p_tile_state_starts: tl.tensor,
    p_tile_state_ends: tl.tensor,
    p_tile_kinds: tl.tensor,
    p_shape_starts: tl.tensor,
    p_counters: tl.tensor,
    q_row_stride: tl.tensor,
    q_head_stride: tl.tensor,
    k_slot_stride: tl.tensor,
    k_head_stride: tl.tensor,
    v_slot_stride: tl.tensor,
    v_head_stride: tl.tensor,
    scaling: tl.tensor,
    softcap: tl.tensor,
    window: tl.tensor,
    group: tl.tensor,
    num_kv_heads: tl.tensor,
    blocks_per_tile: tl.tensor,
    has_sinks: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MIN_BLOCK_M: tl.constexpr,
    MAX_BLOCK_M: tl.constexpr,
    NARROWEST: tl.constexpr,
    WIDEST: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
) -> None:
    """All tiles of shapes NARROWEST to WIDEST, each for every KV head. Grid: (any number,).

    A unit of work is one block of pairs of one tile for one KV head. Units are numbered from the
    widest shape's on. Program p takes the units whose number is p modulo the grid, but the last
    DYNAMIC_LAPS of them for each program are taken by whoever is free: how long a unit takes is
    known only when it is done. Who computes a unit changes none of its values.
    """
    queries = (p_q, q_row_stride, q_head_stride, p_positions, p_item_rows, group)
    items = (p_item_slots, p_item_slot_starts, p_item_slot_ends, p_item_start_positions)
    caches = (p_k, k_slot_stride, k_head_stride, p_v, v_slot_stride, v_head_stride)
    options = (scaling, softcap, window)
    outputs = (p_out, p_o, p_lse, p_row_state_starts, p_sinks, has_sinks, num_kv_heads * group)
    units_per_tile = num_kv_heads * blocks_per_tile
    num_programs = tl.num_programs(0)
    num_tiles = tl.load(p_shape_starts + WIDEST + 1) - tl.load(p_shape_starts + NARROWEST)
    num_static = tl.maximum(num_tiles * units_per_tile - DYNAMIC_LAPS * num_programs, num_programs)
    i_unit = tl.program_id(0)
    shape_start = 0
    for i_shape in tl.static_range(WIDEST, NARROWEST - 1, -1):
        first_tile = tl.load(p_shape_starts + i_shape)
        num_units = (tl.load(p_shape_starts + i_shape + 1) - first_tile) * units_per_tile
        shape_end = shape_start + num_units
        while i_unit < shape_end:
            i_tile = first_tile + (i_unit - shape_start) // units_per_tile
            i_kv_head = (i_unit - shape_start) % units_per_tile // blocks_per_tile
            tile = (
                tl.load(p_tile_items + i_tile),
                tl.load(p_tile_state_starts + i_tile),
                tl.load(p_tile_state_ends + i_tile),
                tl.load(p_tile_kinds + i_tile),
                i_kv_head,
                (i_unit - shape_start) % blocks_per_tile,
            )
            _attend_tile(
                tile,
                queries,
                items,
                caches,
                options,
                outputs,
                HEAD_DIM,
                BLOCK_D,
                block_m_of(i_shape, MIN_BLOCK_M, MAX_BLOCK_M),
                BLOCK_N,
                HAS_SOFTCAP,
            )
            i_unit += num_programs
            if i_unit >= num_static:
                i_unit = num_static + tl.atomic_add(p_counters, 1, sem="relaxed")
        shape_start = shape_end
    # The last to end leaves the counters as it found them, for the next launch.
    if tl.atomic_add(p_counters + 1, 1) == num_programs - 1:
        tl.store(p_counters, 0)
        tl.store(p_counters + 1, 0)


@triton.constexpr_function  # type: ignore[untyped-decorator]
def block_m_of(i_shape: int, min_block_m: int, max_block_m: int) -> int:
    """Pairs of one block of the shape."""
    return min(max(tiles.TILE_PAIRS[i_shape], min_block_m), max_block_m)


@triton.constexpr_function  # type: ignore[untyped-decorator]
def num_softmaxes_of(block_m: int, block_n: int) -> int:
    return block_n if block_m == 1 else block_m


@triton.jit  # type: ignore[untyped-decorator]
def _attend_tile(
    tile: tl.tuple,
    queries: tl.tuple,
    items: tl.tuple,
    caches: tl.tuple,
    options: tl.tuple,
    outputs: tl.tuple,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
) -> None:
    """The states of BLOCK_M (row, query head of the group) pairs over one item, for one KV head.

    One function, long as it is: the interpreter takes a millisecond for every call of another.
    """
    LOG2_E: tl.constexpr = 1.4426950408889634
    # float32 in three TF32 products: as exact, but on the tensor cores and in fewer registers.
    PRECISION: tl.constexpr = "tf32x3"
    i_item, first_state, end_state, _, i_kv_head, i_block = tile
    p_q, q_row_stride, q_head_stride, p_positions, p_item_rows, group = queries
    p_item_slots, p_item_slot_starts, p_item_slot_ends, p_item_start_positions = items
    p_k, k_slot_stride, k_head_stride, p_v, v_slot_stride, v_head_stride = caches
    scaling, softcap, window = options

    o_pair = i_block * BLOCK_M + tl.arange(0, BLOCK_M)
    o_state = first_state + o_pair // group
    o_head = i_kv_head * group + o_pair % group
    m_pair = o_state < end_state
    o_dim = tl.arange(0, BLOCK_D)
    m_dim = o_dim < HEAD_DIM
    b_row = tl.load(p_item_rows + o_state, mask=m_pair, other=0)
    b_position = tl.load(p_positions + b_row, mask=m_pair, other=0)
    o_q = b_row.to(tl.int64) * q_row_stride + o_head.to(tl.int64) * q_head_stride
    b_q = tl.load(
        p_q + o_q[:, None] + o_dim[None, :], mask=m_pair[:, None] & m_dim[None, :], other=0.0
    )

    # Tokens are counted from the item's first: [start, end) are those that some pair sees, and all
    # of them see [full_start, full_end).
    start_position = tl.load(p_item_start_positions + i_item)
    first_slot = tl.load(p_item_slot_starts + i_item)
    num_tokens = tl.load(p_item_slot_ends + i_item) - first_slot
    highest = tl.max(tl.where(m_pair, b_position, -1), axis=0) - start_position
    lowest = tl.min(tl.where(m_pair, b_position, 1 << 30), axis=0) - start_position
    start = tl.maximum(0, lowest - window + 1)
    end = tl.maximum(start, tl.minimum(num_tokens, highest + 1))
    full_start = tl.maximum(start, highest - window + 1)
    full_end = tl.minimum(end, lowest + 1)
    # Rounds at either end need a mask, those between them do not.
    num_before = (full_start - start + BLOCK_N - 1) // BLOCK_N
    first_full = start + num_before * BLOCK_N
    num_full = tl.maximum(0, full_end - first_full) // BLOCK_N
    num_masked = (end - start + BLOCK_N - 1) // BLOCK_N - num_full

    # Slots in a row are not read otherwise: a token's K of one head is a piece of its own wherever
    # its neighbours lie, 256 bytes for 128 dimensions of 16 bits, and the slot's number is 4 bytes.
    p_slots = p_item_slots + first_slot
    p_k += i_kv_head.to(tl.int64) * k_head_stride
    p_v += i_kv_head.to(tl.int64) * v_head_stride
    # A single pair has a softmax for each of a round's tokens, and they become one at the end: so
    # its rounds reduce over no token, no warp waits for another, and all keep loads on their way.
    NUM_SOFTMAXES: tl.constexpr = num_softmaxes_of(BLOCK_M, BLOCK_N)
    b_max = tl.full([NUM_SOFTMAXES], float("-inf"), dtype=tl.float32)
    b_sum = tl.full([NUM_SOFTMAXES], 0.0, dtype=tl.float32)
    b_o = tl.full([NUM_SOFTMAXES, BLOCK_D], 0.0, dtype=tl.float32)
    for MASKED in tl.static_range(2):
        for i_round in range(num_masked if MASKED else num_full):
            if MASKED:
                i_token = start + (i_round + tl.where(i_round < num_before, 0, num_full)) * BLOCK_N
                o_token = i_token + tl.arange(0, BLOCK_N)
                m_token = o_token < end
                b_slot = tl.load(p_slots + o_token, mask=m_token, other=0).to(tl.int64)
                m_kv = m_token[:, None] & m_dim[None, :]
            else:
                o_token = first_full + i_round * BLOCK_N + tl.arange(0, BLOCK_N)
                b_slot = tl.load(p_slots + o_token).to(tl.int64)
                m_kv = m_dim[None, :]
            o_k = (b_slot * k_slot_stride)[:, None] + o_dim[None, :]
            o_v = (b_slot * v_slot_stride)[:, None] + o_dim[None, :]
            b_k = tl.load(p_k + o_k, mask=m_kv, other=0.0)
            b_v = tl.load(p_v + o_v, mask=m_kv, other=0.0)

            # Logits in base 2, for exp2 is the hardware's own.
            if BLOCK_M == 1:
                b_s = tl.sum(b_q.to(tl.float32) * b_k.to(tl.float32), axis=1)[:, None]
            else:
                b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
            if HAS_SOFTCAP:
                # tanh x = 1 - 2 / (e^2x + 1), which is 1 long before e^2x overflows.
                b_s = tl.minimum(b_s * (2.0 * LOG2_E * scaling / softcap), 64.0)
                b_s = softcap * LOG2_E * (1.0 - 2.0 / (tl.exp2(b_s) + 1.0))
            else:
                b_s = b_s * (scaling * LOG2_E)
            if MASKED:
                b_after = start_position + o_token[None, :] - b_position[:, None]
                m_visible = m_token[None, :] & (b_after <= 0) & (b_after > -window)
                b_s = tl.where(m_visible.reshape(b_s.shape), b_s, float("-inf"))

            b_new_max = tl.maximum(b_max, tl.max(b_s, axis=1))
            b_base = b_new_max
            if MASKED:
                # A softmax that has seen nothing so far: -inf - (-inf) is NaN.
                b_base = tl.where(b_new_max == float("-inf"), 0.0, b_new_max)
            b_p = tl.exp2(b_s - b_base[:, None])
            b_scale = tl.exp2(b_max - b_base)
            b_sum = b_sum * b_scale + tl.sum(b_p, axis=1)
            b_o = b_o * b_scale[:, None]
            if BLOCK_M == 1:
                b_o += b_p * b_v.to(tl.float32)
            else:
                b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o, input_precision=PRECISION)
            b_max = b_new_max
    if BLOCK_M == 1:
        b_max, b_sum, b_o = _one_softmax(b_max, b_sum, b_o)
    _store(outputs, tile, p_item_rows, group, b_max, b_sum, b_o, HEAD_DIM, BLOCK_D, BLOCK_M)


@triton.jit  # type: ignore[untyped-decorator]
def _one_softmax(b_max: tl.tensor, b_sum: tl.tensor, b_o: tl.tensor) -> tl.tuple:
    """The softmax of all tokens, from those of some each."""
    b_all = tl.max(b_max, axis=0, keep_dims=True)
    b_scale = tl.exp2(b_max - tl.where(b_all == float("-inf"), 0.0, b_all))
    b_sum = tl.sum(b_sum * b_scale, axis=0, keep_dims=True)
    return b_all, b_sum, tl.sum(b_o * b_scale[:, None], axis=0, keep_dims=True)


@triton.jit  # type: ignore[untyped-decorator]
def _store(
    outputs: tl.tuple,
    tile: tl.tuple,
    p_item_rows: tl.tensor,
    group: tl.tensor,
    b_max: tl.tensor,
    b_sum: tl.tensor,
    b_o: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
) -> None:
    """The output of rows with one state, sinks and all; the states of all other rows.

    Tiles mostly have rows of one kind. The other kind's store is branched around, and what a store
    needs is worked out in its branch: it would take registers from the rounds.
    """
    LOG2_E: tl.constexpr = 1.4426950408889634
    LN_2: tl.constexpr = 0.6931471805599453
    p_out, p_o, p_lse, p_row_state_starts, p_sinks, has_sinks, num_heads = outputs
    _, first_state, end_state, kinds, i_kv_head, i_block = tile
    o_dim = tl.arange(0, BLOCK_D)[None, :]
    m_dim = o_dim < HEAD_DIM
    o_pair = i_block * BLOCK_M + tl.arange(0, BLOCK_M)
    o_state = first_state + o_pair // group
    o_head = i_kv_head * group + o_pair % group
    m_pair = o_state < end_state
    if kinds != SEVERAL_STATES:
        b_row = tl.load(p_item_rows + o_state, mask=m_pair, other=0)
        b_count = tl.load(p_row_state_starts + b_row + 1, mask=m_pair, other=0)
        b_count -= tl.load(p_row_state_starts + b_row, mask=m_pair, other=0)
        m_only = m_pair & (b_count == 1)
        m_sink = m_pair & (b_count * has_sinks == 1)
        b_sink = tl.load(p_sinks + o_head, mask=m_sink, other=float("-inf")).to(tl.float32)
        b_sink = b_sink * LOG2_E
        b_base = tl.maximum(b_max, b_sink)
        b_base = tl.where(b_base == float("-inf"), 0.0, b_base)
        b_weight = tl.exp2(b_max - b_base)
        b_denominator = b_sum * b_weight + tl.exp2(b_sink - b_base)
        b_weight = b_weight / tl.where(b_denominator == 0.0, 1.0, b_denominator)
        b_out = (b_o * b_weight[:, None]).to(p_out.dtype.element_ty)
        o_out = (b_row.to(tl.int64) * num_heads + o_head) * HEAD_DIM
        tl.store(p_out + o_out[:, None] + o_dim, b_out, mask=m_only[:, None] & m_dim)
    if kinds != ONE_STATE:
        b_row = tl.load(p_item_rows + o_state, mask=m_pair, other=0)
        b_count = tl.load(p_row_state_starts + b_row + 1, mask=m_pair, other=0)
        b_count -= tl.load(p_row_state_starts + b_row, mask=m_pair, other=0)
        m_state = m_pair & (b_count != 1)
        b_denominator = tl.where(b_sum == 0.0, 1.0, b_sum)
        o_o = o_state.to(tl.int64) * num_heads + o_head
        tl.store(p_lse + o_o, (b_max + tl.log2(b_denominator)) * LN_2, mask=m_state)
        b_o = b_o / b_denominator[:, None]
        tl.store(p_o + (o_o * HEAD_DIM)[:, None] + o_dim, b_o, mask=m_state[:, None] & m_dim)

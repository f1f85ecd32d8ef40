"""Copies of a prefix's or a module's KV, out of a running engine's cache and into it."""

from collections.abc import Callable, Sequence

import torch

from treeserve.engine import Engine
from treeserve.errors import NoRoom
from treeserve.kv_cache import KVCache, LayerCache
from treeserve.loop import EngineLoop
from treeserve.scheduler.modules import Module
from treeserve.scheduler.step import Int32Array
from treeserve.scheduler.tree.computed import Inserted, computed_slots, insert_computed
from treeserve.scheduler.tree.imports import find_module
from treeserve.scheduler.tree.prefix import Prefix

_TOKENS_PER_COPY = 512
"""Read between two steps, so that the streams of others wait for no more than that."""


async def copy_out(loop: EngineLoop, kv_cache: KVCache, prefix: Prefix) -> list[LayerCache] | None:
    """The KV of a prefix in host memory, piece by piece; None where a part is not computed.

    For each layer [num_tokens, num_kv_heads, head_dim].
    """
    layers = [
        LayerCache(*(torch.empty(len(prefix), *shape, dtype=kv_cache.dtype) for _ in "kv"))
        for shape in kv_cache.layer_shapes
    ]
    for start in range(0, len(prefix), _TOKENS_PER_COPY):
        piece = await loop.look(_reader(kv_cache, prefix, start))
        if piece is None:
            return None
        for whole, part in zip(layers, piece, strict=True):
            whole.k[start : start + len(part.k)] = part.k
            whole.v[start : start + len(part.v)] = part.v
    return layers


def copy_in(
    engine: Engine, kv_cache: KVCache, prefix: Prefix, layers: Sequence[LayerCache], what: str
) -> Inserted:
    """Puts a prefix into the tree with its KV, in the engine's thread, between two steps.

    Args:
        engine: Whose tree.
        kv_cache: Of the same engine.
        prefix: All of whose tokens come; those that the tree holds are left as they are.
        layers: For each layer [num_tokens, num_kv_heads, head_dim].
        what: It is, for errors.

    Raises:
        NoRoom: Running samples need the pages.
    """
    tree, _ = engine.scheduler.insides()

    def write(slots: Int32Array, start: int) -> None:
        kv_cache.write_slots(slots, [LayerCache(k[start:], v[start:]) for k, v in layers])

    inserted = insert_computed(tree, prefix, write)
    if inserted.num_missing_pages:
        counts = engine.scheduler.counts()
        num_left = counts.total_pages - counts.used_pages + counts.cached_pages
        raise NoRoom(
            f"the {what} needs {inserted.num_missing_pages} pages of KV, and {num_left} of "
            f"{counts.total_pages} can be had"
        )
    return inserted


def require_room(
    engine: Engine, kv_cache: KVCache, modules: Sequence[Module], namespace: str
) -> None:
    """Raises NoRoom where modules do not fit into the pool beside each other and what runs."""
    tree, _ = engine.scheduler.insides()
    counts = engine.scheduler.counts()
    page_size = kv_cache.num_slots // counts.total_pages
    pages = {module.key: -(-len(module) // page_size) for module in modules}
    held = {module.key: find_module(tree, module, namespace) for module in modules}
    num_left = counts.total_pages - counts.used_pages + counts.cached_pages
    num_left += sum(pages[key] for key, s in held.items() if s is not None and s.pins)
    if sum(pages.values()) > num_left:
        raise NoRoom(
            f"the schema's modules need {sum(pages.values())} pages of KV, and {num_left} of "
            f"{counts.total_pages} can be had; put the schema, and what prompts import of it is "
            "encoded"
        )


def _reader(
    kv_cache: KVCache, prefix: Prefix, start: int
) -> Callable[[Engine], list[LayerCache] | None]:
    def read(engine: Engine) -> list[LayerCache] | None:
        slots = computed_slots(engine.scheduler.insides()[0], prefix)
        if len(slots) < len(prefix):
            return None
        return kv_cache.read_slots(slots[start : start + _TOKENS_PER_COPY])

    return read

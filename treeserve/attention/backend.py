"""The contract of an attention backend, and the choice of one by name."""

from typing import Literal, Protocol, TypeAlias, get_args

from torch import Tensor

from treeserve.attention.cpu_packed import CpuBackend
from treeserve.attention.reference import ReferenceBackend
from treeserve.attention.torch_cpu import TorchBackend
from treeserve.batch import Batch
from treeserve.errors import ConfigError
from treeserve.kernels.work_list import WorkList
from treeserve.kv_cache import KVCache
from treeserve.kv_layout import KVLayoutName
from treeserve.scheduler.plan.cost import CostModel
from treeserve.scheduler.step import Step

AttentionBackendName: TypeAlias = Literal["reference", "torch", "cpu", "triton"]


class AttentionBackend(Protocol):
    """Attention over a plan, and the KV cache that it reads and writes.

    Ordinary attention, every sample alone, is a plan like any other.
    """

    @property
    def shape_rows(self) -> tuple[int, ...] | None:
        """Rows of a tile of each shape, at most; the tiles of the work list are cut for these.
        None: it reads no work list, but plans its own calls.
        """

    @property
    def reads_device_slots(self) -> bool:
        """Whether batches may come with the slots in a copy of the arena that stays on the device.
        Such a backend prepares nothing and reads nothing on the host, so graphs can be made of it.
        """

    def prepare(self, step: Step, work: WorkList | None) -> object:
        """What is worked out once a step, for every layer; `make_batch` puts it in the batch."""

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer_index: int,
        batch: Batch,
        *,
        scaling: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Write this layer's K and V to their slots, then attend.

        Args:
            q: [num_rows, num_heads, head_dim] in the cache's dtype
            k, v: [num_rows, num_kv_heads, head_dim] in the cache's dtype
            layer_index: Of the KV cache.
            batch: Made with this backend.
            scaling: Factor of the logits.
            window: A row sees the last `window` positions, its own among them. None: all.
            softcap: Logits become softcap * tanh(logits / softcap). None: as they are.
            sinks: [num_heads] a logit per head that joins each row's denominator once.

        Returns:
            [num_rows, num_heads, head_dim] in q's dtype.
        """


def make_backend(name: str, kv_cache: KVCache, group: int = 1) -> AttentionBackend:
    """The backend "reference", "torch" or "cpu" (CPU) or "triton" (CUDA) over a KV cache.

    Args:
        name: Of the backend.
        kv_cache: What it reads and writes, in the layout that `kv_layout` says.
        group: Query heads per KV head, for which the triton backend's work is cut. Any other
            number gives the same values, more slowly.

    Raises:
        ConfigError: If there is none of that name, or it cannot run on the cache's device.
    """
    if name in get_args(AttentionBackendName) and kv_cache.layout != kv_layout(name):
        raise ConfigError(f"backend: {name!r} reads {kv_layout(name)} KV, not {kv_cache.layout}")
    if name == "reference":
        return ReferenceBackend(kv_cache)
    if name == "torch":
        return TorchBackend(kv_cache)
    if name == "cpu":
        return CpuBackend(kv_cache)
    if name == "triton":
        return _triton_backend(kv_cache, group)
    raise ConfigError(f"backend: {name!r} is not one of reference, torch, cpu, triton")


def kv_layout(name: str) -> KVLayoutName:
    """How a backend wants K and V to lie in memory."""
    return "packed" if name == "cpu" else "plain"


def default_cost_model(name: str, numbers_per_token: int, group: int = 1) -> CostModel:
    """What a plan costs on a backend, until it is measured on the device itself.

    The unit is reading a token of 128 numbers with the torch backend on two AVX-512 cores: 34 ns
    with both, 46 ns with one. There a token takes (48 + n) / 176 of it for n numbers, in bfloat16
    as long as in float32; a state as long as 20 to 45 tokens; merging at all 75 to 100 µs of a
    layer, whatever the shape; and an item next to nothing.

    With the cpu backend the unit is a second of one AVX-512 core: 24 ps for each number of a
    token's K and V, of which the products of a group's query heads hide the more, the more there
    are; and for a state 0.87 ns for each number of a token, since it takes a unit of work more for
    each KV head, and 0.6 ns for each of its own numbers. So with 14 heads over 2 sharing pays from
    some 600 tokens on, with 8 over 8 from some 60. Fitted to 220 trees in four shapes, timed while
    the machine was busy: plans by these costs took 2% longer than the best ones on average, and of
    120 that share 8 took over 3% longer than plain ones, one of them 17%. `treeserve calibrate`
    knows a model's own.

    With the triton backend the unit is a second of an H100, worked out and not measured: K and V of
    16 bits at 3.35 TB/s; a state as long as 16 tokens (8 are its float32 numbers, written and read,
    with 4 query heads per KV head); an item's tiles 2.5 µs for each KV head of 128 dimensions
    before they read at full rate, on 396 programs at a time; and the merge's launch 4 µs. Items are
    cut at 512 tokens, so that one row of 16,384 tokens and 8 KV heads occupies the whole device.

    Args:
        name: As for make_backend.
        numbers_per_token: In K and V of one token in one layer.
        group: Query heads per KV head; the cpu backend's costs depend on it.
    """
    if name == "torch":
        token_cost = (48 + numbers_per_token) / 176
        return CostModel(
            token_cost=token_cost, state_cost=30 * token_cost, item_cost=0.0, sharing_cost=2700.0
        )
    if name == "cpu":
        return CostModel(
            token_cost=24e-12 * numbers_per_token / group**0.75,
            state_cost=(0.87e-9 + 0.6e-9 / 2 * group) * numbers_per_token,
            item_cost=0.0,
            sharing_cost=2e-6,
        )
    if name == "triton":
        token_cost = 2 * numbers_per_token / 3.35e12
        return CostModel(
            token_cost=token_cost,
            state_cost=16 * token_cost,
            item_cost=2.5e-6 / 396 * numbers_per_token / 256,
            sharing_cost=4e-6,
            max_item_tokens=512,
        )
    return CostModel()


def _triton_backend(kv_cache: KVCache, group: int) -> AttentionBackend:
    try:
        from treeserve.attention.triton_cuda import TritonBackend
    except ModuleNotFoundError as error:
        raise ConfigError(
            'backend: "triton" needs the triton package; install treeserve[cuda]'
        ) from error
    return TritonBackend(kv_cache, group)

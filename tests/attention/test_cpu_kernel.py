"""The compiled CPU kernel: its values, its threads, how it is built and what it refuses."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from attention.plans import Item, TreeStep, dense_attention, make_step
from attention.test_backends import SCALING, Layer

from treeserve.attention import make_backend
from treeserve.attention.cpu_build import build, find_or_build, library_path
from treeserve.attention.cpu_packed import why_not_chosen
from treeserve.batch import make_batch
from treeserve.errors import ConfigError, KernelError
from treeserve.kv_cache import KVCache

BFLOAT16 = torch.bfloat16


def attend_with_threads(layer: Layer, num_threads: int, **options) -> torch.Tensor:
    """With so many of PyTorch's threads, in this call alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        # Units are cut for the threads there are when the batch is made and first used.
        layer.batch = make_batch(layer.step, "cpu", layer.backend)
        return layer.attend(**options)
    finally:
        torch.set_num_threads(before)


def check_with_threads(layer: Layer, num_threads: int, **options) -> None:
    out = attend_with_threads(layer, num_threads, **options)
    expected = dense_attention(layer.q, *layer.stored, layer.step, scaling=SCALING, **options)
    torch.testing.assert_close(out.double(), expected, atol=2e-2, rtol=2e-2)


def paged(first_page: int, num_tokens: int, skipped: int = 0) -> list[int]:
    """The slots of a run of tokens in pages of 16, every other page another's."""
    tokens = np.arange(skipped, skipped + num_tokens)
    return ((first_page + 2 * (tokens // 16)) * 16 + tokens % 16).tolist()


def trunk_and_tails(prefix: int, num_rows: int, tail: int) -> TreeStep:
    """A trunk that ends in mid-page, tails that go on there in pages of their own."""
    trunk = paged(0, prefix)
    items = [Item(list(range(num_rows)), trunk, 0)]
    first = trunk[-1] // 16 + 1
    for row in range(num_rows):
        own = paged(first, tail, skipped=prefix % 16)
        first = own[-1] // 16 + 1
        items.append(Item([row], own, prefix))
    positions = [prefix + tail - 1] * num_rows
    step = make_step(items, positions, [item.slots[-1] for item in items[1:]])
    used = [slot for item in items for slot in item.slots]
    return TreeStep(step, max(used) + 1, used)


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    return float((out.double() - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt())


@pytest.mark.parametrize(("group", "head_dim"), [(7, 64), (1, 128), (16, 80)])
def test_values_are_as_near_to_float64_as_those_of_pytorchs_operator(cpu_kernel, group, head_dim):
    tree = trunk_and_tails(prefix=1100, num_rows=13, tail=37)
    errors = {}
    for name in ("cpu", "torch"):
        layer = Layer(name, tree, group=group, num_kv_heads=1, head_dim=head_dim, dtype=BFLOAT16)
        out = layer.attend()
        expected = dense_attention(layer.q, *layer.stored, layer.step, scaling=SCALING)
        errors[name] = relative_error(out, expected)
    assert errors["cpu"] < 4e-3
    assert errors["cpu"] < 1.1 * errors["torch"]


@pytest.mark.parametrize("num_threads", [2, 3])
def test_long_items_are_cut_for_several_threads_and_merged(cpu_kernel, num_threads):
    """One row with one KV head: without cuts a single thread would do it all."""
    slots = paged(3, 3000, skipped=5)
    step = make_step([Item([0], slots, 0)], [2999], [slots[-1]])
    layer = Layer("cpu", TreeStep(step, max(slots) + 1, slots), group=7, num_kv_heads=1)
    check_with_threads(layer, num_threads)
    sinks = torch.linspace(-1, 2, 7)
    check_with_threads(layer, num_threads, window=1700, softcap=2.0, sinks=sinks)


def test_a_prompts_chunk_with_several_threads_and_units(cpu_kernel):
    slots = paged(0, 300)
    positions = list(range(30, 300))
    step = make_step([Item(list(range(270)), slots, 0)], positions, slots[30:])
    layer = Layer("cpu", TreeStep(step, max(slots) + 1, slots), group=3, head_dim=32)
    check_with_threads(layer, 2)
    check_with_threads(layer, 2, window=100)


@pytest.mark.parametrize(("group", "head_dim"), [(3, 64), (1, 256)])
def test_a_window_may_begin_and_end_anywhere_in_a_long_run(cpu_kernel, group, head_dim):
    """Some rows see a part of the kernel's chunks in whole, others no part of the same."""
    slots = paged(0, 2300, skipped=3)
    positions = list(range(7, 2300, 71))
    writes = [slots[position] for position in positions]
    step = make_step([Item(list(range(len(positions))), slots, 0)], positions, writes)
    tree = TreeStep(step, max(slots) + 1, slots)
    layer = Layer("cpu", tree, group=group, num_kv_heads=2, head_dim=head_dim)
    layer.check()
    layer.check(window=700)
    layer.check(window=1500, softcap=3.0)


def test_a_scaling_that_turns_logits_round(cpu_kernel):
    layer = Layer("cpu", trunk_and_tails(prefix=100, num_rows=3, tail=20), head_dim=64)
    out = layer.backend.attend(layer.q, layer.k, layer.v, 1, layer.batch, scaling=-SCALING)
    expected = dense_attention(layer.q, *layer.stored, layer.step, scaling=-SCALING)
    torch.testing.assert_close(out.double(), expected, atol=2e-2, rtol=2e-2)


def test_a_token_whose_logit_is_minus_infinity_weighs_nothing(cpu_kernel):
    layer = Layer("cpu", trunk_and_tails(prefix=100, num_rows=3, tail=20), head_dim=64)
    layer.q[:, :, 0] = 1.0
    slots = np.array([3, 40], dtype=np.int32)
    layers = layer.cache.read_slots(slots)
    layers[1].k[:, :, 0] = -torch.inf
    layer.cache.write_slots(slots, layers)
    layer.check()
    layer.check(softcap=2.0)


def test_the_result_is_the_same_bits_whoever_computes_which_unit(cpu_kernel):
    layer = Layer("cpu", trunk_and_tails(prefix=700, num_rows=40, tail=20), group=4, head_dim=64)
    first = attend_with_threads(layer, 2)
    assert all(torch.equal(attend_with_threads(layer, 2), first) for _ in range(5))


def test_what_lies_in_other_slots_of_a_page_is_not_seen(cpu_kernel):
    """Another request's tokens, infinities and all, beside a segment that ends in mid-page."""
    slots = list(range(16 + 3, 16 + 12))
    step = make_step([Item([0], slots, 0)], [8], [slots[-1]])
    layer = Layer("cpu", TreeStep(step, 48, slots))
    layer.check()
    rest = np.setdiff1d(np.arange(48), slots).astype(np.int32)
    layers = layer.cache.read_slots(rest)
    layers[1].k.fill_(-torch.inf)
    layers[1].v.fill_(torch.inf)
    layer.cache.write_slots(rest, layers)
    layer.check()


def test_a_query_that_is_not_a_number_stays_one(cpu_kernel):
    layer = Layer("cpu", trunk_and_tails(prefix=20, num_rows=2, tail=2))
    layer.q[0, 1] = torch.nan
    out = layer.attend()
    assert out[0, 1].isnan().all()
    assert out[1].isfinite().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda layer: setattr(layer, "q", layer.q.float()), "q: bfloat16 is read, not"),
        (lambda layer: setattr(layer, "v", layer.v.float()), "v: bfloat16 is read, not"),
        (
            lambda layer: setattr(layer, "k", layer.k.repeat_interleave(2, -1)[..., ::2]),
            "k: a head's numbers are to lie side by side",
        ),
    ],
)
def test_tensors_of_another_kind_are_refused_not_converted(cpu_kernel, change, words):
    layer = Layer("cpu", trunk_and_tails(prefix=20, num_rows=2, tail=2))
    change(layer)
    with pytest.raises(TypeError, match=words):
        layer.attend()


def test_a_cache_of_another_layout_shape_or_place_is_refused(cpu_kernel):
    def cache(layout="packed", head_dim=16, device="cpu"):
        return KVCache([(1, head_dim)], 32, BFLOAT16, device, layout)

    with pytest.raises(ConfigError, match="'cpu' reads packed KV, not plain"):
        make_backend("cpu", cache(layout="plain"))
    with pytest.raises(ConfigError, match="'torch' reads plain KV, not packed"):
        make_backend("torch", cache())
    with pytest.raises(ConfigError, match="a multiple of 16 numbers, not of 24; try torch"):
        make_backend("cpu", cache(head_dim=24))
    with pytest.raises(ConfigError, match='"cpu" runs on cpu, not on meta'):
        make_backend("cpu", cache(device="meta"))


def test_a_batch_of_another_backend_is_refused(cpu_kernel):
    tree = trunk_and_tails(prefix=20, num_rows=2, tail=2)
    layer = Layer("cpu", tree)
    layer.batch = make_batch(tree.step, "cpu", Layer("torch", tree).backend)
    with pytest.raises(TypeError, match="another backend"):
        layer.attend()


def test_auto_takes_the_kernel_for_bfloat16_and_says_why_not_for_others(cpu_kernel):
    assert why_not_chosen(BFLOAT16, [64, 128], 16) is None
    assert why_not_chosen(torch.float32, [64], 16) == (
        "the kernel is for bfloat16, not for float32"
    )
    assert "heads of a multiple of 16 numbers, not of 8" in why_not_chosen(BFLOAT16, [64, 8], 16)
    assert "pages of 24 tokens" in why_not_chosen(BFLOAT16, [64], 24)


def test_without_a_compiler_the_torch_backend_serves(tmp_path, monkeypatch):
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))
    monkeypatch.delenv("TREESERVE_BUILD")
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    with pytest.raises(KernelError, match=r"no compiler '.*none'; install g"):
        find_or_build(print)
    assert why_not_chosen(BFLOAT16, [64], 16) is not None
    with pytest.raises(ConfigError, match=r'"cpu" (cannot run here|needs avx512)'):
        make_backend("cpu", KVCache([(1, 16)], 32, BFLOAT16, "cpu", "packed"))


def test_nothing_is_compiled_where_that_is_forbidden(tmp_path, monkeypatch):
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))
    with pytest.raises(KernelError, match="TREESERVE_BUILD=off; `treeserve build-kernels`"):
        find_or_build(print)
    assert not list(tmp_path.iterdir())


def compiler(folder: Path, script: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_compiler_that_fails_leaves_nothing_and_says_what_it_said(tmp_path, monkeypatch):
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", compiler(tmp_path, "echo 'plan.h:3: error: too old' >&2; exit 1"))
    with pytest.raises(KernelError, match=r"failed: plan\.h:3: error: too old"):
        build(library_path(), print)
    assert [path.name for path in library_path().parent.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("CXX", compiler(tmp_path, "exit 1"))
    with pytest.raises(KernelError, match=r"cannot write .*Not a directory"):
        build(library_path(), print)


def test_of_two_that_build_at_once_one_compiles(tmp_path, monkeypatch):
    """The second waits for the first and finds what it made."""
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path / "cache"))
    counted = tmp_path / "calls"
    script = f'echo call >> {counted}\nfor last; do :; done\necho library > "$last"'
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    lines: list[str] = []
    builders = [
        threading.Thread(target=build, args=(library_path(), lines.append)) for _ in range(4)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert counted.read_text() == "call\n"
    assert library_path().read_text() == "library\n"
    assert len(lines) == 1
    assert "compiling the CPU kernels" in lines[0]


def test_a_library_that_is_none_is_refused_in_one_line(cpu_kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path))
    library_path().parent.mkdir(parents=True)
    library_path().write_text("not a library")
    with pytest.raises(ConfigError, match=r"cannot load .*cpu-"):
        make_backend("cpu", KVCache([(1, 16)], 32, BFLOAT16, "cpu", "packed"))


def test_the_kernel_runs_on_pytorchs_own_threads(cpu_kernel):
    """Two libraries of threads would wait for each other: loading ours brings no second one."""
    program = (
        "import ctypes, sys, torch\n"
        "from treeserve.attention.cpu_build import library_path\n"
        "before = {line.split('/')[-1] for line in open('/proc/self/maps') if 'gomp' in line}\n"
        "ctypes.CDLL(str(library_path()))\n"
        "after = {line.split('/')[-1] for line in open('/proc/self/maps') if 'gomp' in line}\n"
        "sys.exit(before != after or len(after) != 1)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], env=os.environ, check=False).returncode == 0
    )

"""Other people's kernels: as far as a CPU can run them, their values on every kind of tree."""

import warnings

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from treeserve.attention.backend import make_backend
from treeserve.batch import make_batch
from treeserve.bench.attention import flash_infer, flex, sides
from treeserve.bench.attention.paths import cascade_tables, tree_paths
from treeserve.bench.attention.problem import Shape, make_problem, relative_error
from treeserve.bench.attention.sdpa import make_sdpa
from treeserve.bench.attention.sides import Subject, Unavailable
from treeserve.bench.attention.trees import decode_step
from treeserve.kernels import reference

TREES = ["1,2,6 | 40,20,5", "comb 5 | 12,3", "4 | 30", "1 | 25", "1,1,1 | 9,7,5"]
CPU = torch.device("cpu")


def make_subject(tree: str, shape: Shape) -> tuple[Subject, torch.Tensor]:
    """The subject, and the truth with its rows depth first."""
    step = decode_step(tree, "off")
    problem = make_problem(step, shape, CPU)
    paths = tree_paths(step)
    backend = make_backend("reference", problem.cache)
    truth = problem.attend(backend, make_batch(step, CPU, backend))
    return Subject(problem, paths), truth[torch.from_numpy(paths.order)]


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("shape", [Shape(4, 2, 16, "float32"), Shape(3, 3, 80, "float32")])
def test_fused_attention_per_request_computes_the_same(tree, shape):
    subject, truth = make_subject(tree, shape)
    assert relative_error(make_sdpa(subject).call(), truth) < 1e-5


def test_fused_attention_says_how_it_batches():
    shape = Shape(2, 1, 16, "float32")
    notes = [make_sdpa(make_subject(tree, shape)[0]).note for tree in TREES[:2]]
    assert notes == ["batched by equal length", "padded to the longest, with a mask"]


def test_what_does_not_fit_into_memory_says_what_it_needs(monkeypatch):
    subject, _ = make_subject("4 | 30", Shape(2, 1, 16, "float32"))
    monkeypatch.setattr(sides, "free_bytes", lambda _device: 1 << 12)
    with pytest.raises(Unavailable, match="does not fit: needs"):
        make_sdpa(subject)


@pytest.mark.parametrize("tree", TREES)
def test_the_block_mask_shows_each_row_its_own_path(tree):
    subject, truth = make_subject(tree, Shape(4, 2, 16, "float32"))
    side = flex.tree_flex(subject, flex_attention)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert relative_error(side.call(), truth) < 1e-5


@pytest.mark.parametrize("tree", TREES)
def test_the_cascade_levels_merge_to_the_whole_attention(tree):
    """What FlashInfer does with the tables: states level by level, merged."""
    subject, truth = make_subject(tree, Shape(4, 2, 16, "float32"))
    problem, query = subject.problem, subject.ordered_query()
    cache = problem.cache.layer(0)
    num_rows = len(query)
    levels = cascade_tables(subject.paths)
    o = query.new_zeros(num_rows * len(levels), 4, 16)
    lse = query.new_full((num_rows * len(levels), 4), -torch.inf)
    for i, table in enumerate(levels):
        rows, pages = table.row_starts.tolist(), table.page_starts.tolist()
        for group in range(len(rows) - 1):
            slots = torch.from_numpy(table.pages[pages[group] : pages[group + 1]]).long()
            if len(slots):
                own = slice(rows[group], rows[group + 1])
                k, v = (x[slots].repeat_interleave(2, dim=1) for x in cache)
                logits = torch.einsum("rhd,nhd->rhn", query[own], k) * problem.scaling
                states = slice(i * num_rows + rows[group], i * num_rows + rows[group + 1])
                lse[states] = logits.logsumexp(-1)
                o[states] = torch.einsum("rhn,nhd->rhd", logits.softmax(-1), v)
    states = torch.arange(num_rows * len(levels)).view(len(levels), num_rows).T.flatten()
    starts = torch.arange(num_rows + 1) * len(levels)
    merged = reference.merge_states(o, lse, states, starts)
    assert relative_error(merged, truth) < 1e-5


@pytest.mark.parametrize(
    "make", [flex.make_flex, flash_infer.make_decode, flash_infer.make_cascade]
)
def test_what_needs_cuda_says_so(make):
    subject, _ = make_subject("1 | 5", Shape(2, 1, 16, "float32"))
    with pytest.raises(Unavailable, match="cuda only"):
        make(subject)

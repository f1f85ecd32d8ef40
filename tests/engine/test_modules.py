"""Prompt modules with a real model: their KV, what is drawn after them, and who is refused."""

import numpy as np
import pytest
import tiny_models
import torch

from treeserve import LLM, InvalidRequest, SamplingParams
from treeserve.engine import EngineFork, TokenEvent
from treeserve.errors import NotPossible
from treeserve.scheduler.modules import Module, ModuleSet
from treeserve.scheduler.tree.imports import find_module

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, logprobs=1)
SHORT = SamplingParams(n=2, seed=4, max_tokens=4, ignore_eos=True)
SAMPLED = SamplingParams(n=3, seed=4, max_tokens=12, ignore_eos=True)
ROTARY_FAMILIES = ["llama", "qwen3", "gpt_neox", "cohere", "stablelm", "smollm3", "olmo"]


def module(key: str, length: int, start: int, step: int = 1) -> Module:
    tokens = np.random.default_rng(sum(key.encode())).integers(1, 257, length)
    positions = np.arange(start, start + step * length, step)
    return Module(key, tokens.astype(np.int32), positions.astype(np.int32))


START = module("start", 3, 0)
LONG = module("long", 300, 3)
B = module("b", 40, 310, step=2)
C = module("c", 17, 400)
OWN = [5, 9, 200, 31, 77]


def imports(*modules: Module, arguments: tuple[int, ...] = (), base: int = 440) -> ModuleSet:
    return ModuleSet(modules, np.array(arguments, dtype=np.int32), base)


def make(checkpoint_of, family: str = "llama", **options) -> LLM:
    defaults = {"num_pages": 400, "page_size": 4, "dtype": "float32"}
    return LLM(str(checkpoint_of(family)), **{**defaults, **options})


def kv_of(llm: LLM, wanted: Module) -> list[torch.Tensor]:
    """K and V of every layer, as they lie in the module's slots."""
    tree, _ = llm.engine.scheduler.insides()
    segment = find_module(tree, wanted, "")
    assert segment is not None
    assert not segment.is_pending
    layers = llm._built.kv_cache.read_slots(segment.slots)
    return [tensor for layer in layers for tensor in layer]


def drawn(llm: LLM, modules: ModuleSet | None, params=GREEDY, own=OWN) -> list[tuple[int, ...]]:
    [generation] = llm.generate([own], params, modules=modules)
    return [sample.token_ids for sample in generation.samples]


class EagerReference:
    """The same attention with transformers' own code: explicit mask and positions, no cache."""

    def __init__(self, family: str) -> None:
        self.model = tiny_models.make_model(family)

    def logprobs(self, modules: ModuleSet, own: list[int]) -> torch.Tensor:
        """[vocabulary_size] after the last of the own tokens."""
        tokens, positions, sees = [], [], []
        for each in modules.modules:
            first = len(tokens)
            for index in range(len(each)):
                sees.append(range(first, first + index + 1))
            tokens += each.token_ids.tolist()
            positions += each.positions.tolist()
        num_arguments = len(modules.argument_positions)
        for index, token in enumerate(own):
            sees.append(range(len(tokens) + 1))
            tokens.append(token)
            after = modules.base_position + index - num_arguments
            is_argument = index < num_arguments
            positions.append(int(modules.argument_positions[index]) if is_argument else after)
        mask = torch.full((len(tokens), len(tokens)), torch.finfo(torch.float32).min)
        for row, seen in enumerate(sees):
            mask[row, list(seen)] = 0
        with torch.inference_mode():
            logits = self.model(
                input_ids=torch.tensor([tokens]),
                position_ids=torch.tensor([positions]),
                attention_mask=mask[None, None],
                use_cache=False,
            ).logits
        return logits[0, -1].float().log_softmax(-1)


@pytest.mark.parametrize("family", ROTARY_FAMILIES)
def test_answers_are_those_of_the_same_attention_in_transformers(checkpoint_of, family):
    llm, reference = make(checkpoint_of, family), EagerReference(family)
    for modules in (
        imports(START, B, C, arguments=(307, 308)),
        imports(C, base=500),
        imports(START, B),
    ):
        [generation] = llm.generate([OWN], GREEDY, modules=modules)
        [sample] = generation.samples
        own = list(OWN)
        for token, entry in zip(sample.token_ids, sample.logprobs, strict=True):
            expected = reference.logprobs(modules, own)
            assert entry.logprob == pytest.approx(float(expected[token]), abs=2e-3)
            assert float(expected.max()) == pytest.approx(float(expected[token]), abs=2e-3)
            own.append(token)


def test_a_module_has_the_same_bits_whenever_and_beside_whomever_it_is_encoded(checkpoint_of):
    alone = make(checkpoint_of)
    drawn(alone, imports(LONG))
    busy = make(checkpoint_of, num_pages=140, overlap="on")
    params = SamplingParams(max_tokens=20, ignore_eos=True, temperature=0.0)
    for _ in range(2):
        busy.generate(
            [OWN, [1, 2, 3], [7] * 30],
            params,
            modules=[imports(START, LONG), None, imports(START, C)],
        )
        for before, again in zip(kv_of(alone, LONG), kv_of(busy, LONG), strict=True):
            assert torch.equal(before, again)
        assert busy.engine.scheduler.clear_cache() > 0


@pytest.mark.parametrize("seed", range(2))
def test_random_prompts_read_the_bits_of_modules_encoded_alone_whatever_is_evicted(
    checkpoint_of, seed
):
    """KV of every layer, slot by slot, after each of some random batches in scarce memory."""
    random = np.random.default_rng(seed)
    starts = np.sort(random.choice(np.arange(0, 400, 80), 5, replace=False)).tolist()
    schema = [module(f"{seed}-{i}", int(random.integers(1, 70)), s) for i, s in enumerate(starts)]
    alone = {}
    for each in schema:
        llm = make(checkpoint_of)
        alone[each.key] = (drawn(llm, imports(each)), kv_of(llm, each))
    busy = make(checkpoint_of, num_pages=56, overlap=("off", "on")[seed], reserve=0.0)
    tree, _ = busy.engine.scheduler.insides()
    num_compared = 0
    for _ in range(8):
        picks = [np.sort(random.choice(5, random.integers(1, 4), replace=False)) for _ in "abc"]
        sets = [imports(*(schema[pick] for pick in chosen)) for chosen in picks]
        owns = [random.integers(1, 257, random.integers(1, 9)).tolist() for _ in picks]
        busy.generate(owns, SHORT, modules=sets)
        for each in schema:
            if find_module(tree, each, "") is not None:
                for before, now in zip(alone[each.key][1], kv_of(busy, each), strict=True):
                    assert torch.equal(before, now)
                num_compared += 1
        busy.engine.scheduler.check()
    assert num_compared >= 10
    assert sum(busy.engine.scheduler.counts().evicted_tokens.values()) > 100
    for each in schema:
        assert drawn(busy, imports(each)) == alone[each.key][0]


def test_b_then_b_and_c_then_c_reads_each_ones_own_kv(checkpoint_of):
    """The published code reads B's KV for C in the third request."""
    llm = make(checkpoint_of)
    alone = {each.key: make(checkpoint_of) for each in (B, C)}
    expected = {"b": drawn(alone["b"], imports(B)), "c": drawn(alone["c"], imports(C))}
    both = drawn(make(checkpoint_of), imports(B, C))
    for _ in range(2):
        assert drawn(llm, imports(B)) == expected["b"]
        assert drawn(llm, imports(B, C)) == both
        assert drawn(llm, imports(C)) == expected["c"]
    for each in (B, C):
        for before, after in zip(kv_of(alone[each.key], each), kv_of(llm, each), strict=True):
            assert torch.equal(before, after)


@pytest.mark.parametrize(
    "options",
    [
        {"overlap": "on"},
        {"sharing": "always"},
        {"sharing": "off"},
        {"backend": "reference"},
        {"num_pages": 36, "reserve": 0.0},
        {"token_budget": 16},
    ],
    ids=str,
)
def test_samples_are_the_same_however_they_are_scheduled(checkpoint_of, options):
    sets = [imports(START, B), imports(START, C), imports(START, B, C), imports(C), None]
    expected = [drawn(make(checkpoint_of), modules, SAMPLED) for modules in sets]
    llm = make(checkpoint_of, **options)
    generations = llm.generate([OWN] * len(sets), SAMPLED, modules=sets)
    assert [[s.token_ids for s in g.samples] for g in generations] == expected
    if "reserve" in options:
        assert llm.engine.scheduler.counts().preempted_samples > 0
    for generation, modules in zip(generations, sets, strict=True):
        usage = generation.usage
        num_exact = usage.cached_tokens + usage.shared_tokens + usage.computed_tokens
        assert num_exact == len(OWN)
        assert usage.module_tokens == (0 if modules is None else modules.num_tokens)
        assert usage.prompt_tokens == num_exact + usage.module_tokens
    if "reserve" not in options:
        assert sum(g.usage.encoded_tokens for g in generations) == len(START) + len(B) + len(C)


@pytest.mark.slow
def test_the_triton_kernels_draw_the_same_after_modules(checkpoint_of):
    sets = [imports(START, module("d", 4, 20)), imports(START, module("e", 6, 20))]
    params = SamplingParams(seed=4, max_tokens=2, ignore_eos=True)
    expected = [drawn(make(checkpoint_of), modules, params) for modules in sets]
    llm = make(checkpoint_of, backend="triton", sharing="always")
    generations = llm.generate([OWN] * 2, params, modules=sets)
    assert [[s.token_ids for s in g.samples] for g in generations] == expected


def test_equal_continuations_share_and_different_sets_do_not(checkpoint_of):
    llm = make(checkpoint_of)
    long_own = [*OWN] * 4
    for modules, num_cached in [
        (imports(START, B), 0),
        (imports(START, B), len(long_own)),
        (imports(START, B, base=441), 0),
        (imports(START, B, arguments=(5,)), 0),
        (imports(B), 0),
        (None, 0),
    ]:
        [generation] = llm.generate([long_own], GREEDY, modules=modules)
        assert generation.usage.cached_tokens == num_cached


def test_a_branch_of_a_sample_after_modules_goes_on_as_if_it_had_been_sent_whole(checkpoint_of):
    modules = imports(START, B, arguments=(307,))
    llm = make(checkpoint_of)
    encoded = llm.prompter.encode(OWN, SAMPLED, modules=modules).request
    llm.engine.add(encoded)
    events = []
    while sum(isinstance(e, TokenEvent) and e.sample_index == 0 for e in events) < 5:
        events += llm.engine.step()[0]
    own = [e.token_id for e in events if isinstance(e, TokenEvent) and e.sample_index == 0]
    params = SamplingParams(seed=8, max_tokens=7, ignore_eos=True)
    llm.engine.fork(EngineFork("branch", encoded.request_id, 0, 4, params))
    while llm.engine.has_work():
        events += llm.engine.step()[0]
        llm.engine.scheduler.check()
    branch = [e.token_id for e in events if isinstance(e, TokenEvent) and e.request_id == "branch"]
    [expected] = drawn(make(checkpoint_of), modules, params, [*OWN, *own[:4]])
    assert tuple(branch) == expected


@pytest.mark.parametrize(
    ("modules", "field", "what"),
    [
        (imports(), "modules", "at least one"),
        (imports(B, B), "modules[1]", "twice"),
        (imports(B, arguments=(1, 2, 3, 4, 5, 6)), "modules.argument_positions", "are 6, and"),
        (imports(B, arguments=(-1,)), "modules.argument_positions", "must not be negative"),
        (imports(B, base=-2), "modules.base_position", "must not be negative, got -2"),
        (imports(B, base=1019), "modules", "reach position 1024"),
        (imports(module("far", 3, 1022)), "modules", "reach position 1024"),
        (
            imports(Module("m", np.array([1, 999], dtype=np.int32), np.arange(2, dtype=np.int32))),
            "modules[0].token_ids[1]",
            "outside the vocabulary of 320",
        ),
        (
            imports(Module("m", np.array([1, 2], dtype=np.int32), np.array([4, 4], np.int32))),
            "modules[0].positions",
            "must ascend",
        ),
        (
            imports(Module("m", np.array([1, 2], dtype=np.int32), np.array([4], np.int32))),
            "modules[0].positions",
            "one for each of the 2 tokens, got 1",
        ),
        (
            imports(Module("m", np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32))),
            "modules[0]",
            "at least one token",
        ),
    ],
)
def test_what_cannot_be_imported_is_one_error_that_names_the_field(
    checkpoint_of, modules, field, what
):
    llm = make(checkpoint_of)
    with pytest.raises(InvalidRequest) as caught:
        llm.generate([OWN], GREEDY, modules=modules)
    assert caught.value.field == field
    assert what in caught.value.description
    assert not llm.engine.has_work()


def test_modules_that_do_not_fit_into_the_pool_with_their_prompt_are_refused_at_once(
    checkpoint_of,
):
    llm = make(checkpoint_of, num_pages=20)
    with pytest.raises(InvalidRequest, match="import fewer, or give the engine more pages"):
        llm.generate([OWN], SamplingParams(max_tokens=5), modules=imports(LONG))


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "mistral"])
def test_models_with_sliding_windows_are_refused_by_name(checkpoint_of, family):
    llm = make(checkpoint_of, family)
    with pytest.raises(NotPossible, match="sliding window in layers 0"):
        llm.generate([OWN], GREEDY, modules=imports(B))
    assert drawn(llm, None)

"""The Python API: a model in this process, driven by whoever reads its results."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from treeserve.attention.backend import AttentionBackend, make_backend
from treeserve.calibration.choice import choose_cost_model
from treeserve.calibration.subject import Subject, make_subject
from treeserve.config import (
    DEFAULT_MAX_RUNNING,
    DEFAULT_PAGE_SIZE,
    DEFAULT_RESERVE,
    DEFAULT_TOKEN_BUDGET,
    BackendName,
    CalibrationMode,
    CudaGraphsMode,
    DtypeName,
    EngineOptions,
    ModelConfig,
    PolicyName,
    SchedulerConfig,
    SharingMode,
)
from treeserve.cuda_capture import CudaCapture
from treeserve.engine import Engine
from treeserve.errors import ConfigError, InvalidRequest
from treeserve.generation import InPlaceLoop, Item
from treeserve.kv_cache import KVCache
from treeserve.model import LoadedModel, load_model, resolve_device, resolve_model
from treeserve.prompt import EncodedPrompt, Prompter
from treeserve.runner import Runner
from treeserve.scheduler.scheduler import Scheduler
from treeserve.tokenizer import Tokenizer
from treeserve.types import (
    Delta,
    Finished,
    Generation,
    Prompt,
    PromptTree,
    Sample,
    SamplingParams,
    Sharing,
    TokenLogprob,
)

CPU_POOL_BYTES = 1 << 30
CUDA_POOL_FRACTION = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class BuiltEngine:
    """An engine and what belongs to it."""

    engine: Engine
    prompter: Prompter
    model: LoadedModel
    backend: str
    num_pages: int


def build_engine(options: EngineOptions) -> BuiltEngine:
    """Load the model and put an engine around it.

    Raises:
        ConfigError: An option is out of range.
        ModelError: The model cannot be loaded or served.
    """
    model_config = _model_config(options)
    _scheduler_config(options, 1)
    device = resolve_device(options.device)
    tokenizer = Tokenizer.load(resolve_model(options.model))
    model = load_model(model_config)
    num_pages = options.num_pages or _default_num_pages(model, device, options.page_size)
    config = _scheduler_config(options, num_pages)
    backend_name = _backend_name(options.backend, device)
    runner = Runner(
        model,
        _make_backend(backend_name, model, config),
        config.kept_logits,
        capture=_make_capture(options.cuda_graphs, backend_name, device),
        max_graph_rows=config.max_running,
    )
    prompter = Prompter(
        tokenizer,
        vocabulary_size=model.vocabulary_size,
        max_positions=model.max_positions,
        end_token_ids=model.end_token_ids,
    )
    cost_model = choose_cost_model(options.calibration, _subject(model, backend_name))
    scheduler = Scheduler(config, cost_model)
    return BuiltEngine(Engine(scheduler, runner), prompter, model, backend_name, num_pages)


def load_subject(options: EngineOptions) -> tuple[Subject, torch.device]:
    """What an engine of these options looks for a calibration of, and the device to measure on.

    Raises:
        ConfigError: An option is out of range.
        ModelError: The model cannot be loaded or served.
    """
    config = _model_config(options)
    backend_name = _backend_name(options.backend, resolve_device(options.device))
    model = load_model(config)
    return _subject(model, backend_name), model.device


class LLM:
    """A model in this process.

    Args:
        model: "embedded", a folder of a checkpoint, or a hub name.
        dtype: "auto" (as the checkpoint was saved), "float32", "bfloat16" or "float16".
        device: "auto", "cpu" or "cuda".
        backend: Of attention: "auto", "reference", "torch" or "triton".
        sharing: Of attention: "on" (where it pays), "always" (wherever a token is shared) or "off"
            (ordinary attention, every sample alone).
        num_pages: Pages of the KV pool; None is 1 GiB on a CPU, 80% of the free memory on cuda.
        page_size: Tokens of a page.
        token_budget: Rows of one step, at most.
        max_running: Samples that decode at once, at most.
        policy: Who is admitted next: "tree" (what shares first, with ageing), "fcfs" or "priority".
        reserve: Part of the pages a sample may need in the end that is kept free for it; 1: samples
            are never preempted.
        calibration: "auto" (what `treeserve calibrate` has measured on this device, if it has) or
            "off" (built-in costs, so that plans are the same on every machine).
        cuda_graphs: "auto" (steps in which every sample decodes are one CUDA graph each, on cuda
            with the triton backend), "on" (the same, or an error) or "off" (kernel by kernel).

    Raises:
        ConfigError: An option is out of range.
        ModelError: The model cannot be loaded or served.

    Example:
        >>> llm = LLM("embedded")
        >>> [result] = llm.generate("Read a number.", SamplingParams(n=4, max_tokens=16))
        >>> len(result.samples)
        4
    """

    def __init__(
        self,
        model: str = "embedded",
        *,
        dtype: DtypeName = "auto",
        device: str = "auto",
        backend: BackendName = "auto",
        sharing: SharingMode = "on",
        num_pages: int | None = None,
        page_size: int = DEFAULT_PAGE_SIZE,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
        max_running: int = DEFAULT_MAX_RUNNING,
        policy: PolicyName = "tree",
        reserve: float = DEFAULT_RESERVE,
        calibration: CalibrationMode = "auto",
        cuda_graphs: CudaGraphsMode = "auto",
    ) -> None:
        self._built = build_engine(
            EngineOptions(
                model=model,
                dtype=dtype,
                device=device,
                backend=backend,
                sharing=sharing,
                num_pages=num_pages,
                page_size=page_size,
                token_budget=token_budget,
                max_running=max_running,
                policy=policy,
                reserve=reserve,
                calibration=calibration,
                cuda_graphs=cuda_graphs,
            )
        )

        self._loop = InPlaceLoop(self._built.engine, self._built.prompter)

    @property
    def engine(self) -> Engine:
        """The engine itself, for introspection."""
        return self._built.engine

    @property
    def prompter(self) -> Prompter:
        """What checks and tokenises prompts for this model."""
        return self._built.prompter

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Generation]:
        """Samples of one or several prompts, which share what text they have in common.

        Args:
            prompts: Text, token ids, or a list of either.
            params: For all, or one for each prompt; None is the defaults.

        Returns:
            One result for each prompt, in order.

        Raises:
            InvalidRequest: Names the prompt, the field and the limit; nothing is computed.
        """
        encoded = self._encode(prompts, params)
        return self._run(encoded, [()] * len(encoded))

    def generate_tree(self, tree: PromptTree) -> list[Generation]:
        """Samples of every prompt of a tree that asks for some, depth first.

        Raises:
            InvalidRequest: Names the node, the field and the limit; nothing is computed.
        """
        encoded = self._built.prompter.encode_tree(tree)
        return self._run(encoded, [prompt.path for prompt in encoded])

    def stream(
        self, prompt: Prompt | PromptTree, params: SamplingParams | None = None
    ) -> Iterator[Item]:
        """The same as it grows: deltas of samples, and each prompt's usage after its last one.

        Args:
            prompt: A prompt, or a tree (which brings its own parameters).
            params: Of the prompt; None is the defaults.
        """
        prompter = self._built.prompter
        if isinstance(prompt, PromptTree):
            encoded = prompter.encode_tree(prompt)
        else:
            encoded = [prompter.encode(prompt, params)]
        return self._loop.stream(encoded)

    def sharing(self) -> Sharing:
        """What sharing saved since the model was loaded."""
        return self.engine.sharing

    def _encode(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
    ) -> list[EncodedPrompt]:
        several = _as_list(prompts)
        each = _params_for(several, params)
        encoded = []
        for index, (prompt, own) in enumerate(zip(several, each, strict=True)):
            try:
                encoded.append(self._built.prompter.encode(prompt, own, (index,)))
            except InvalidRequest as error:
                if len(several) == 1:
                    raise
                field = f"prompts[{index}].{error.field}"
                raise InvalidRequest(field, error.description) from None
        return encoded

    def _run(self, encoded: list[EncodedPrompt], paths: list[tuple[int, ...]]) -> list[Generation]:
        gathered = {prompt.path: _Gathered(prompt) for prompt in encoded}
        for item in self._loop.stream(encoded):
            gathered[item.path].push(item)
        return [
            gathered[prompt.path].generation(path)
            for prompt, path in zip(encoded, paths, strict=True)
        ]


class _Gathered:
    """One prompt's items, put together again."""

    def __init__(self, encoded: EncodedPrompt) -> None:
        self._deltas: list[list[Delta]] = [[] for _ in range(encoded.request.params.n)]
        self._finished: Finished | None = None

    def push(self, item: Item) -> None:
        if isinstance(item, Finished):
            self._finished = item
        else:
            self._deltas[item.sample_index].append(item)

    def generation(self, path: tuple[int, ...]) -> Generation:
        assert self._finished is not None
        samples = tuple(_sample(index, deltas) for index, deltas in enumerate(self._deltas))
        return Generation(samples=samples, usage=self._finished.usage, path=path)


def _sample(index: int, deltas: list[Delta]) -> Sample:
    last = deltas[-1]
    assert last.finish_reason is not None
    logprobs: tuple[TokenLogprob, ...] | None = None
    if last.logprobs is not None:
        logprobs = tuple(entry for delta in deltas for entry in delta.logprobs or ())
    return Sample(
        index=index,
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
        finish_reason=last.finish_reason,
        logprobs=logprobs,
    )


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    if prompts and all(isinstance(entry, int) for entry in prompts):
        return [[entry for entry in prompts if isinstance(entry, int)]]
    if any(isinstance(entry, int) for entry in prompts):
        raise InvalidRequest("prompts", "mixes token ids with texts or lists of token ids")
    return [entry for entry in prompts if not isinstance(entry, int)]


def _params_for(
    prompts: list[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * len(prompts)
    if len(params) != len(prompts):
        raise InvalidRequest(
            "params", f"one for each of the {len(prompts)} prompts is needed, got {len(params)}"
        )
    return list(params)


def _model_config(options: EngineOptions) -> ModelConfig:
    return ModelConfig(
        model=options.model,
        dtype=options.dtype,
        device=options.device,
        backend=options.backend,
        calibration=options.calibration,
        cuda_graphs=options.cuda_graphs,
    )


def _scheduler_config(options: EngineOptions, num_pages: int) -> SchedulerConfig:
    given = num_pages if options.num_pages is None else options.num_pages
    return SchedulerConfig(
        num_pages=given,
        page_size=options.page_size,
        token_budget=options.token_budget,
        max_running=min(options.max_running, options.token_budget),
        sharing=options.sharing,
        policy=options.policy,
        reserve=options.reserve,
    )


def _backend_name(name: BackendName, device: torch.device) -> str:
    if name == "auto":
        return "triton" if device.type == "cuda" else "torch"
    if name == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(f"backend: triton needs a CUDA device, not {device}; try backend=torch")
    return name


def _make_capture(
    mode: CudaGraphsMode, backend_name: str, device: torch.device
) -> CudaCapture | None:
    has_graphs = device.type == "cuda" and backend_name == "triton"
    if mode == "on" and not has_graphs:
        raise ConfigError(
            f"cuda_graphs: on needs device cuda with the triton backend, not {device} with "
            f"{backend_name}; try auto"
        )
    return CudaCapture(device) if has_graphs and mode != "off" else None


def _subject(model: LoadedModel, backend_name: str) -> Subject:
    return make_subject(model.layers, backend_name, model.dtype, model.device)


def _make_backend(name: str, model: LoadedModel, config: SchedulerConfig) -> AttentionBackend:
    cache = KVCache(
        [(layer.num_kv_heads, layer.head_dim) for layer in model.layers],
        num_slots=config.num_pages * config.page_size,
        dtype=model.dtype,
        device=model.device,
    )
    group = max(layer.num_heads // layer.num_kv_heads for layer in model.layers)
    return make_backend(name, cache, group)


def _default_num_pages(model: LoadedModel, device: torch.device, page_size: int) -> int:
    budget = CPU_POOL_BYTES
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        budget = int(free_bytes * CUDA_POOL_FRACTION)
    shapes = [(layer.num_kv_heads, layer.head_dim) for layer in model.layers]
    num_pages = budget // (KVCache.bytes_per_slot(shapes, model.dtype) * page_size)
    if num_pages < 1:
        raise ConfigError("num_pages: there is no memory left for a single page of KV")
    return int(num_pages)

"""The Python API: a model in this process, driven by whoever reads its results."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from treeserve.building import build_engine
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
    OverlapMode,
    PolicyName,
    QuantizationName,
    SharingMode,
)
from treeserve.engine import Engine
from treeserve.errors import InvalidRequest, NotPossible
from treeserve.gathered import Gathered
from treeserve.generation import InPlaceLoop
from treeserve.pml import CompiledSchema, ModulePrompt, Schema, compile_schema
from treeserve.prefixes.fingerprint import Fingerprint, make_fingerprint
from treeserve.prefixes.schema_file import SchemaFiles
from treeserve.prompt import EncodedPrompt, Prompter
from treeserve.scheduler.modules import Module, ModuleSet
from treeserve.schemas.importing import ImportedPrompt, as_imported
from treeserve.schemas.warming import encoding_prompts
from treeserve.text_stream import Item
from treeserve.types import (
    Chat,
    Generation,
    Prompt,
    PromptTree,
    SamplingParams,
    Sharing,
)


class LLM:
    """A model in this process.

    Args:
        model: "embedded", a folder of a checkpoint, or a hub name.
        dtype: "auto" (as the checkpoint was saved), "float32", "bfloat16" or "float16".
        device: "auto", "cpu" or "cuda".
        backend: Of attention: "auto", "reference", "torch", "cpu" or "triton".
        sharing: Of attention: "on" (where it pays), "always" (wherever a token is shared) or "off"
            (ordinary attention, every sample alone).
        num_pages: Pages of the KV pool; None is 1 GiB on a CPU, 80% of the free memory on cuda.
        page_size: Tokens of a page.
        token_budget: Rows of one step, at most.
        max_running: Samples that decode at once, at most.
        policy: Who is admitted next: "tree" (what shares first, with ageing), "fcfs" or "priority".
        reserve: Part of the pages a sample may need in the end that is kept free for it; 1: samples
            are never preempted.
        calibration: "measure" (what `treeserve calibrate` has measured on this device, or a
            measurement now), "auto" (that on cuda, else what it has measured, if it has) or "off"
            (built-in costs, so that plans are the same on every machine).
        cuda_graphs: "auto" (steps in which every sample decodes are one CUDA graph each, on cuda
            with the triton backend), "on" (the same, or an error) or "off" (kernel by kernel).
        overlap: "on" (the next step is decided while the device works on this one), "off" or "auto"
            (on with cuda, off with a CPU).
        tensor_parallel: Processes over which the model is spread, a GPU each where there are any.
            More than 1: others are started, and end with `close` or with this process.
        quantization: Of the linear layers' weights: "none", or "int8", for bfloat16 on a CPU.

    Raises:
        ConfigError: An option is out of range.
        ModelError: The model cannot be loaded or served.
        RankLost: One of the other processes ended; also from every later call.

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
        overlap: OverlapMode = "auto",
        tensor_parallel: int = 1,
        quantization: QuantizationName = "none",
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
                overlap=overlap,
                tensor_parallel=tensor_parallel,
                quantization=quantization,
            )
        )

        self._loop = InPlaceLoop(self._built.engine, self._built.prompter)

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        built = self._built
        return make_fingerprint(built.model, built.prompter.tokenizer, built.kv_cache)

    @property
    def engine(self) -> Engine:
        """The engine itself, for introspection."""
        return self._built.engine

    def close(self) -> None:
        """End the other processes, where there are any; nothing can be generated after that."""
        if self._built.leader is not None:
            self._built.leader.close()

    @property
    def prompter(self) -> Prompter:
        """What checks and tokenises prompts for this model."""
        return self._built.prompter

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        modules: ModuleSet | Sequence[ModuleSet | None] | None = None,
    ) -> list[Generation]:
        """Samples of one or several prompts, which share what text they have in common.

        Args:
            prompts: Text, token ids, or a list of either.
            params: For all, or one for each prompt; None is the defaults.
            modules: What they import, for all or one for each prompt; the prompts are then their
                own tokens. Approximate: modules do not see each other. None: nothing.

        Returns:
            One result for each prompt, in order.

        Raises:
            InvalidRequest: Names the prompt, the field and the limit; nothing is computed.
        """
        encoded = self._encode(prompts, params, modules)
        return self._run(encoded, [()] * len(encoded))

    def generate_tree(self, tree: PromptTree) -> list[Generation]:
        """Samples of every prompt of a tree that asks for some, depth first.

        Raises:
            InvalidRequest: Names the node, the field and the limit; nothing is computed.
        """
        encoded = self._built.prompter.encode_tree(tree)
        return self._run(encoded, [prompt.path for prompt in encoded])

    def stream(
        self,
        prompt: Prompt | PromptTree,
        params: SamplingParams | None = None,
        *,
        modules: ModuleSet | None = None,
    ) -> Iterator[Item]:
        """The same as it grows: deltas of samples, and each prompt's usage after its last one.

        Args:
            prompt: A prompt, or a tree (which brings its own parameters).
            params: Of the prompt; None is the defaults.
            modules: What the prompt imports; not for a tree.
        """
        prompter = self._built.prompter
        if isinstance(prompt, PromptTree):
            if modules is not None:
                raise InvalidRequest("modules", "are imported by a prompt, not by a tree")
            encoded = prompter.encode_tree(prompt)
        else:
            encoded = [prompter.encode(prompt, params, modules=modules)]
        return self._loop.stream(encoded)

    def compile_schema(self, schema: Schema) -> CompiledSchema:
        """A schema of prompt modules for this model; its prompt() gives what generate() takes.

        Args:
            schema: Of `treeserve.pml`: read, built, or a function's.

        Raises:
            PmlError: It is not sound, or has no room in the model.
        """
        return compile_schema(
            schema,
            self.prompter.tokenizer,
            model_fingerprint=self._fingerprint.model,
            max_positions=self.prompter.model_limits.max_positions,
        )

    def generate_modules(
        self,
        prompts: Sequence[ModulePrompt],
        params: SamplingParams | None = None,
        *,
        exact: bool = False,
    ) -> list[Generation]:
        """Samples of prompts that a compiled schema gave.

        Args:
            prompts: Each with what it imports.
            params: For all; None is the defaults. A prompt's own max_tokens holds without them.
            exact: Compute the same text as plain prompts, without approximation.

        Raises:
            InvalidRequest: Names the prompt, the field and the limit; nothing is computed.
            NotPossible: The model cannot read modules.
        """
        imported = [as_imported(prompt, exact=exact) for prompt in prompts]
        each = [params or _params_of(prompt) for prompt in imported]
        return self.generate(
            [prompt.token_ids for prompt in imported],
            each,
            modules=[prompt.modules for prompt in imported],
        )

    def save_schema(self, schema: Schema, file: str | os.PathLike[str]) -> CompiledSchema:
        """Write a schema and its modules with their KV to a file, encoding what is missing.

        Raises:
            PmlError: It is not sound, or has no room in the model.
            InvalidRequest: A module does not fit into the pool.
            NotPossible: It has no modules, the file cannot be written, or the model is spread over
                several processes.
        """

        def encode(compiled: CompiledSchema, module: Module) -> None:
            for _ in self._loop.stream(
                encoding_prompts(self.prompter, [module], compiled.base_position, "")
            ):
                pass

        return self._schema_files().save(schema, Path(file), encode)

    def restore_schema(self, file: str | os.PathLike[str]) -> CompiledSchema:
        """A saved schema, by a server or by save_schema(); its modules need no encoding now.

        Raises:
            Damaged: The file is not what was written.
            NotPossible: It is another model's, tokenizer's, dtype's or version's; says in what.
            NoRoom: Its modules do not fit into the pool.
        """
        return self._schema_files().restore(Path(file))

    def sharing(self) -> Sharing:
        """What sharing saved since the model was loaded."""
        return self.engine.sharing

    def _schema_files(self) -> SchemaFiles:
        built = self._built
        if built.leader is not None:
            raise NotPossible("tensor_parallel: this process has the KV of some heads only")
        size = built.model.vocabulary_size
        self._loop.settle()
        return SchemaFiles(
            self.engine, built.kv_cache, self._fingerprint, size, self.compile_schema
        )

    def _encode(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        modules: ModuleSet | Sequence[ModuleSet | None] | None,
    ) -> list[EncodedPrompt]:
        several = _as_list(prompts)
        each = _params_for(several, params)
        imported = _modules_for(several, modules)
        encoded = []
        for index, (prompt, own) in enumerate(zip(several, each, strict=True)):
            try:
                encoded.append(
                    self._built.prompter.encode(prompt, own, (index,), modules=imported[index])
                )
            except InvalidRequest as error:
                if len(several) == 1:
                    raise
                field = f"prompts[{index}].{error.field}"
                raise InvalidRequest(field, error.description) from None
        return encoded

    def _run(self, encoded: list[EncodedPrompt], paths: list[tuple[int, ...]]) -> list[Generation]:
        gathered = {prompt.path: Gathered(prompt) for prompt in encoded}
        for item in self._loop.stream(encoded):
            gathered[item.path].push(item)
        return [
            gathered[prompt.path].generation(path)
            for prompt, path in zip(encoded, paths, strict=True)
        ]


def _params_of(prompt: ImportedPrompt) -> SamplingParams:
    defaults = SamplingParams()
    most = prompt.max_tokens
    return defaults if most is None else replace(defaults, max_tokens=most)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | Chat):
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


def _modules_for(
    prompts: list[Prompt], modules: ModuleSet | Sequence[ModuleSet | None] | None
) -> list[ModuleSet | None]:
    if modules is None or isinstance(modules, ModuleSet):
        return [modules] * len(prompts)
    if len(modules) != len(prompts):
        raise InvalidRequest(
            "modules", f"one for each of the {len(prompts)} prompts is needed, got {len(modules)}"
        )
    return list(modules)

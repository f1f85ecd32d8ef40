"""Tokens of texts, texts of tokens, and counts: what prompts have in common counts once."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from treeserve.prompt import Prompter, walk_tree
from treeserve.request_checks import check_text, check_token_ids
from treeserve.schemas.importing import Importing, encode_importing_tree
from treeserve.types import Chat, Prompt, PromptTree, RequestOptions, TokenCounts, Usage


def tokenize(prompter: Prompter, prompt: str | Chat, *, special_tokens: bool) -> tuple[int, ...]:
    """As TextService.tokenize."""
    if isinstance(prompt, Chat) or special_tokens:
        return prompter.token_ids(prompt)
    check_text("prompt", prompt)
    return tuple(prompter.tokenizer.encode(prompt, special_tokens=False))


def detokenize(prompter: Prompter, token_ids: Sequence[int], *, special_tokens: bool) -> str:
    """As TextService.detokenize."""
    check_token_ids("token_ids", token_ids, prompter.model_limits.vocabulary_size)
    return prompter.tokenizer.decode(token_ids, special_tokens=special_tokens)


def count_tokens(prompter: Prompter, prompt: Prompt | PromptTree) -> TokenCounts:
    """As TextService.count_tokens."""
    if not isinstance(prompt, PromptTree):
        length = len(prompter.token_ids(prompt))
        return TokenCounts(length, length, {(): length})
    nodes = [node for node in walk_tree(prompt, prompter.limits) if node.num_samples > 0]
    prompts = {node.path: prompter.node_token_ids(node) for node in nodes}
    flat = sum(node.num_samples * len(prompts[node.path]) for node in nodes)
    lengths = {path: len(token_ids) for path, token_ids in prompts.items()}
    return TokenCounts(count_distinct(prompts.values()), flat, lengths)


def count_importing(
    prompter: Prompter, importing: Importing, tree: PromptTree | None
) -> TokenCounts:
    """As TextService.count_importing."""
    if tree is None:
        own = importing.imported()
        num_modules = 0 if own.modules is None else own.modules.num_tokens
        length = len(own.token_ids) + num_modules
        return TokenCounts(length, length, {(): length}, num_modules)
    prompts = encode_importing_tree(prompter, tree, importing, RequestOptions())
    requests = [prompt.request for prompt in prompts]
    # All prompts of a tree import the same modules, or none does.
    modules = requests[0].modules
    num_modules = 0 if modules is None else modules.num_tokens
    lengths = [num_modules + len(request.prompt_token_ids) for request in requests]
    flat = sum(r.params.n * length for r, length in zip(requests, lengths, strict=True))
    distinct = count_distinct(request.prompt_token_ids for request in requests)
    paths = (prompt.path for prompt in prompts)
    by_path = dict(zip(paths, lengths, strict=True))
    return TokenCounts(num_modules + distinct, flat, by_path, num_modules)


def count_distinct(prompts: Iterable[Sequence[int]]) -> int:
    """Tokens of the tree that the prompts make: common beginnings are counted once."""
    total = 0
    last = np.zeros(0, dtype=np.int64)
    for prompt in sorted(map(tuple, prompts)):
        tokens = np.array(prompt, dtype=np.int64)
        total += len(tokens) - _common_length(last, tokens)
        last = tokens
    return total


def combined_usage(prompts: Sequence[Sequence[int]], usages: Sequence[Usage]) -> Usage:
    """The usage of a tree: each of its tokens counted once.

    What was cached is a beginning of each prompt; what is neither cached nor computed by the tree
    was computed by others meanwhile.
    """
    distinct = count_distinct(prompts)
    computed = min(distinct, sum(usage.computed_tokens for usage in usages))
    beginnings = [
        prompt[: usage.cached_tokens] for prompt, usage in zip(prompts, usages, strict=True)
    ]
    cached = min(distinct - computed, count_distinct(beginnings))
    # All prompts of a tree import the same modules, or none does.
    num_module_tokens = max((usage.module_tokens for usage in usages), default=0)
    return Usage(
        prompt_tokens=distinct + num_module_tokens,
        cached_tokens=cached,
        shared_tokens=distinct - computed - cached,
        computed_tokens=computed,
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        recomputed_tokens=sum(usage.recomputed_tokens for usage in usages),
        module_tokens=num_module_tokens,
        encoded_tokens=max((usage.encoded_tokens for usage in usages), default=0),
    )


def _common_length(left: NDArray[np.int64], right: NDArray[np.int64]) -> int:
    length = min(len(left), len(right))
    differs = np.flatnonzero(left[:length] != right[:length])
    return int(differs[0]) if len(differs) else length

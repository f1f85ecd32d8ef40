"""Grammars that samples are guided by, compiled by `llguidance` (the extra "guidance")."""

import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treeserve.errors import InvalidRequest, NotPossible
from treeserve.tokenizer import Tokenizer
from treeserve.types import Guidance

MAX_COMPILED = 64
"""Grammars that are kept for requests to come."""

_JSON_DEFAULTS = {"whitespace_flexible": False}
"""A model that may draw whitespace for ever sometimes does; a schema's x-guidance can allow it."""


class Guide:
    """Compiles grammars for one model; belongs to one thread.

    Args:
        tokenizer: The model's.
        vocabulary_size: Of its logits.
        end_token_ids: The model's own end-of-text tokens: what may come when a text is complete.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocabulary_size: int, end_token_ids: Iterable[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._end_token_ids = sorted(end_token_ids)
        self._compiled: OrderedDict[Guidance, CompiledGrammar] = OrderedDict()
        self._guided_tokenizer: Any = None

    def compile(self, guidance: Guidance) -> "CompiledGrammar":
        """A grammar that matchers start from.

        Raises:
            NotPossible: llguidance is not installed, or the model cannot be guided.
            InvalidRequest: It is no grammar of its kind; says where it goes wrong.
        """
        compiled = self._compiled.pop(guidance, None) or self._compile(guidance)
        self._compiled[guidance] = compiled
        if len(self._compiled) > MAX_COMPILED:
            self._compiled.popitem(last=False)
        return compiled

    def _compile(self, guidance: Guidance) -> "CompiledGrammar":
        llguidance = _llguidance()
        tokenizer = self._load_tokenizer()
        try:
            grammar = _grammar_text(llguidance, guidance)
        except ValueError as error:
            raise InvalidRequest(f"guidance.{guidance.kind}", _on_one_line(str(error))) from None
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidRequest(f"guidance.{guidance.kind}", _on_one_line(matcher.get_error()))
        return CompiledGrammar(matcher)

    def _load_tokenizer(self) -> Any:
        if self._guided_tokenizer is None:
            if not self._end_token_ids:
                raise NotPossible("guidance: the model has no end-of-text token to end a text with")
            from llguidance.hf import from_tokenizer

            try:
                self._guided_tokenizer = from_tokenizer(
                    self._tokenizer.pretrained,
                    n_vocab=self._vocabulary_size,
                    eos_token=self._end_token_ids,
                )
            except ValueError as error:
                raise NotPossible(
                    f"guidance: llguidance does not know the model's tokenizer: {error}"
                ) from None
        return self._guided_tokenizer


class CompiledGrammar:
    """A grammar for any number of samples."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def after(self, token_ids: Sequence[int]) -> "CompiledGrammar":
        """What may follow tokens that the grammar allows."""
        if not token_ids:
            return self
        matcher = self._matcher.deep_copy()
        matcher.consume_tokens(list(token_ids))
        return CompiledGrammar(matcher)

    def start(self) -> "GrammarMatcher":
        return GrammarMatcher(self._matcher.deep_copy())


class GrammarMatcher:
    """How far one sample is in its grammar; once that is complete, only its end may come."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def error(self) -> str:
        """Why it cannot go on; "" while it can."""
        return str(self._matcher.get_error())

    def fill_mask(self, mask: NDArray[np.int32]) -> None:
        """Set the bits of the tokens that may come next."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, mask[None])

    def observe(self, token_id: int) -> None:
        """The sample drew a token."""
        self._matcher.consume_token(token_id)


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise NotPossible(
            "guidance: the server has no llguidance; install it with: pip install "
            "'treeserve[guidance]'"
        ) from None
    return llguidance


def _grammar_text(llguidance: Any, guidance: Guidance) -> str:
    source, matcher = guidance.source, llguidance.LLMatcher
    if guidance.kind == "choice":
        lark = "start: " + " | ".join(json.dumps(choice) for choice in source)
        return str(matcher.grammar_from_lark(lark))
    if guidance.kind == "json_schema":
        return str(matcher.grammar_from_json_schema(source, defaults=_JSON_DEFAULTS))
    if guidance.kind == "regex":
        return str(matcher.grammar_from_regex(source))
    return str(matcher.grammar_from_lark(source))


def _on_one_line(text: str) -> str:
    return " ".join(text.split())

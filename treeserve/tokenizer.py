"""The tokenizer of a checkpoint, and text that grows token by token."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from treeserve.errors import ModelError

REPLACEMENT_CHARACTER = "\ufffd"


class Tokenizer:
    """Text to token ids and back, as the checkpoint's own tokenizer does it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, model: str | Path) -> "Tokenizer":
        """Load from a folder or a hub name.

        Raises:
            ModelError: There is no tokenizer, or it cannot be read.
        """
        try:
            return cls(AutoTokenizer.from_pretrained(model))
        except Exception as error:
            raise ModelError(f"model: cannot load the tokenizer of {model}: {error}") from error

    def fingerprint(self) -> str:
        """Equal for tokenizers that make the same ids of the same texts, and for hardly any other.

        A SHA-256 in hexadecimal, over all that a fast tokenizer is, or a slow one's vocabulary.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None:
            content = backend.to_str()
        else:
            vocabulary = sorted(self._tokenizer.get_vocab().items())
            content = json.dumps([type(self._tokenizer).__name__, vocabulary])
        return hashlib.sha256(content.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token ids of the whole text, begun with the special tokens of the model's prompts."""
        ids: list[int] = self._tokenizer(text, return_attention_mask=False)["input_ids"]
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the ids, without special tokens."""
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


class TextDecoder:
    """Text of a growing list of tokens, released only when its characters are complete.

    The bytes of one character can span tokens, and a token's text can depend on the one before
    it: so each piece is the difference of two decodings that start a few tokens back (the scheme
    of Hugging Face's text-generation-inference).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._context_start = 0
        self._released_end = 0

    def push(self, token_id: int) -> str:
        """Add one token; returns the text that became complete with it, often its own, maybe ""."""
        self._token_ids.append(token_id)
        text = self._pending_text()
        if text.endswith(REPLACEMENT_CHARACTER):
            return ""
        return self._release(text)

    def flush(self) -> str:
        """The rest, complete or not, when no token will follow."""
        return self._release(self._pending_text())

    def _pending_text(self) -> str:
        context = self._tokenizer.decode(self._token_ids[self._context_start : self._released_end])
        return self._tokenizer.decode(self._token_ids[self._context_start :])[len(context) :]

    def _release(self, text: str) -> str:
        self._context_start = self._released_end
        self._released_end = len(self._token_ids)
        return text

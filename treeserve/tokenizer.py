"""The tokenizer of a checkpoint, and text that grows token by token."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from jinja2 import TemplateError
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from treeserve.errors import InvalidRequest, ModelError, NotPossible
from treeserve.types import Chat

REPLACEMENT_CHARACTER = "\ufffd"
MAX_CHARACTER_TOKENS = 4
"""A character has at most one for each of its bytes."""


class Tokenizer:
    """Text to token ids and back, as the checkpoint's own tokenizer does it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        # What the tokenizer does not know is no other role's text.
        self._special_ids = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

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

    @property
    def pretrained(self) -> PreTrainedTokenizerBase:
        """The tokenizer itself."""
        return self._tokenizer

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Texts that stand for something else than themselves."""
        return tuple(self._tokenizer.all_special_tokens)

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

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Token ids of the whole text, begun with the special tokens of the model's prompts."""
        ids: list[int] = self._tokenizer(
            text, return_attention_mask=False, add_special_tokens=special_tokens
        )["input_ids"]
        return ids

    def encode_chat(self, chat: Chat) -> list[int]:
        """Token ids of a chat up to where the model's next turn begins, by its own template.

        Raises:
            NotPossible: The model has no chat template, or it knows of no tools.
            InvalidRequest: The template refuses the chat, for its roles or their order.
        """
        return self.encode(self.render_chat(chat), special_tokens=False)

    def render_chat(self, chat: Chat, *, next_turn: bool = True) -> str:
        """A chat as its template writes it, with the beginning of the model's next turn or without.

        Raises:
            NotPossible: The model has no chat template.
            InvalidRequest: The template refuses the chat, for its roles or their order.
        """
        if not self._tokenizer.chat_template:
            raise NotPossible("messages: the model has no chat template; give the prompt as text")
        if chat.tools and "tools" not in str(self._tokenizer.chat_template):
            raise NotPossible("tools: the model's chat template knows of none")
        messages = [{**m.more, "role": m.role, "content": m.content} for m in chat.messages]
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages,
                tools=[dict(tool) for tool in chat.tools] or None,
                tokenize=False,
                add_generation_prompt=next_turn,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequest(
                "messages", f"the model's chat template refuses them: {error}"
            ) from None
        return text

    @cached_property
    def _plain(self) -> FastTokenizer | None:
        """Made when it is first needed: copying a large vocabulary takes a second."""
        return _plain_tokenizer(self._tokenizer)

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of text in which special tokens are characters like any others.

        No special tokens are put before or after it.

        Raises:
            InvalidRequest: This tokenizer makes a special token of it all the same.
        """
        if self._plain is None:
            ids: list[int] = self._tokenizer(
                text,
                return_attention_mask=False,
                add_special_tokens=False,
                split_special_tokens=True,
            )["input_ids"]
        else:
            ids = self._plain.encode(text, add_special_tokens=False).ids
        special = self._special_ids.intersection(ids)
        if special:
            token = self._tokenizer.convert_ids_to_tokens(min(special))
            raise InvalidRequest("text", f"must not contain the special token {token!r}")
        return ids

    def beginning(self) -> list[int]:
        """The special tokens that the model's prompts begin with, mostly one or none."""
        with_beginning, plain = self.encode("a"), self.encode("a", special_tokens=False)
        for start in range(len(with_beginning) - len(plain) + 1):
            if with_beginning[start : start + len(plain)] == plain:
                return with_beginning[:start]
        return []

    def decode(self, token_ids: Sequence[int], *, special_tokens: bool = False) -> str:
        """Text of the ids, without special tokens unless they are asked for."""
        text: str = self._tokenizer.decode(
            list(token_ids),
            skip_special_tokens=not special_tokens,
            clean_up_tokenization_spaces=False,
        )
        return text


class TextDecoder:
    """Text of a growing list of tokens, released only when its characters are complete.

    The bytes of one character can span tokens, and a token's text can depend on the one before
    it: so each piece is the difference of two decodings that start a few tokens back (the scheme
    of Hugging Face's text-generation-inference).

    Args:
        tokenizer: Decodes them.
        context: Tokens just before the first. A character that they leave incomplete belongs to
            the text; the characters that they complete do not.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._token_ids = list(context)
        self._context_start = 0
        self._released_end = self._complete_end()

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

    def _complete_end(self) -> int:
        """Where the last incomplete character of the context begins."""
        end = len(self._token_ids)
        for start in range(end, max(-1, end - MAX_CHARACTER_TOKENS), -1):
            if not self._tokenizer.decode(self._token_ids[:start]).endswith(REPLACEMENT_CHARACTER):
                return start
        return end

    def _pending_text(self) -> str:
        context = self._tokenizer.decode(self._token_ids[self._context_start : self._released_end])
        return self._tokenizer.decode(self._token_ids[self._context_start :])[len(context) :]

    def _release(self, text: str) -> str:
        self._context_start = self._released_end
        self._released_end = len(self._token_ids)
        return text


def _plain_tokenizer(tokenizer: PreTrainedTokenizerBase) -> FastTokenizer | None:
    """A copy that knows no special tokens: calls that switch them off and on again would race."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    plain = FastTokenizer.from_str(backend.to_str())
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    return plain

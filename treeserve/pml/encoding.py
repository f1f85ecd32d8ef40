"""Texts in token ids, each by itself: what is next to a text never changes its tokens."""

from treeserve.errors import InvalidRequest
from treeserve.pml.place import PmlError
from treeserve.pml.tags import Text
from treeserve.pml.turns import TemplateText
from treeserve.request_checks import check_text
from treeserve.tokenizer import Tokenizer


class TextEncoder:
    """Knows which texts may hold special tokens: a template's may, nobody else's."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: Text | TemplateText) -> list[int]:
        """Token ids, without any that stand before or after a whole prompt.

        Raises:
            PmlError: The text cannot be kept plain, or is not valid Unicode.
        """
        if isinstance(text, TemplateText):
            return self.tokenizer.encode(text.text, special_tokens=False) if text.text else []
        try:
            check_text("text", text.text)
            return self.tokenizer.encode_plain(text.text) if text.text else []
        except InvalidRequest as error:
            raise PmlError(text.place, f"text {error.description}") from None

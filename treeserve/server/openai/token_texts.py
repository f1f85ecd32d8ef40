"""The texts of single tokens, each decoded once."""

from collections.abc import Callable

from treeserve.server.contract import TextService


class TokenTexts:
    """Grows with the tokens that were asked for, at most to the vocabulary's size."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}

    def of(self, service: TextService) -> Callable[[int], str]:
        """From a token's id to its text, special tokens as they are written."""

        def text_of(token_id: int) -> str:
            text = self._texts.get(token_id)
            if text is None:
                text = service.detokenize([token_id], special_tokens=True)
                self._texts[token_id] = text
            return text

        return text_of

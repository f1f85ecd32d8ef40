"""Text of modules is tokenised as characters, whatever special tokens are called."""

import pytest
import tiny_models
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from treeserve.embedded import MODEL_FOLDER
from treeserve.errors import InvalidRequest
from treeserve.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "token"),
    [
        (lambda: tiny_models.byte_tokenizer(), "<end>"),
        (lambda: Tokenizer.load(MODEL_FOLDER).pretrained, "<|bos|>"),
        (lambda: ByT5Tokenizer(), "</s>"),
    ],
    ids=["bytes", "embedded", "without a fast tokenizer"],
)
def test_the_name_of_a_special_token_is_characters(tokenizer, token):
    pretrained = tokenizer()
    plain = Tokenizer(pretrained)
    text = f"say {token} now"
    token_ids = plain.encode_plain(text)
    assert pretrained.convert_tokens_to_ids(token) not in token_ids
    assert plain.decode(token_ids) == text
    assert pretrained.convert_tokens_to_ids(token) in plain.encode(text)


def word_tokenizer(**special_tokens: str) -> Tokenizer:
    words = FastTokenizer(models.WordLevel({"?": 0, "a": 1, "end": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=words, **special_tokens))


def test_unknown_words_are_no_special_tokens():
    assert word_tokenizer(unk_token="?").encode_plain("a wizard") == [1, 0]


def test_text_that_is_a_special_token_in_the_vocabulary_itself_is_refused():
    with pytest.raises(InvalidRequest, match="text: must not contain the special token 'end'"):
        word_tokenizer(eos_token="end").encode_plain("a end")


def test_only_what_stands_before_the_text_is_its_beginning():
    assert Tokenizer.load(MODEL_FOLDER).beginning() == [0]
    assert Tokenizer(tiny_models.byte_tokenizer()).beginning() == []

"""A guided text is what it has to be, whatever the seed."""

import json
import re
import sys

import pytest
import tiny_models

from treeserve import LLM, SamplingParams
from treeserve.errors import InvalidRequest, NotPossible
from treeserve.prompt import Prompter
from treeserve.tokenizer import Tokenizer
from treeserve.types import FinishReason, Guidance

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "likes": {"type": "array", "items": {"enum": ["tea", "jazz", "née"]}, "maxItems": 3},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llm(checkpoint_of) -> LLM:
    return LLM(str(checkpoint_of("llama")), num_pages=96, page_size=16)


def texts(llm: LLM, guidance: Guidance, *, n: int = 12, **params) -> list[str]:
    params = {"temperature": 1.5, "max_tokens": 200, **params}
    [result] = llm.generate("Say it: ", SamplingParams(n=n, guidance=guidance, **params))
    assert {sample.finish_reason for sample in result.samples} == {FinishReason.STOP}
    return [sample.text for sample in result.samples]


def test_a_json_schema_gives_values_of_it(llm):
    drawn = texts(llm, Guidance("json_schema", json.dumps(SCHEMA)))
    for text in drawn:
        value = json.loads(text)
        assert set(value) == {"name", "age", "likes"}
        assert len(value["name"]) <= 8
        assert 0 <= value["age"] <= 150
        assert set(value["likes"]) <= {"tea", "jazz", "née"}
    assert len(set(drawn)) == 12


def test_a_regular_expression_gives_texts_that_match_it_whole(llm):
    pattern = "(ab|né){2,4}-[0-9]{3}"
    drawn = texts(llm, Guidance("regex", pattern))
    assert all(re.fullmatch(pattern, text) for text in drawn)
    assert len(set(drawn)) > 1


def test_choices_give_one_of_them(llm):
    choices = ("yes", "no", 'née "so"', "yes, but")
    drawn = texts(llm, Guidance("choice", choices), n=40, temperature=8)
    assert set(drawn) <= set(choices)
    assert len(set(drawn)) > 1


def test_a_grammar_gives_texts_of_its_language(llm):
    lark = 'start: "(" start ")" | "x"'
    for text in texts(llm, Guidance("grammar", lark)):
        assert re.fullmatch(r"(\(*)x(\)*)", text)
        assert text.count("(") == text.count(")")


def test_greedy_samples_are_guided_too(llm):
    assert texts(llm, Guidance("choice", ("left", "right")), n=1, temperature=0)[0] in {
        "left",
        "right",
    }


def test_guided_samples_do_not_touch_their_neighbours(llm):
    plain = SamplingParams(n=2, seed=3, max_tokens=20)
    guided = SamplingParams(n=2, seed=3, max_tokens=20, guidance=Guidance("regex", "[ab]{9}"))
    [alone] = llm.generate(["Say it: "], plain)
    [beside, other] = llm.generate(["Say it: ", "Say it: "], [plain, guided])
    assert [s.token_ids for s in beside.samples] == [s.token_ids for s in alone.samples]
    assert all(re.fullmatch("[ab]{9}", sample.text) for sample in other.samples)


@pytest.mark.parametrize(
    ("guidance", "field", "reason"),
    [
        (Guidance("json_schema", "{"), "guidance.json_schema", "EOF|JSON|object"),
        (Guidance("json_schema", '{"type": "nothing"}'), "guidance.json_schema", "nothing"),
        (Guidance("regex", "((a"), "guidance.regex", "unclosed group"),
        (Guidance("regex", ""), "guidance.regex", "not empty"),
        (Guidance("regex", "a\ud800"), "guidance.regex", "half a character"),
        (Guidance("regex", "a" * 65_537), "guidance.regex", "65536"),
        (Guidance("grammar", 'start: "a" missing'), "guidance.grammar", "missing"),
        (Guidance("choice", ()), "guidance.choice", "1 to 1024"),
        (Guidance("choice", ("a", "")), "guidance.choice[1]", "not empty"),
        (Guidance("poem", "a"), "guidance.kind", "must be one of"),
    ],
)
def test_what_is_no_grammar_is_refused_by_name(llm, guidance, field, reason):
    with pytest.raises(InvalidRequest, match=reason) as caught:
        llm.generate("a", SamplingParams(guidance=guidance))
    assert caught.value.field == field


def test_a_guided_text_must_be_able_to_end(llm):
    with pytest.raises(InvalidRequest, match="ignore_eos"):
        llm.generate("a", SamplingParams(guidance=Guidance("regex", "a"), ignore_eos=True))


def prompter(end_token_ids: frozenset[int]) -> Prompter:
    return Prompter(
        Tokenizer(tiny_models.byte_tokenizer()),
        vocabulary_size=tiny_models.VOCABULARY_SIZE,
        max_positions=64,
        end_token_ids=end_token_ids,
    )


def test_a_model_without_an_end_cannot_be_guided():
    with pytest.raises(NotPossible, match="no end-of-text token"):
        prompter(frozenset()).encode("a", SamplingParams(guidance=Guidance("regex", "a")))


def test_without_llguidance_guidance_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(NotPossible, match=r"treeserve\[guidance\]"):
        prompter(frozenset({0})).encode("a", SamplingParams(guidance=Guidance("regex", "a")))

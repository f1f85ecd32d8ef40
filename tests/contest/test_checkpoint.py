"""The embedded checkpoint: small, loadable, and able to solve some of what it never saw."""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from treeserve.contest.corpus import tokenize_problems
from treeserve.contest.evaluate import measure_rates, sample_completions
from treeserve.contest.problem import STOP, read_problems, render_example, render_prompt
from treeserve.embedded import FEW_SHOT_FILE, MODEL_FOLDER, PROBLEMS_FILE


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(MODEL_FOLDER)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype=torch.float32).eval()


def test_the_folder_is_small_and_complete() -> None:
    names = {path.name for path in MODEL_FOLDER.iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_log.json",
    }
    assert sum(path.stat().st_size for path in MODEL_FOLDER.iterdir()) < 12 * 2**20


def test_the_model_is_a_bfloat16_llama_with_a_long_context() -> None:
    config = json.loads((MODEL_FOLDER / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert config["max_position_embeddings"] >= 4096
    assert config["num_attention_heads"] > config["num_key_value_heads"]


def test_the_tokenizer_returns_any_text(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [
        "",
        "naïve 日本語 🙂\n\n\n  tab\t -12 345  ",
        "# end\n\nProblem:\n",
        "\x00\u200d\ufeffé",
        "a  b",
    ]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_digit_is_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer.tokenize("1234567")) == 7


def test_special_tokens_differ(tokenizer: PreTrainedTokenizerFast) -> None:
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert len({*special}) == 3
    assert None not in special


def test_training_cuts_text_as_prompts_are_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    problems = read_problems(FEW_SHOT_FILE)
    trained = [
        token
        for problem in tokenize_problems(tokenizer, problems)
        for token in problem.question + problem.answer + problem.gap
    ]
    text = "".join(render_example(problem) for problem in problems) + "Problem:"
    assert tokenizer(text, add_special_tokens=False)["input_ids"][: len(trained)] == trained


def test_a_program_ends_with_the_stop_line_and_the_end_token(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt = render_prompt(read_problems(PROBLEMS_FILE)[0], read_problems(FEW_SHOT_FILE)[:1])
    (text,) = sample_completions(model, tokenizer, prompt, 1, 0.0, torch.Generator())
    assert text.endswith(STOP)


def test_most_unseen_compositions_are_solved_by_one_of_some_samples(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    problems, examples = read_problems(PROBLEMS_FILE)[:8], read_problems(FEW_SHOT_FILE)[:2]
    rates = measure_rates(model, tokenizer, problems, examples, num_samples=16, seed=1)
    assert rates.pass_n >= 0.6
    assert rates.pass_1 < rates.pass_n


def test_the_log_holds_the_rates() -> None:
    log = json.loads((MODEL_FOLDER / "training_log.json").read_text())
    held_out = log["rates"]["held_out"]
    assert held_out["problems"] >= 150
    assert 0.3 <= held_out["pass@1"] <= 0.7
    assert held_out["pass@16"] > 0.85
    assert log["training"]["minutes"] <= 45
    assert log["losses"][-1]["loss"] < log["losses"][0]["loss"]

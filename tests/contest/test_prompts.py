"""What a model is asked: templates, few-shot examples, and which problems."""

import json
from pathlib import Path

import pytest

from treeserve.contest.compose import generate_problems
from treeserve.contest.problem import render_prompt
from treeserve.contest.records.contest_problem import (
    CallCase,
    ContestProblem,
    StdioCase,
    TestCase,
)
from treeserve.contest.records.embedded import from_embedded
from treeserve.contest.records.fields import RecordError
from treeserve.contest.records.problem_file import read_contest_problems
from treeserve.contest.sampling.few_shot import few_shot
from treeserve.contest.sampling.portion import portion_seed
from treeserve.contest.sampling.selection import select
from treeserve.contest.sampling.template import (
    TEMPLATES,
    parse_repair_template,
    parse_template,
    repair_template_of_format,
    template_of_format,
)
from treeserve.errors import ConfigError

SHOWN, HIDDEN = StdioCase("1\n", "2\n"), StdioCase("7\n", "the secret\n")
SOURCE = "test"


def problem(problem_id: str, difficulty: str = "easy", **fields: object) -> ContestProblem:
    given = {"statement": f"Do {problem_id}.", "solution": f"print({problem_id!r})\n"} | fields
    return ContestProblem(problem_id, SOURCE, problem_id.title(), difficulty=difficulty, **given)


PROBLEMS = [
    problem("a"),
    problem("b", "hard"),
    problem("c-1"),
    problem("17", "hard", solution=""),
]


def ids(*selections: str) -> list[str]:
    return [chosen.problem_id for chosen in select(PROBLEMS, selections)]


def test_the_embedded_template_is_what_the_model_was_trained_on():
    *examples, asked = generate_problems("train", 4)
    template = template_of_format("embedded")
    prompt = template.prompt(from_embedded(asked), list(map(from_embedded, examples)))
    assert prompt == render_prompt(asked, examples)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_formats_prompt_ends_where_the_program_begins(name):
    template = template_of_format(name)
    task = problem("a", sample_cases=(SHOWN,), hidden_cases=(HIDDEN,))
    prompt = template.prompt(task, [problem("b")])
    assert "print('b')" in prompt
    assert "print('a')" not in prompt
    assert template.solved(task).startswith(template.asked(task) + "print('a')")
    assert "the secret" not in prompt
    assert "no good" in repair_template_of_format(name).text(task, "WA", "no good")


def test_a_template_of_ones_own_has_a_head_and_braces():
    template = parse_template("Be {{terse}}.\n%%\nQ: {statement}\nA: {solution}\n", "t")
    expected = "Be {terse}.\nQ: Do b.\nA: print('b')\nQ: Do a.\nA: "
    assert template.prompt(problem("a"), [problem("b")]) == expected


def test_sample_cases_are_shown_as_their_kind_asks():
    template = parse_template("{samples}{solution}", "t")
    call = problem("a", function_name="f", sample_cases=(CallCase((1, "x"), (3,)),))
    assert template.asked(call) == "f(1, 'x') == 3\n"
    tests = problem("a", sample_cases=(TestCase("assert f(1) == 2\n"),))
    assert template.asked(tests) == "assert f(1) == 2\n"
    assert template.asked(problem("a", sample_cases=(SHOWN,))) == "Input:\n1\nOutput:\n2\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{statment}{solution}", "t: there is no variable {statment}; there are problem_id, title"),
        ("{statement!r}{solution}", "there is no variable {statement!r}"),
        ("{statement:>9}{solution}", "there is no variable {statement:>9}"),
        ("{statement.__class__}{solution}", "there is no variable {statement.__class__}"),
        ("{}{solution}", "there is no variable {}"),
        ("{statement}", "{solution} must occur once, where the program begins; found 0"),
        ("{solution}{solution}", "{solution} must occur once, where the program begins; found 2"),
        ("int main() {\n{solution}", "a brace that is text is written twice"),
        ("{statement}\n%%\n{solution}", "there is no variable {statement}"),
    ],
)
def test_a_template_that_cannot_be_filled_says_what_there_is(text, words):
    with pytest.raises(ConfigError) as caught:
        parse_template(text, "t")
    assert words in str(caught.value)


def test_a_repair_template_knows_the_verdict_and_no_solution():
    template = parse_repair_template("{verdict}: {feedback} ({title})", "r")
    assert template.text(problem("a"), "WA", "no") == "WA: no (A)"
    with pytest.raises(ConfigError, match=r"r: there is no variable \{solution\}"):
        parse_repair_template("{solution}", "r")


@pytest.mark.parametrize(
    ("selections", "chosen"),
    [
        ([], ["a", "b", "c-1", "17"]),
        (["c-1,a"], ["a", "c-1"]),
        (["17"], ["17"]),
        (["1:3"], ["b", "c-1"]),
        (["2:"], ["c-1", "17"]),
        ([":1, 3:4"], ["a", "17"]),
        (["first:2"], ["a", "b"]),
        (["difficulty:HARD"], ["b", "17"]),
        (["difficulty:hard", "first:1"], ["b"]),
    ],
)
def test_problems_are_chosen_by_id_position_difficulty_and_number(selections, chosen):
    assert ids(*selections) == chosen


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ("c-2", "no problem has the id 'c-2' (did you mean 'c-1'?); an entry is an id, START:END"),
        ("9:12", "'9:12' matches none of the 4 problems"),
        ("first:0", "'first:0' matches none of the 4 problems"),
        ("difficulty:medium", "no problem has the difficulty 'medium'; there are: easy, hard"),
        ("", "no problem has the id ''"),
        (":", "no problem has the id ':'"),
        ("a,,b", "no problem has the id ''"),
    ],
)
def test_a_selection_that_chooses_nothing_is_named(selection, words):
    with pytest.raises(ConfigError) as caught:
        ids(selection)
    assert str(caught.value).startswith("--problems: ")
    assert words in str(caught.value)


def test_no_problem_is_among_its_own_examples():
    """Otherwise the model reads the answer."""
    shots = few_shot(PROBLEMS, None, 2)
    for asked in PROBLEMS:
        examples = shots.before(asked)
        assert len(examples) == 2
        assert asked.problem_id not in {example.problem_id for example in examples}
    assert [e.problem_id for e in shots.before(PROBLEMS[3])] == ["c-1", "b"]
    assert [e.problem_id for e in shots.before(PROBLEMS[2])] == ["b", "a"]


def test_an_example_file_that_holds_the_problem_under_another_id_does_not_give_it_away():
    copied = problem("other", statement=" Do\na. ")
    shots = few_shot(PROBLEMS, [copied, problem("x"), problem("y")], 2)
    assert [e.problem_id for e in shots.before(PROBLEMS[0])] == ["x", "y"]
    assert [e.problem_id for e in shots.before(PROBLEMS[1])] == ["other", "x"]
    everything = few_shot(PROBLEMS, [copied, problem("x")], None)
    assert [e.problem_id for e in everything.before(PROBLEMS[0])] == ["x"]


def test_problems_of_other_data_sets_may_have_the_same_id():
    stranger = problem("a", statement="Something else.")
    assert few_shot(PROBLEMS, [stranger], 1).before(PROBLEMS[0]) == [stranger]


def test_more_examples_than_have_a_solution_are_refused():
    with pytest.raises(ConfigError, match="--examples: 4 asked for, and 3 problems of the data"):
        few_shot(PROBLEMS, None, 4)
    with pytest.raises(ConfigError, match="--examples: 3 asked for; problem 'a' leaves 2"):
        few_shot(PROBLEMS, None, 3).before(PROBLEMS[0])


def test_seeds_are_a_problems_own_and_the_same_anywhere():
    """Written down, for a file that another machine goes on with."""
    assert portion_seed(0, "a", 0) == 5377369291220743188
    seeds = {portion_seed(*of) for of in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 16)]}
    assert len(seeds) == 4


RECORDS = {
    "apps": {
        "problem_id": 1,
        "question": "q",
        "input_output": "",
        "solutions": json.dumps(["print(1)", "print(2)"]),
    },
    "humaneval": {
        "task_id": "h",
        "prompt": "def f():\n",
        "entry_point": "f",
        "test": "",
        "canonical_solution": "    return 1\n",
    },
    "mbpp": {"task_id": 3, "text": "q", "test_list": [], "code": "def f(): pass"},
    "codecontests": {
        "name": "c",
        "description": "q",
        "public_tests": {},
        "solutions": {"language": [2, 3], "solution": ["int main;", "print(3)"]},
    },
}


@pytest.mark.parametrize(
    ("name", "solution"),
    [
        ("apps", "print(1)"),
        ("humaneval", "    return 1\n"),
        ("mbpp", "def f(): pass"),
        ("codecontests", "print(3)"),
    ],
)
def test_solutions_of_public_records_can_be_examples(tmp_path: Path, name, solution):
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps(RECORDS[name]))
    [read] = read_contest_problems(file).problems
    assert read.solution == solution
    without = {k: v for k, v in RECORDS[name].items() if v != RECORDS[name].get("solutions", 0)}
    file.write_text(json.dumps(without))
    [other] = read_contest_problems(file).problems
    assert other.digest == read.digest, "verdicts would be refused for a solution's sake"


def test_an_apps_folder_has_solutions_too(tmp_path: Path):
    folder = tmp_path / "0001"
    folder.mkdir()
    (folder / "question.txt").write_text("q")
    (folder / "solutions.json").write_text('["print(5)"]')
    [read] = read_contest_problems(tmp_path).problems
    assert read.solution == "print(5)"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("apps", "{", "field 'solutions': not JSON"),
        ("apps", [1], "field 'solutions': expected a list of texts"),
        ("codecontests", [1], "field 'solutions': expected an object with 'language'"),
        ("codecontests", {"solution": 1}, "in 'solutions': field 'solution': expected a list"),
    ],
)
def test_malformed_solutions_are_named(tmp_path: Path, name, value, words):
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps(RECORDS[name] | {"solutions": value}))
    with pytest.raises(RecordError) as caught:
        read_contest_problems(file)
    assert words in str(caught.value)

"""`treeserve bench contest` with a tiny random model: the sides share what they say they share."""

import json
from dataclasses import replace

import pytest

from treeserve.bench.contest import suite
from treeserve.bench.contest.sides import SIDES, ContestFailed, Measured, measure_side
from treeserve.bench.contest.so_far import ResultSoFar
from treeserve.commands.main import main

TINY = ["--shape", "tiny", "--problems", "3", "--samples", "4", "--max-tokens", "5"]
POOL = ["--trunk", "300", "--num-pages", "80"]


def bench(*options: str) -> int:
    return main(["bench", "contest", *TINY, *POOL, *options])


def test_each_side_computes_stores_and_reads_what_it_does_not_share(capsys):
    assert bench("--json") == 0
    result = json.loads(capsys.readouterr().out)
    sides = result["sides"]
    assert list(sides) == list(SIDES)
    trunk, problems = result["trunk_tokens"], 3 * result["problem_tokens"]
    assert 300 <= trunk < 500
    computed = {name: side["prompt_tokens_computed"] for name, side in sides.items()}
    assert computed["tree"] == computed["pages"] == pytest.approx(trunk + problems)
    assert computed["trunk"] == pytest.approx(trunk + 4 * problems)
    assert computed["nothing"] == pytest.approx(4 * (3 * trunk + problems))
    # Twelve samples under 80 pages of 16: alone they do not fit at once, under the tree they do.
    assert sides["nothing"]["peak_batch"] < sides["trunk"]["peak_batch"]
    assert sides["tree"]["peak_batch"] == 12
    assert sides["tree-same-batch"]["peak_batch"] <= sides["trunk"]["peak_batch"]
    assert max(side["peak_pages"] for side in sides.values()) <= 80
    assert all(side["parted"] == 0 for side in sides.values())
    # Where prompts are computed again and again, samples decode beside them.
    drawn = {name: side["num_drawn_without"] for name, side in sides.items()}
    assert 0 < drawn["trunk"] < drawn["pages"] == drawn["tree"] < 12 * 5
    for name in ("nothing", "pages"):
        assert sides[name]["kv_tokens_read"] == sides[name]["kv_tokens_read_flat"]


def test_the_table_says_where_the_difference_comes_from_and_is_kept(capsys, tmp_path):
    file = tmp_path / "contest.json"
    sides = ["--side", "trunk", "--side", "tree-same-batch", "--side", "tree"]
    assert bench(*sides, "--output", str(file)) == 0
    out = capsys.readouterr().out
    assert "tiny, float32: 3 problems × 4 samples × 5 tokens" in out
    assert "trunk to tree: " in out
    assert "by the larger batch" in " ".join(out.split())
    assert main(["bench", "contest", "--from", str(file), "--markdown"]) == 0
    assert "| tree-same-batch |" in capsys.readouterr().out


def test_steps_without_prompts_are_compared_for_each_token_that_they_draw(capsys, tmp_path):
    """Sharing leaves more of them, so their sum grows where nothing has become slower."""
    file = tmp_path / "contest.json"
    sides = ["--side", "trunk", "--side", "tree-same-batch", "--side", "tree"]
    assert bench(*sides, "--output", str(file)) == 0
    result = json.loads(file.read_text())
    result["sides"]["trunk"] |= {"seconds": 9.0, "prompt_seconds": 7.0, "num_drawn_without": 1000}
    result["sides"]["tree-same-batch"] |= {
        "seconds": 4.0,
        "prompt_seconds": 1.0,
        "num_drawn_without": 2000,
    }
    del result["sides"]["tree"]["num_drawn_without"]  # as earlier versions kept it
    file.write_text(json.dumps(result))
    capsys.readouterr()
    assert main(["bench", "contest", "--from", str(file)]) == 0
    out = capsys.readouterr().out
    assert "others: 2.00 to 1.50 ms for each token drawn" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 120
    assert main(["bench", "contest", "--from", str(file), "--markdown"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    assert [row[3] for row in rows] == ["ms a token", "---:", "2.00", "1.50", "–"]


def test_sides_that_the_time_limit_leaves_out_are_said(capsys):
    assert bench("--time-limit", "0.0001") == 0
    out = capsys.readouterr().out
    assert "left out for the time limit: pages, trunk, tree-same-batch, tree" in out


def test_a_run_that_breaks_off_keeps_its_sides_and_goes_on(capsys, tmp_path, monkeypatch):
    """A large model takes hours, and each side is a part of them."""
    file = tmp_path / "contest.json"
    sides = ["--side", "pages", "--side", "trunk", "--side", "tree"]
    kept = [*sides, "--output", str(file), "--go-on"]

    def interrupted(name, *arguments, **options):
        if name == "trunk":
            raise KeyboardInterrupt
        return measure_side(name, *arguments, **options)

    monkeypatch.setattr(suite, "measure_side", interrupted)
    assert bench(*kept) == 130
    before = json.loads(file.read_text())["sides"]
    assert list(before) == ["pages"]
    monkeypatch.undo()
    assert bench(*kept) == 0
    result = json.loads(file.read_text())
    assert list(result["sides"]) == ["pages", "trunk", "tree"]
    assert {name: result["sides"][name] for name in before} == before
    assert all(side["parted"] == 0 for side in result["sides"].values())
    capsys.readouterr()
    assert bench(*kept, "--temperature", "0.5", "--dtype", "bfloat16") == 2
    assert "--go-on: the earlier result is of other dtype and temperature" in (
        capsys.readouterr().err
    )
    assert json.loads(file.read_text()) == result


def crooked(name, contest, *arguments, **options):
    """The tree's samples are drawn at another temperature."""
    temperature = contest.temperature if name == "tree" else 0.0
    return measure_side(name, replace(contest, temperature=temperature), *arguments, **options)


def test_no_time_is_shown_or_kept_where_a_side_draws_something_else(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(suite, "measure_side", crooked)
    file = tmp_path / "contest.json"
    sides = ["--side", "trunk", "--side", "tree"]
    assert bench(*sides, "--temperature", "5", "--output", str(file)) == 1
    captured = capsys.readouterr()
    assert "12 samples otherwise than the first side: no times are shown" in captured.err
    assert "trunk to tree" not in captured.out
    assert "tree" not in json.loads(file.read_text())["sides"]


@pytest.mark.parametrize(
    ("temperature", "parted", "is_refused"),
    [
        (0.0, range(8), False),
        (0.0, range(9), True),
        (0.8, [3], False),
        (0.8, [3, 9], True),
    ],
)
def test_where_rounding_decides_one_draw_may_part(temperature, parted, is_refused):
    """Drawn greedily, the samples of one problem are one draw, and part together."""
    settings = {"samples": 8}
    so_far = ResultSoFar(settings, temperature == 0, None)
    first = Measured(1.0, 0.5, 9, 9, 1.0, 4, 9, 9, 9, 9, ((1, 2),) * 32)
    so_far.add("pages", first, 0.0)
    other = tuple((1, 3) if index in parted else (1, 2) for index in range(32))
    if is_refused:
        with pytest.raises(ContestFailed, match=f"drew {len(parted)} of 32 samples otherwise"):
            so_far.add("tree", replace(first, samples=other), 0.0)
        assert "tree" not in so_far
    else:
        so_far.add("tree", replace(first, samples=other), 0.0)
        assert so_far.as_json()["sides"]["tree"]["parted"] == len(parted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--problems", "0"], "--problems: must be at least 1, got 0"),
        (["--problems", "41"], "--problems: at most 40, got 41"),
        (["--side", "tree-same-batch"], "give --side trunk too"),
        (["--go-on"], "--go-on: needs --output"),
        (["--num-pages", "5"], "pages"),
    ],
)
def test_options_out_of_range_are_named(options, words, capsys):
    assert bench(*options) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err

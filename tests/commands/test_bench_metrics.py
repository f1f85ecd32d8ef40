"""`treeserve bench metrics` measures what observing costs."""

import json

import pytest

from treeserve.commands.main import main


def test_a_line_for_each_batch_says_what_observing_costs(checkpoint_of, capsys):
    model = ["--model", str(checkpoint_of("llama")), "--dtype", "float32", "--num-pages", "128"]
    few = ["--batch", "1,4", "--steps", "6", "--prefix", "40"]
    assert main(["bench", "metrics", *model, *few, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["batch"] for line in lines] == [1, 4]
    for line in lines:
        assert line["observe_seconds"] > 0
        assert line["report_seconds"] > 0
        taken = line["report_seconds"] + line["observe_seconds"]
        assert line["observing_share"] == pytest.approx(taken / line["unobserved_step_seconds"])
        assert line["scraping_share"] == pytest.approx(line["scrape_seconds"] / 5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch", "0"], "--batch: must be numbers from 1 on"),
        (["--batch", "1,x"], "--batch: must be numbers from 1 on"),
        (["--steps", "0"], "--steps: must be at least 1, got 0"),
        (["--prefix", "0"], "--prefix: must be at least 1, got 0"),
    ],
)
def test_what_is_out_of_range_is_named(arguments, named, capsys):
    assert main(["bench", "metrics", *arguments]) != 0
    assert named in capsys.readouterr().err

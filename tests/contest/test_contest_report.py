"""`treeserve contest report`: pass@k to the letter, and a page that runs nothing."""

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from treeserve.commands.main import main
from treeserve.contest.judging import verdict_file
from treeserve.contest.judging.verdict import Verdict
from treeserve.contest.judging.verdict_file import JudgedSample
from treeserve.contest.records.contest_problem import ContestProblem, StdioCase
from treeserve.contest.reporting.pass_at_k import curve, pass_at_k

CASES = (StdioCase("", ""),)
PROBLEMS = (
    ContestProblem("easy/1", "test", "One", "Say one.", "easy", hidden_cases=CASES),
    ContestProblem("easy/2", "test", "Two", "Say two.", "easy", hidden_cases=CASES),
    ContestProblem("hard/1", "test", "<b>Bold</b>", "x", "hard", hidden_cases=CASES),
    ContestProblem("none/1", "test", "No cases", "x", "hard"),
)
OUTCOMES = {"easy/1": "AC WA WA AC", "easy/2": "WA TLE RE WA", "hard/1": "AC AC CE AC",
            "none/1": "unjudged unjudged"}  # fmt: skip


@pytest.fixture
def verdicts(tmp_path: Path) -> Path:
    return write_verdicts(tmp_path / "verdicts.jsonl", OUTCOMES)


def write_verdicts(path: Path, outcomes: dict[str, str]) -> Path:
    verdict_file.create(path, {"fingerprint": "x"}, PROBLEMS)
    with verdict_file.go_on(path) as writer:
        for problem_id, codes in outcomes.items():
            for index, code in enumerate(codes.split()):
                failing = None if code in ("AC", "CE", "unjudged") else 0
                verdict = Verdict(code, failing, 1, 0.1, 1 << 20, "<i>detail</i>")
                writer.add(JudgedSample(problem_id, index, f"k{index}", verdict))
    return path


@pytest.mark.parametrize("num_samples", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_all_choices_of_k_that_hold_one_that_passes(
    num_samples: int,
) -> None:
    for passing in range(num_samples + 1):
        outcomes = [True] * passing + [False] * (num_samples - passing)
        for k in range(1, num_samples + 1):
            choices = list(itertools.combinations(outcomes, k))
            share = sum(any(choice) for choice in choices) / len(choices)
            assert pass_at_k(num_samples, passing, k) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)
    assert pass_at_k(10_000, 0, 10_000) == 0.0
    with pytest.raises(ValueError, match="from 1 to 4"):
        pass_at_k(4, 1, 5)


def test_k_doubles_up_to_the_number_of_samples() -> None:
    assert [estimate.k for estimate in curve([(12, 3), (12, 0)])] == [1, 2, 4, 8, 12]
    assert [estimate.k for estimate in curve([(1, 1)])] == [1]
    assert curve([]) == []


def test_problems_with_too_few_samples_are_left_out_of_larger_k() -> None:
    estimates = curve([(4, 4), (2, 0)])
    assert [(e.k, e.value, e.num_problems) for e in estimates] == [
        (1, 0.5, 2),
        (2, 0.5, 2),
        (4, 1.0, 1),
    ]


def test_intervals_are_seeded_hold_the_estimate_and_shrink_with_more_problems() -> None:
    few, many = [(8, i % 9) for i in range(9)], [(8, i % 9) for i in range(900)]
    assert curve(few, seed=1) == curve(few, seed=1)
    assert curve(few, seed=1) != curve(few, seed=2)
    for estimate in curve(few) + curve(many):
        assert estimate.low <= estimate.value <= estimate.high
    assert curve(many)[0].high - curve(many)[0].low < (curve(few)[0].high - curve(few)[0].low) / 5
    [alike] = curve([(1, 1)] * 20)
    assert (alike.low, alike.high) == (1.0, 1.0)


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["contest", "report", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_json_has_every_figure(capsys: pytest.CaptureFixture[str], verdicts: Path) -> None:
    found = json.loads(report(capsys, verdicts, "--json"))
    assert (found["problems"], found["unjudged_problems"], found["solved_problems"]) == (4, 1, 2)
    assert found["verdicts"] == {
        "AC": 5, "WA": 4, "TLE": 1, "RE": 1, "CE": 1, "unjudged": 2,
    }  # fmt: skip
    assert [e["k"] for e in found["pass_at_k"]] == [1, 2, 4]
    assert found["pass_at_k"][0]["value"] == pytest.approx(5 / 12)
    assert found["pass_at_k"][0]["num_problems"] == 3
    assert found["by_difficulty"]["hard"][0]["value"] == pytest.approx(3 / 4)
    assert found["by_difficulty"]["easy"][0]["value"] == pytest.approx(1 / 4)
    assert found["sharing"] is None


def test_the_table_says_the_same(capsys: pytest.CaptureFixture[str], verdicts: Path) -> None:
    out = report(capsys, verdicts)
    assert "2 of 3 problems solved by at least one sample\n" in out
    assert "unjudged problems, in none of the figures: 1\n" in out
    assert "14 samples: 5 AC, 4 WA, 1 TLE, 1 RE, 1 CE, 2 unjudged\n" in out
    assert re.search(r"^all +1 +41\.7%", out, re.M)
    assert re.search(r"^hard +1 +75\.0%", out, re.M)


def test_several_files_are_one_report_unless_they_overlap(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verdicts: Path
) -> None:
    parts = [
        write_verdicts(tmp_path / f"part{i}.jsonl", {name: codes})
        for i, (name, codes) in enumerate(OUTCOMES.items())
    ]
    assert report(capsys, *parts) == report(capsys, verdicts)
    assert main(["contest", "report", str(verdicts), str(parts[0])]) == 2
    assert "sample 0 of problem 'easy/1' occurs twice" in capsys.readouterr().err


def write_samples(path: Path, *more: dict[str, Any]) -> Path:
    records: list[dict[str, Any]] = [
        {"problem_id": name, "sample_index": index, "text": f"<script>alert({index})</script>"}
        for name, codes in OUTCOMES.items()
        for index in range(len(codes.split()))
    ]
    records[0]["text"] += "half a character: \ud800"
    records[2] |= {"parent": 1, "round": 1}
    records[3] |= {"parent": 2, "round": 2}
    path.write_text("".join(json.dumps(record) + "\n" for record in [*records, *more]))
    return path


def test_usage_lines_are_added_up(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verdicts: Path
) -> None:
    usage = {"kind": "usage", "prompt_tokens": 1000, "computed_tokens": 50, "kv_tokens_read": 10}
    usage |= {"kv_tokens_read_flat": 40, "kv_bytes_per_token": 256, "seconds": 2.0}
    usage |= {"completion_tokens": 300, "seconds_sharing_off": 5.0}
    samples = write_samples(tmp_path / "samples.jsonl", usage, usage)
    sharing = json.loads(report(capsys, verdicts, "--samples", samples, "--json"))["sharing"]
    assert (sharing["prompt_tokens"], sharing["computed_tokens"]) == (2000, 100)
    assert (sharing["kv_bytes_read"], sharing["kv_bytes_read_flat"]) == (5120, 20480)
    out = report(capsys, verdicts, "--samples", samples)
    assert "prompt tokens: 100 computed of 2,000 sent (20.0x fewer)" in out
    assert "KV tokens read: 20 of 80 flat (4.0x fewer)" in out
    assert "sampling took 4.0 s, 150 completion tokens a second" in out
    assert "with --sharing off 10.0 s (2.5x as long)" in out


def test_the_time_without_sharing_is_that_of_the_same_samples(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verdicts: Path
) -> None:
    usage = {"kind": "usage", "seconds": 2.0, "completion_tokens": 300}
    samples = write_samples(tmp_path / "samples.jsonl", usage)
    off = write_samples(tmp_path / "off.jsonl", usage | {"seconds": 5.0})
    compared = ["--samples", samples, "--sharing-off", off]
    assert "with --sharing off 5.0 s (2.5x as long)" in report(capsys, verdicts, *compared)
    sharing = json.loads(report(capsys, verdicts, *compared, "--json"))["sharing"]
    assert (sharing["seconds"], sharing["seconds_sharing_off"]) == (2.0, 5.0)
    off.write_text("".join(off.read_text().splitlines(keepends=True)[1:]))
    assert main(["contest", "report", str(verdicts), *map(str, compared)]) == 2
    assert "off.jsonl: has other samples than" in capsys.readouterr().err
    write_samples(off)
    assert main(["contest", "report", str(verdicts), *map(str, compared)]) == 2
    assert "off.jsonl: does not say how long it took" in capsys.readouterr().err


def test_samples_of_another_run_are_no_usage_of_this_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verdicts: Path
) -> None:
    head = {"kind": "header", "fingerprint": "another"}
    samples = write_samples(tmp_path / "samples.jsonl", head)
    assert main(["contest", "report", str(verdicts), "--samples", str(samples)]) == 2
    assert "samples.jsonl: not the samples that were judged" in capsys.readouterr().err


def test_one_problem_has_no_interval(capsys: pytest.CaptureFixture[str], verdicts: Path) -> None:
    """It says nothing of others; a point would look like certainty."""
    out = report(capsys, verdicts)
    assert re.search(r"^hard +1 +75\.0% +– +1$", out, re.M)
    assert re.search(r"^easy +1 +25\.0% +\d+\.\d% – \d+\.\d% +2$", out, re.M)


class Page(HTMLParser):
    """Tags in order, and how deep each sample lies."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.depth = 0
        self.depths: list[tuple[str, int]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.depth += tag == "details"

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "details"

    def handle_data(self, data: str) -> None:
        found = re.match(r" (sample \d+)", data)
        if found is not None:
            self.depths.append((found[1], self.depth))


def test_the_page_needs_nothing_and_runs_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verdicts: Path
) -> None:
    samples = write_samples(tmp_path / "samples.jsonl")
    file = tmp_path / "report.html"
    report(capsys, verdicts, "--samples", samples, "--html", file, "--title", "<u>T</u>")
    text = file.read_text()
    page = Page(text)
    assert not {"script", "i", "u", "b", "a", "img", "link", "iframe"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert not re.search(r"(?:src|href|url)\s*[=(]|https?://|@import", text)
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "&lt;script&gt;alert(0)&lt;/script&gt;" in text
    assert "&lt;i&gt;detail&lt;/i&gt;" in text
    assert page.depth == 0


def test_the_pages_policy_allows_its_own_style_and_no_other(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verdicts: Path
) -> None:
    import base64
    import hashlib

    file = tmp_path / "report.html"
    report(capsys, verdicts, "--html", file)
    [style] = re.findall(r"<style>(.*?)</style>", file.read_text(), re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in file.read_text()


def test_the_tree_of_a_problem_hangs_repairs_from_their_samples(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verdicts: Path
) -> None:
    samples = write_samples(tmp_path / "samples.jsonl")
    file = tmp_path / "report.html"
    report(capsys, verdicts, "--samples", samples, "--html", file)
    depths = Page(file.read_text()).depths[:4]
    assert depths == [("sample 0", 2), ("sample 1", 2), ("sample 2", 3), ("sample 3", 4)]


def test_the_page_says_what_its_colours_mean(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verdicts: Path
) -> None:
    file = tmp_path / "report.html"
    report(capsys, verdicts, "--html", file)
    [legend] = re.findall(r'<p class="legend">(.*?)</p>', file.read_text())
    told = re.findall(r'class="v-(\w+)".*?</svg>(.*?)</span>', legend)
    assert told == [
        ("AC", "AC accepted"),
        ("WA", "WA wrong answer"),
        ("TLE", "TLE over the time limit"),
        ("RE", "RE error while running"),
        ("CE", "CE no program"),
        ("unjudged", "unjudged no cases"),
    ]


def test_statements_are_shown_where_the_problems_are_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verdicts: Path
) -> None:
    problems = tmp_path / "problems.jsonl"
    record = {"problem_id": "easy/1", "question": "Say <one>.", "input_output": ""}
    problems.write_text(json.dumps(record))
    file = tmp_path / "report.html"
    report(capsys, verdicts, "--problems", problems, "--html", file)
    assert "Say &lt;one&gt;." in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.jsonl"], "none.jsonl: cannot be read: No such file or directory\n"),
        (["verdicts.jsonl", "--seed", "-1"], "--seed: must be at least 0, got -1"),
        (["verdicts.jsonl", "--samples", "none"], "none: cannot be read"),
        (["verdicts.jsonl", "--sharing-off", "none"], "--sharing-off: needs --samples"),
        (["verdicts.jsonl", "--html", "/none/x"], "--html: /none/x: cannot be written"),
        (["other.jsonl"], "other.jsonl:1: not a verdict file"),
        (["torn.jsonl"], "torn.jsonl:6: not a line of a verdict file"),
        (["unbegun.jsonl"], "unbegun.jsonl: no sample is judged yet"),
    ],
)
def test_bad_files_and_options_are_named(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    verdicts: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.jsonl").write_text('{"a": 1}\n')
    write_verdicts(Path("unbegun.jsonl"), {})
    head = Path("unbegun.jsonl").read_text()
    Path("torn.jsonl").write_text(head + '{"kind": "verdict", "code": "AC"}\n')
    assert main(["contest", "report", *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1

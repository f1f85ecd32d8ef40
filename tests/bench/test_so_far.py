"""Going on from an earlier result: where machine, versions and options are the same."""

import json
from typing import Any

import pytest

from treeserve.bench.so_far import CasesSoFar, begin
from treeserve.commands.main import main
from treeserve.errors import ConfigError

SETTINGS = {
    "benchmark": "decode",
    "device": {"type": "cpu", "name": "x86_64", "processor": "one, AVX512", "threads": 4},
    "versions": {"torch": "2.13.0", "treeserve": "1.0"},
    "date": "2026-01-02T00:00:00+00:00",
    "dtype": "float32",
    "options": {"rounds": 3},
}
BEFORE = {**SETTINGS, "date": "2026-01-01T00:00:00+00:00", "cases": [1], "left_out": []}
RESUMABLE = ["contest", "decode", "modules", "prefill"]


def changed(record: dict[str, Any], names: str, value: Any) -> dict[str, Any]:
    """With another value, or without one."""
    name, _, inner = names.partition(".")
    if inner:
        return record | {name: changed(record[name], inner, value)}
    rest = {key: kept for key, kept in record.items() if key != name}
    return rest if value is None else rest | {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device.processor", "another, AVX2"),
        ("device.threads", 2),
        ("device", "one"),
        ("versions.torch", "2.14.0"),
        ("versions.triton", "3.9.0"),
        ("versions.treeserve", None),
        ("dtype", "bfloat16"),
        ("dtype", None),
        ("options.rounds", 7),
        ("cases", None),
        ("date", None),
    ],
)
def test_another_machine_version_or_option_is_refused_by_its_name(name, value):
    """Figures of both would stand in one table."""
    with pytest.raises(ConfigError) as refusal:
        begin(SETTINGS, changed(BEFORE, name, value), ["cases"])
    assert str(refusal.value) == (
        f"--go-on: the earlier result is of other {name}; give the same options on the same "
        "machine, or name another file"
    )


def test_all_that_differs_is_named_at_once():
    before = changed(changed(BEFORE, "device.threads", 1), "versions.torch", "2.0")
    with pytest.raises(ConfigError, match=r"of other device\.threads and versions\.torch;"):
        begin(SETTINGS, before, ["cases"])


def test_what_is_gone_on_from_keeps_its_date_and_its_parts():
    begun = begin(SETTINGS, BEFORE, ["cases"])
    assert begun.settings == {**SETTINGS, "date": BEFORE["date"]}
    assert begun.parts == {"cases": [1]}
    assert begin(SETTINGS, None, ["cases"]).parts == {}


def test_cases_that_were_not_timed_are_measured_again():
    timed, failed = {"tokens": 8, "status": "timed"}, {"tokens": 16, "status": "failed"}
    so_far = CasesSoFar(SETTINGS, ["tokens"], BEFORE | {"cases": [failed, timed]})
    assert (8,) in so_far
    assert (16,) not in so_far
    so_far.add({"tokens": 4, "status": "timed"})
    assert [case["tokens"] for case in so_far.as_json()["cases"]] == [4, 8]


@pytest.mark.parametrize("benchmark", RESUMABLE)
def test_a_file_of_another_benchmark_is_refused_and_left_as_it_is(benchmark, tmp_path, capsys):
    file = tmp_path / "result.json"
    other = json.dumps(BEFORE | {"benchmark": "serve"})
    file.write_text(other)
    command = ["bench", benchmark, "--device", "cpu", "--output", str(file), "--go-on"]
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"treeserve bench {benchmark}: --go-on: {file} is no result of "
        f"`treeserve bench {benchmark}`\n"
    )
    assert file.read_text() == other


def test_the_benchmarks_that_go_on_say_so_in_the_same_words(capsys):
    said = set()
    for benchmark in RESUMABLE:
        with pytest.raises(SystemExit):
            main(["bench", benchmark, "--help"])
        words = " ".join(capsys.readouterr().out.split())
        assert "what is measured is kept part by part, and --go-on leaves out what is" in words
        said.add(words.partition(" --go-on keep ")[2].partition(" options ")[0])
    assert len(said) == 1
    assert "the same machine" in said.pop()

"""A stored calibration comes back as it was, and one that cannot be used never stops an engine."""

import json
import logging
from dataclasses import asdict, replace

import pytest
from calibration.records import SUBJECT, make_calibration

from treeserve.calibration.record import to_json
from treeserve.calibration.store import calibration_path, find_calibration, store_calibration
from treeserve.errors import CalibrationError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TREESERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_stored_comes_back(cache):
    calibration = make_calibration(max_item_tokens=512)
    path = store_calibration(calibration)
    assert path.parent == cache / "calibration"
    assert find_calibration(SUBJECT) == calibration
    assert list(path.parent.iterdir()) == [path]


def test_a_second_one_replaces_the_first():
    store_calibration(make_calibration())
    store_calibration(make_calibration(token_cost=1e-6))
    assert find_calibration(SUBJECT).constants.token_cost == 1e-6


def test_nothing_stored_is_nothing_to_warn_of(caplog):
    assert find_calibration(SUBJECT) is None
    assert caplog.records == []


@pytest.mark.parametrize("field", sorted(asdict(SUBJECT)))
def test_another_device_shape_or_version_is_another_calibration(field):
    """A new torch must not be planned for by the old one's costs."""
    store_calibration(make_calibration())
    changes = {"num_threads": 7, "num_heads": 8, "num_kv_heads": 1, "head_dim": 64}
    changes |= {"softcap": 30.0, "num_layers": 9}
    other = replace(SUBJECT, **{field: changes.get(field, "other")})
    assert other.key != SUBJECT.key
    assert find_calibration(other) is None


def changed(**changes) -> str:
    return json.dumps({**to_json(make_calibration()), **changes})


def changed_constant(**changes) -> str:
    return changed(constants={**asdict(make_calibration().constants), **changes})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        "\0\xff",
        '{"format": 1}',
        changed(format=0),
        changed(format="1"),
        changed(subject=asdict(replace(SUBJECT, torch="1.0"))),
        changed(constants=None),
        changed(constants={}),
        changed(quality=[]),
        changed(crossovers={}),
        changed(crossovers=[{"batch": 2}]),
        changed(crossovers=[{"batch": 2, "measured": 0, "predicted": 1, "longest": 1}]),
        changed(measured_at=3),
        changed(seconds="8"),
        changed_constant(token_cost=0),
        changed_constant(token_cost=True),
        changed_constant(token_cost="3e-8"),
        changed_constant(item_cost=-1.0),
        changed_constant(state_cost=float("nan")),
        changed_constant(sharing_cost=float("inf")),
        changed_constant(max_item_tokens=0),
        changed_constant(max_item_tokens=2.5),
        changed_constant(other_cost=1.0),
        "9" * (2 << 20),
    ],
)
def test_a_damaged_or_foreign_file_is_passed_over_with_one_warning(caplog, content):
    path = store_calibration(make_calibration())
    path.write_text(content, encoding="latin-1")
    with caplog.at_level(logging.INFO):
        assert find_calibration(SUBJECT) is None
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert str(path) in record.getMessage()


def test_a_folder_in_its_place_is_passed_over(caplog):
    calibration_path(SUBJECT).mkdir(parents=True)
    assert find_calibration(SUBJECT) is None
    assert len(caplog.records) == 1


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("TREESERVE_CACHE", str(file))
    with pytest.raises(CalibrationError, match=rf"cannot write {file}/calibration/"):
        store_calibration(make_calibration())
    assert find_calibration(SUBJECT) is None


def test_a_write_that_fails_leaves_the_old_one_and_no_litter():
    path = calibration_path(SUBJECT)
    path.mkdir(parents=True)
    (path / "in-the-way").touch()
    with pytest.raises(CalibrationError):
        store_calibration(make_calibration())
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/treeserve"),
        ({"HOME": "/h"}, "/h/.cache/treeserve"),
        ({"TREESERVE_CACHE": "", "HOME": "/h"}, "/h/.cache/treeserve"),
        ({"TREESERVE_CACHE": "/t", "XDG_CACHE_HOME": "/x"}, "/t"),
    ],
)
def test_where_it_is_stored(monkeypatch, variables, folder):
    for name in ("TREESERVE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(calibration_path(SUBJECT)) == f"{folder}/calibration/{SUBJECT.key}.json"

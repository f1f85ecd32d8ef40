"""What holds after every fault: nothing is warned of but what was expected."""

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from server.certificates import Authority

from treeserve.config import EngineOptions


class Expected:
    """Warnings and errors that a test brings about on purpose, by what they begin with."""

    def __init__(self) -> None:
        self._beginnings: list[str] = []

    def log(self, beginning: str) -> None:
        self._beginnings.append(beginning)

    def unexpected(self, records: list[logging.LogRecord]) -> list[str]:
        said = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
        return [text for text in said if not text.startswith(tuple(self._beginnings))]


@pytest.fixture(scope="session")
def quick_collection() -> Iterator[None]:
    """What was there before any fault is not looked through after each of them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def expected(caplog, quick_collection) -> Iterator[Expected]:
    """To be told what may be logged; at the end nothing else may have been."""
    expected = Expected()
    yield expected
    # A task whose exception nobody took says so when it is collected.
    gc.collect()
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    assert expected.unexpected([*records, *caplog.get_records("teardown")]) == []


@pytest.fixture(params=["off", "on"], ids=["overlap-off", "overlap-on"])
def options(request, checkpoint_of) -> EngineOptions:
    return options_of(checkpoint_of("llama"), overlap=request.param)


@pytest.fixture
def plain_options(checkpoint_of) -> EngineOptions:
    """For faults that never reach the engine."""
    return options_of(checkpoint_of("llama"))


def options_of(model: Path, **more) -> EngineOptions:
    return EngineOptions(
        model=str(model), **{"num_pages": 256, "page_size": 16, "calibration": "off", **more}
    )


@pytest.fixture(scope="session")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))

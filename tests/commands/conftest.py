"""What commands measure of a machine is measured in small here."""

import pytest


@pytest.fixture(autouse=True)
def small_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks of attention and decoding measure what the device can do; that takes long."""
    monkeypatch.setattr("treeserve.bench.rates._COPY_BYTES", {"cuda": 1 << 22, "cpu": 1 << 22})
    monkeypatch.setattr("treeserve.bench.rates._MATRIX_SIZE", {"cuda": 256, "cpu": 256})

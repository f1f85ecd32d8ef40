"""Addresses and options of the server."""

import math

import pytest

from treeserve.errors import ConfigError
from treeserve.server.config import Address, ServerConfig, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", Address("127.0.0.1", 50051)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:65535", Address("::1", 65535)),
    ],
)
def test_addresses_are_read_and_written(text, address):
    assert parse_address("x", text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "50051", "host", "host:", ":50051", "host:65536", "host:-1", "host:http", "::1:80"]
)
def test_a_bad_address_names_its_option(text):
    with pytest.raises(ConfigError, match="grpc_address: must be HOST:PORT"):
        parse_address("grpc_address", text)


@pytest.mark.parametrize(
    ("option", "value"),
    [("drain_grace_seconds", -1.0), ("drain_grace_seconds", math.nan), ("max_calls", 0)],
)
def test_options_out_of_range_are_named(option, value):
    address = Address("127.0.0.1", 0)
    with pytest.raises(ConfigError, match=f"{option}: must be at least"):
        ServerConfig(grpc_address=address, http_address=address, **{option: value})

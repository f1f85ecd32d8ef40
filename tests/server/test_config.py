"""Addresses and options of the server."""

import math
from pathlib import Path

import pytest

from treeserve.errors import ConfigError
from treeserve.server.config import (
    AccessConfig,
    Address,
    LoadConfig,
    ServerConfig,
    parse_address,
    tls_files,
)


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
    [
        ("drain_grace_seconds", -1.0),
        ("drain_grace_seconds", math.nan),
        ("max_messages_per_second", 0),
    ],
)
def test_options_out_of_range_are_named(option, value):
    address = Address("127.0.0.1", 0)
    with pytest.raises(ConfigError, match=f"{option}: must be at least"):
        ServerConfig(grpc_address=address, http_address=address, **{option: value})


@pytest.mark.parametrize("option", ["max_calls", "max_buffered_bytes", "max_message_bytes"])
@pytest.mark.parametrize("value", [0, -1, 1 << 31])
def test_limits_out_of_range_are_named(option, value):
    with pytest.raises(ConfigError, match=f"{option}: must be at least 1 and at most"):
        LoadConfig(**{option: value})


LOOPBACK = Address("127.0.0.1", 0)
EVERYWHERE = Address("0.0.0.0", 0)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("localhost.example.org", False),
    ],
)
def test_only_this_machine_reaches_a_loopback_address(host, is_loopback):
    assert Address(host, 0).is_loopback is is_loopback


@pytest.mark.parametrize("name", ["grpc_address", "http_address"])
def test_without_keys_other_machines_are_let_in_only_on_purpose(name):
    addresses = {"grpc_address": LOOPBACK, "http_address": LOOPBACK, name: EVERYWHERE}
    with pytest.raises(ConfigError, match=f"{name}: .*0.0.0.0:0.*--api-keys.*--insecure"):
        ServerConfig(**addresses)
    assert ServerConfig(**addresses, access=AccessConfig(insecure=True)).access.insecure
    ServerConfig(**addresses, access=AccessConfig(api_keys=Path("keys.jsonl")))
    with_ca = tls_files(Path("a.pem"), Path("a.key"), Path("ca.pem"))
    assert ServerConfig(**addresses, tls=with_ca).by_certificate
    with pytest.raises(ConfigError, match=f"{name}: "):
        ServerConfig(**addresses, tls=tls_files(Path("a.pem"), Path("a.key"), None))


def test_keys_that_cross_a_network_in_the_clear_are_noticed():
    keys = AccessConfig(api_keys=Path("keys.jsonl"))
    tls = tls_files(Path("a.pem"), Path("a.key"), None)
    inside = ServerConfig(grpc_address=LOOPBACK, http_address=LOOPBACK, access=keys)
    outside = ServerConfig(grpc_address=EVERYWHERE, http_address=LOOPBACK, access=keys)
    safe = ServerConfig(grpc_address=EVERYWHERE, http_address=LOOPBACK, access=keys, tls=tls)
    assert [c.shows_keys_in_the_clear for c in (inside, outside, safe)] == [False, True, False]


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ((None, Path("k"), None), "tls_cert"),
        ((Path("c"), None, None), "tls_key"),
        ((None, None, Path("ca")), "tls_cert"),
    ],
)
def test_half_a_certificate_names_the_other_half(files, missing):
    with pytest.raises(ConfigError, match=f"{missing}: must be given too"):
        tls_files(*files)

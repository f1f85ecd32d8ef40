"""Where clients connect: TLS, client certificates, keys, and what must not leave this machine."""

import asyncio
import io
import logging
from contextlib import redirect_stderr, redirect_stdout

import pytest
from server.certificates import Authority
from server.conftest import ScriptedTextService
from server.listening import listening

import treeserve
from treeserve.client import AsyncClient, Client, RemoteError, Tls
from treeserve.errors import ConfigError
from treeserve.server.config import AccessConfig, TlsFiles
from treeserve.server.key_file import add_key
from treeserve.server.keys import ApiKey, digest_of, new_secret

KEY = "ts_0123abcd_secret"


async def text_with(address: str, **options) -> list[str]:
    """Of the one sample of each client, whose timeout is generous."""

    def blocking() -> str:
        with Client(address, timeout_seconds=60, **options) as client:
            return "".join(getattr(item, "text", "") for item in client.generate("p"))

    first = await asyncio.to_thread(blocking)
    async with AsyncClient(address, timeout_seconds=60, **options) as client:
        return [first, "".join([getattr(i, "text", "") async for i in client.generate("p")])]


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def key_file(tmp_path):
    """A file with one key, and the key."""
    key_id, secret = new_secret()
    file = tmp_path / "keys.jsonl"
    file.touch(mode=0o600)
    add_key(file, ApiKey(key_id=key_id, digest=digest_of(secret), tenant="acme"))
    return file, secret


async def test_tls_and_a_key_together(authority, key_file):
    pair = authority.sign("server")
    file, secret = key_file
    access = AccessConfig(api_keys=file)
    tls = TlsFiles(pair.cert, pair.key)
    async with listening(ScriptedTextService(), tls=tls, access=access) as server:
        address = f"localhost:{server.grpc_address.port}"
        trusted = Tls(ca=authority.cert)
        assert await text_with(address, tls=trusted, api_key=secret) == ["ab", "ab"]
        for key in (None, "ts_00000000_wrong"):
            with pytest.raises(RemoteError) as caught:
                await text_with(address, tls=trusted, api_key=key)
            assert caught.value.code == "UNAUTHENTICATED"


async def test_a_server_that_nobody_trusts_gets_no_key(authority, tmp_path):
    pair = authority.sign("server")
    service = ScriptedTextService()
    async with listening(service, tls=TlsFiles(pair.cert, pair.key)) as server:
        other = Authority(tmp_path, "other")
        for tls in (Tls(ca=other.cert), Tls(), None):
            with pytest.raises(RemoteError) as caught:
                await text_with(str(server.grpc_address), tls=tls, api_key=KEY, retries=None)
            assert caught.value.code == "UNAVAILABLE"
    assert service.seen == []


async def test_client_certificates(authority, tmp_path):
    pair, own = authority.sign("server"), authority.sign("acme")
    tls = TlsFiles(pair.cert, pair.key, authority.cert)
    stranger = Authority(tmp_path, "stranger").sign("acme")
    service = ScriptedTextService()
    async with listening(service, tls=tls) as server:
        address = str(server.grpc_address)
        shown = Tls(ca=authority.cert, cert=own.cert, key=str(own.key))
        assert await text_with(address, tls=shown) == ["ab", "ab"]
        assert {options.namespace for options in service.options} == {"acme"}
        for wrong in (Tls(authority.cert), Tls(authority.cert, stranger.cert, stranger.key)):
            with pytest.raises(RemoteError) as caught:
                await text_with(address, tls=wrong, retries=None)
            assert caught.value.code == "UNAVAILABLE"


async def test_the_key_of_the_environment_is_shown(key_file, monkeypatch):
    file, secret = key_file
    async with listening(ScriptedTextService(), access=AccessConfig(api_keys=file)) as server:
        monkeypatch.setenv("TREESERVE_API_KEY", secret)
        assert await text_with(str(server.grpc_address)) == ["ab", "ab"]
        with pytest.raises(RemoteError, match="UNAUTHENTICATED"):
            await text_with(str(server.grpc_address), api_key="another")
        monkeypatch.setenv("TREESERVE_API_KEY", "")
        with pytest.raises(RemoteError, match="UNAUTHENTICATED"):
            await text_with(str(server.grpc_address))


REMOTE = ["example.org:1", "10.0.0.1:1", "[2001:db8::1]:1", "dns:///localhost:1", "0.0.0.0:1"]
LOCAL = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/run/treeserve"]


@pytest.mark.parametrize("address", REMOTE)
@pytest.mark.parametrize("source", ["argument", "environment"])
async def test_a_key_does_not_cross_the_network_in_the_clear(address, source, monkeypatch):
    options = {"api_key": KEY} if source == "argument" else {}
    if source == "environment":
        monkeypatch.setenv("TREESERVE_API_KEY", KEY)
    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigError, match=r"^api_key: would cross the network") as caught:
            kind(address, **options)
        assert KEY not in str(caught.value)
    with Client(address, insecure=True, **options), Client(address, tls=Tls(), **options):
        pass
    monkeypatch.delenv("TREESERVE_API_KEY", raising=False)
    with Client(address):
        pass


@pytest.mark.parametrize("address", LOCAL)
def test_this_machine_may_be_shown_a_key(address):
    with Client(address, api_key=KEY):
        pass


async def test_the_key_is_in_no_representation_log_or_error(nobody, caplog):
    caplog.set_level(logging.DEBUG)
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        client = AsyncClient(nobody, api_key=KEY, retries=None)
        with pytest.raises(RemoteError) as caught:
            await client.tokenize("p")
        stream = client.generate("p")
        said = [repr(client), repr(stream), repr(client._connection), repr(client.prefixes)]
        await client.close()
    assert all(KEY not in text for text in (*said, str(caught.value), out.getvalue(), caplog.text))


@pytest.mark.parametrize("key", ["", "two words", "line\n", "schlüssel"])
def test_a_key_that_can_be_none_is_refused_without_showing_it(key):
    with pytest.raises(ConfigError, match=r"^api_key: must be visible ASCII") as caught:
        Client("127.0.0.1:1", api_key=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("address", ["", "host", ":1", "host:", "host:x", "host:99999"])
def test_a_malformed_address_is_named(address):
    with pytest.raises(ConfigError, match=r'^address: must be "host:port", got '):
        Client(address)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keepalive_seconds": 0}, "keepalive_seconds: must be between 1 and 86400, got 0"),
        ({"max_message_bytes": 0}, "max_message_bytes: must be between 1 and 2147483647, got 0"),
        ({"tls": Tls(cert="a.pem")}, "tls.cert: needs tls.key too"),
        ({"tls": Tls(key="a.key")}, "tls.key: needs tls.cert too"),
        ({"tls": Tls(ca="/nonexistent/ca")}, "tls.ca: cannot read /nonexistent/ca: No such file"),
    ],
)
def test_options_out_of_range_are_named(options, words):
    with pytest.raises(ConfigError) as caught:
        Client("127.0.0.1:1", **options)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_a_file_that_holds_something_else_is_named(authority, tmp_path, name):
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nonsense")
    pair = authority.sign("someone")
    files = {"ca": authority.cert, "cert": pair.cert, "key": pair.key} | {name: wrong}
    what = "private key" if name == "key" else "certificate"
    with pytest.raises(ConfigError, match=rf"^tls\.{name}: .* holds no {what} in PEM$"):
        Client("127.0.0.1:1", tls=Tls(**files))


async def test_a_message_over_the_limit_ends_its_call():
    async with listening(ScriptedTextService()) as server:
        async with AsyncClient(str(server.grpc_address), max_message_bytes=1000) as client:
            with pytest.raises(RemoteError) as caught:
                await client.tokenize("x" * 2000)
        assert caught.value.code == "RESOURCE_EXHAUSTED"


def test_the_clients_are_part_of_the_public_api():
    assert (treeserve.Client, treeserve.AsyncClient) == (Client, AsyncClient)

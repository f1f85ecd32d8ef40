"""TLS and client certificates, over real sockets."""

import asyncio
import logging
import shutil
import ssl
import subprocess

import grpc
import pytest
from server.certificates import Authority, openssl
from server.listening import connected, fetch, generate, listening

from treeserve.errors import ConfigError
from treeserve.server.config import AccessConfig, Address, TlsFiles
from treeserve.server.tls import Tls


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture
def files(authority, tmp_path) -> TlsFiles:
    """Copies that a test may change."""
    return place(authority.sign("first"), tmp_path)


def place(pair, folder) -> TlsFiles:
    files = TlsFiles(folder / "server.pem", folder / "server.key")
    shutil.copy(pair.cert, files.cert)
    shutil.copy(pair.key, files.key)
    return files


def with_clients(files: TlsFiles, authority: Authority) -> TlsFiles:
    return TlsFiles(files.cert, files.key, authority.cert)


def trusting(authority: Authority, client=None) -> grpc.ChannelCredentials:
    roots = authority.cert.read_bytes()
    if client is None:
        return grpc.ssl_channel_credentials(roots)
    return grpc.ssl_channel_credentials(roots, client.key.read_bytes(), client.cert.read_bytes())


async def test_both_doors_speak_tls_and_nothing_else(files, authority, text_service):
    context = ssl.create_default_context(cafile=authority.cert)
    async with (
        listening(text_service, tls=files) as server,
        connected(server, trusting(authority)) as stub,
    ):
        assert (await generate(stub)).text == "ab"
        assert await fetch(server, "/healthz", tls=context) == (200, "ok\n")
        async with connected(server) as stub:
            assert (await generate(stub)).code == "UNAVAILABLE"
        with pytest.raises(OSError, match=r"closed connection|reset"):
            await fetch(server, "/healthz")


async def test_a_client_that_does_not_trust_the_authority_turns_away(files, stranger, text_service):
    async with (
        listening(text_service, tls=files) as server,
        connected(server, trusting(stranger)) as stub,
    ):
        assert (await generate(stub)).code == "UNAVAILABLE"
    assert text_service.seen == []


async def test_a_client_certificate_names_the_tenant(files, authority, text_service):
    tls = with_clients(files, authority)
    async with (
        listening(text_service, tls=tls) as server,
        connected(server, trusting(authority, authority.sign("acme"))) as stub,
    ):
        assert (await generate(stub)).code == "OK"
    [caller] = text_service.options
    assert (caller.namespace, caller.tenant) == ("acme", "acme")


async def test_a_certificate_without_a_common_name_names_nobody(files, authority, text_service):
    tls = with_clients(files, authority)
    async with (
        listening(text_service, tls=tls) as server,
        connected(server, trusting(authority, authority.sign(""))) as stub,
    ):
        outcome = await generate(stub)
    assert outcome.code == "UNAUTHENTICATED"
    assert "common name" in outcome.details
    assert text_service.seen == []


async def test_unknown_clients_do_not_get_through_the_handshake(
    files, authority, stranger, text_service
):
    tls = with_clients(files, authority)
    async with listening(text_service, tls=tls) as server:
        for client in (None, stranger.sign("acme")):
            async with connected(server, trusting(authority, client)) as stub:
                assert (await generate(stub)).code == "UNAVAILABLE"
        async with connected(server, trusting(authority, authority.sign("acme"))) as stub:
            assert (await generate(stub)).code == "OK"
    assert len(text_service.seen) == 1


async def test_probes_need_no_client_certificate(files, authority, text_service):
    context = ssl.create_default_context(cafile=authority.cert)
    async with listening(text_service, tls=with_clients(files, authority)) as server:
        assert (await fetch(server, "/readyz", tls=context))[0] == 200


async def test_without_keys_the_metrics_are_closed_to_other_machines(
    files, authority, text_service
):
    context = ssl.create_default_context(cafile=authority.cert)
    context.check_hostname = False
    tls, everywhere = with_clients(files, authority), Address("0.0.0.0", 0)
    async with listening(text_service, tls=tls, http_address=everywhere) as server:
        status, text = await fetch(server, "/metrics", tls=context)
        assert (status, "--open-metrics" in text) == (403, True)
        assert (await fetch(server, "/healthz", tls=context))[0] == 200
    access = AccessConfig(open_metrics=True)
    async with listening(text_service, tls=tls, http_address=everywhere, access=access) as server:
        assert (await fetch(server, "/metrics", tls=context))[0] == 200


async def common_name_of(address) -> str:
    """Of the certificate that a new connection is shown."""

    def look() -> str:
        pem = ssl.get_server_certificate((address.host, address.port))
        return _subject(pem)

    return await asyncio.to_thread(look)


def _subject(pem: str) -> str:
    command = ["openssl", "x509", "-noout", "-subject", "-nameopt", "multiline"]
    text = subprocess.run(command, input=pem, check=True, capture_output=True, text=True).stdout
    return text.rpartition("= ")[2].strip()


async def test_a_new_certificate_is_shown_without_a_restart(
    files, authority, text_service, tmp_path
):
    async with (
        listening(text_service, tls=files) as server,
        connected(server, trusting(authority)) as stub,
    ):
        assert (await generate(stub)).code == "OK"
        place(authority.sign("second"), tmp_path)
        assert await common_name_of(server.grpc_address) == "second"
        server.reload(only_if_changed=True)
        assert await common_name_of(server.http_address) == "second"
        assert (await generate(stub)).code == "OK"


async def test_a_wrong_certificate_is_logged_and_the_old_one_stays(
    files, authority, text_service, caplog
):
    async with listening(text_service, tls=files) as server:
        files.cert.write_text("nonsense")
        server.reload()
        assert "the old certificate stays: tls_cert: " in caplog.text
        assert await common_name_of(server.grpc_address) == "first"
        assert await common_name_of(server.http_address) == "first"


def test_a_change_is_noticed_once(files, authority, tmp_path, caplog):
    caplog.set_level(logging.INFO, "treeserve.server.tls")
    tls = Tls(files)
    tls.reload(only_if_changed=True)
    assert caplog.messages == []
    place(authority.sign("second"), tmp_path)
    tls.reload(only_if_changed=True)
    tls.reload(only_if_changed=True)
    assert caplog.messages == ["read the certificate again"]


def test_a_key_of_another_certificate_is_named(files, authority):
    shutil.copy(authority.sign("other").key, files.key)
    with pytest.raises(ConfigError, match=r"tls_key: .* does not belong to the certificate"):
        Tls(files)


@pytest.mark.parametrize("content", ["", "nonsense", None])
@pytest.mark.parametrize(
    ("option", "what"),
    [("tls_cert", "certificate"), ("tls_key", "private key"), ("tls_client_ca", "certificate")],
)
def test_a_wrong_file_names_its_option(files, tmp_path, option, what, content):
    paths = {"tls_cert": files.cert, "tls_key": files.key, "tls_client_ca": tmp_path / "ca.pem"}
    shutil.copy(files.cert, paths["tls_client_ca"])
    wrong = paths[option] = tmp_path / "wrong.pem"
    if content is not None:
        wrong.write_text(content)
    right = "cannot read .*No such file" if content is None else f"holds no {what} in PEM"
    with pytest.raises(ConfigError, match=f"^{option}: .*{right}|^{option}: {right}"):
        Tls(TlsFiles(paths["tls_cert"], paths["tls_key"], paths["tls_client_ca"]))


def test_a_key_with_a_password_is_refused_without_asking_for_it(files, tmp_path):
    locked = tmp_path / "locked.key"
    openssl("ec", "-in", files.key, "-aes256", "-passout", "pass:secret", "-out", locked)
    with pytest.raises(ConfigError, match=r"tls_key: .* without a password"):
        Tls(TlsFiles(files.cert, locked))

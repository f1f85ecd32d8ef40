"""`treeserve generate --server`: how it connects, and what it refuses."""

import asyncio

import pytest
from server.certificates import Authority
from server.conftest import ScriptedTextService
from server.listening import listening

from treeserve.commands.main import main
from treeserve.server.config import AccessConfig, TlsFiles
from treeserve.server.key_file import add_key
from treeserve.server.keys import ApiKey, digest_of, new_secret


@pytest.fixture
def secret() -> str:
    return new_secret()[1]


@pytest.fixture
def access(secret, tmp_path) -> AccessConfig:
    file = tmp_path / "keys.jsonl"
    file.touch(mode=0o600)
    key_id = secret.split("_")[1]
    add_key(file, ApiKey(key_id=key_id, digest=digest_of(secret), tenant="acme"))
    return AccessConfig(api_keys=file)


async def run(*argv: object) -> int:
    return await asyncio.to_thread(main, ["generate", "p", *(str(word) for word in argv)])


async def test_it_speaks_tls_and_shows_certificate_and_key(secret, access, tmp_path, capsys):
    authority = Authority(tmp_path)
    pair, own = authority.sign("server"), authority.sign("acme")
    tls = TlsFiles(pair.cert, pair.key, authority.cert)
    file = tmp_path / "key"
    file.write_text(f"{secret}\n")
    async with listening(ScriptedTextService(), tls=tls, access=access) as server:
        options = ["--server", server.grpc_address, "--tls-ca", authority.cert, "--timeout", 60]
        shown = ["--tls-cert", own.cert, "--tls-key", own.key]
        assert await run(*options, *shown, "--api-key-file", file) == 0
        assert capsys.readouterr().out == "ab\n"
        assert await run(*options, *shown) == 1
        assert "UNAUTHENTICATED" in capsys.readouterr().err


async def test_the_key_may_be_in_the_environment(secret, access, monkeypatch, capsys):
    monkeypatch.setenv("TREESERVE_API_KEY", secret)
    async with listening(ScriptedTextService(), access=access) as server:
        assert await run("--server", server.grpc_address) == 0
    assert capsys.readouterr().out == "ab\n"


async def test_the_timeout_ends_it(capsys):
    async with listening(ScriptedTextService()) as server:
        command = ["generate", "wait", "--server", str(server.grpc_address), "--timeout", "0.1"]
        assert await asyncio.to_thread(main, command) == 1
    assert "DEADLINE_EXCEEDED" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--timeout", "1"], "--timeout: needs --server"),
        (["--tls-ca", "ca.pem"], "--tls-ca: needs --server"),
        (["--insecure"], "--insecure: needs --server"),
        (["--server", "h:1", "--timeout", "0"], "--timeout: must be above 0, got 0.0"),
        (["--server", "h:1", "--timeout", "nan"], "--timeout: must be above 0, got nan"),
        (["--server", "h"], "address: must be \"host:port\", got 'h'"),
        (["--server", "h:1", "--tls-cert", "a.pem"], "tls.cert: needs tls.key too"),
        (
            ["--server", "h:1", "--api-key-file", "/nonexistent"],
            "cannot read /nonexistent: No such",
        ),
    ],
)
def test_wrong_options_are_one_line(options, words, capsys):
    assert main(["generate", "p", *options]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", ["", "one\ntwo\n", "schlüssel", "x" * 5000])
def test_a_file_that_holds_no_key_is_refused_and_not_shown(content, tmp_path, capsys):
    file = tmp_path / "key"
    file.write_text(content)
    assert main(["generate", "p", "--server", "127.0.0.1:1", "--api-key-file", str(file)]) == 2
    err = capsys.readouterr().err
    assert err == (
        f"treeserve generate: --api-key-file: {file} must hold one key, and nothing else\n"
    )


def test_a_key_is_not_sent_in_the_clear(tmp_path, capsys):
    file = tmp_path / "key"
    file.write_text("ts_0123abcd_secret")
    assert main(["generate", "p", "--server", "example.org:1", "--api-key-file", str(file)]) == 2
    err = capsys.readouterr().err
    assert "would cross the network to example.org:1 in the clear" in err
    assert "secret" not in err

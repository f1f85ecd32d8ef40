"""API keys: their file, and what nobody may learn from them."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from treeserve.commands.main import main
from treeserve.errors import ConfigError
from treeserve.server.doorkeeper import Doorkeeper
from treeserve.server.identity import Allowance, Permission
from treeserve.server.key_file import add_key, read_keys, revoke_key
from treeserve.server.keys import ApiKey, KeyRing, digest_of, new_secret
from treeserve.server.refusals import Unauthenticated

LINE = {"id": "0123abcd", "sha256": "a" * 64, "tenant": "acme"}
NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.jsonl"


def make_key(**fields) -> tuple[ApiKey, str]:
    key_id, secret = new_secret()
    given = {"tenant": "acme", **fields}
    return ApiKey(key_id=key_id, digest=digest_of(secret), **given), secret


def test_a_key_is_known_by_all_of_it_and_nothing_less():
    key, secret = make_key()
    ring = KeyRing([make_key()[0], key])
    assert ring.find(secret, NOW) is key
    other_id = new_secret()[1].split("_")[1]
    wrong = [
        "",
        secret[:-1],
        secret + "0",
        secret.upper(),
        secret.replace(key.key_id, other_id),
        f"ts_{key.key_id}_",
        f"ts_{key.key_id}_{key.digest}",
        "ts__",
        "é" * 80,
        "\udc80",
        "\ud800",
    ]
    assert [ring.find(text, NOW) for text in wrong] == [None] * len(wrong)


@pytest.mark.parametrize(
    ("fields", "is_valid"),
    [
        ({"disabled": True}, False),
        ({"expires": NOW}, False),
        ({"expires": NOW - timedelta(days=1)}, False),
        ({"expires": NOW + timedelta(seconds=1)}, True),
    ],
)
def test_revoked_and_expired_keys_open_nothing(fields, is_valid):
    key, secret = make_key(**fields)
    assert (KeyRing([key]).find(secret, NOW) is key) is is_valid


def test_a_file_gives_back_what_was_written(path):
    keys = [
        make_key(name="a", permissions=frozenset(Permission))[0],
        make_key(allowance=Allowance(1, 2, 3), expires=NOW)[0],
        make_key(name='quotes " and \n? no', tenant="b.c-d_e")[0],
    ]
    for key in keys[:2]:
        add_key(path, key)
    with pytest.raises(ConfigError, match="name: must be a text"):
        add_key(path, keys[2])
    assert read_keys(path) == keys[:2]
    assert revoke_key(path, keys[0].key_id).disabled
    assert [key.disabled for key in read_keys(path)] == [True, False]
    assert read_keys(path)[1] == keys[1]


def test_the_file_is_its_owners_alone_and_holds_no_key(path):
    key, secret = make_key()
    add_key(path, key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret not in path.read_text()
    assert secret.split("_")[2] not in path.read_text()
    assert os.listdir(path.parent) == [path.name]


def test_of_revocations_at_once_none_is_lost(path):
    keys = [make_key()[0] for _ in range(8)]
    for key in keys:
        add_key(path, key)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: revoke_key(path, key.key_id), keys))
    assert all(key.disabled for key in read_keys(path))


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must be a JSON object"),
        ({"tenant": None}, "tenant: must be 1 to 64 letters"),
        ({"tenant": ""}, "tenant: must be 1 to 64 letters"),
        ({"tenant": "a b"}, "tenant: must be 1 to 64 letters"),
        ({"tenant": "a" * 65}, "tenant: must be 1 to 64 letters"),
        ({"id": "xyz"}, "id: must be 8 hex digits"),
        ({"sha256": "A" * 64}, "sha256: must be 64 hex digits"),
        ({"name": 5}, "name: must be a text"),
        ({"permissions": "generate"}, "permissions: must be a list"),
        ({"permissions": ["fly"]}, "permissions: 'fly' is none; there are generate, "),
        ({"permissions": [["generate"]]}, "permissions: .* is none"),
        ({"max_requests": 0}, "max_requests: must be a whole number of at least 1"),
        ({"max_tokens": 1.5}, "max_tokens: must be a whole number of at least 1"),
        ({"requests_per_minute": True}, "requests_per_minute: must be a whole number"),
        ({"expires": "tomorrow"}, "expires: must be a time such as"),
        ({"expires": 5}, "expires: must be a time such as"),
        ({"disabled": "yes"}, "disabled: must be true or false"),
        ({"secret": "x"}, "secret: is not a field of a key; there are id, "),
        ({"id": "89abcdef"}, "id: 89abcdef is there twice"),
    ],
)
def test_a_malformed_line_is_one_error_that_names_line_and_field(path, line, cause):
    text = line if isinstance(line, str) else json.dumps(LINE | line)
    good = json.dumps(LINE | {"id": "89abcdef"})
    path.write_text(f"{good}\n\n{text}\n")
    with pytest.raises(ConfigError, match=f"^api_keys: {path} line 3: {cause}"):
        Doorkeeper(path)


@pytest.mark.parametrize("name", sorted(LINE))
def test_a_field_that_must_be_there_is_named(path, name):
    path.write_text(json.dumps({key: value for key, value in LINE.items() if key != name}))
    with pytest.raises(ConfigError, match=f"line 1: {name}: is missing"):
        read_keys(path)


def test_a_file_that_is_not_there_is_named(path):
    with pytest.raises(ConfigError, match=r"api_keys: cannot read .*No such file"):
        Doorkeeper(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"api_keys: .* is not UTF-8 text: byte 0"):
        Doorkeeper(path)


def test_a_file_that_others_may_read_is_warned_of(path, caplog):
    add_key(path, make_key()[0])
    Doorkeeper(path)
    assert caplog.messages == []
    path.chmod(0o644)
    Doorkeeper(path)
    assert "other users may read" in caplog.text


def test_what_is_wrong_with_a_key_is_not_told(path):
    revoked, expired = make_key(disabled=True), make_key(expires=NOW - timedelta(days=9))
    for key, _ in (revoked, expired):
        add_key(path, key)
    doorkeeper = Doorkeeper(path)
    headers = [
        [],
        [""],
        ["Bearer"],
        ["Bearer nonsense"],
        [f"Basic {revoked[1]}"],
        [f"Bearer {revoked[1]}"],
        [f"Bearer {expired[1]}"],
        [b"\xff\xfe"],
    ]
    texts = set()
    for header in headers:
        with pytest.raises(Unauthenticated) as caught:
            doorkeeper.identify_key(header)
        texts.add(str(caught.value))
    assert len(texts) == 1


def test_two_headers_are_no_header(path):
    key, secret = make_key()
    add_key(path, key)
    doorkeeper = Doorkeeper(path)
    assert doorkeeper.identify_key([f"bearer {secret}"]).tenant == "acme"
    with pytest.raises(Unauthenticated):
        doorkeeper.identify_key([f"Bearer {secret}"] * 2)


def test_keys_from_the_command_line_open_doors_until_they_are_revoked(path, capsys):
    new = ["keys", "new", "--file", str(path), "--tenant", "acme", "--name", "ci"]
    limits = ["--max-requests", "3", "--requests-per-minute", "60", "--expires", "2999-01-31"]
    assert main([*new, "--permissions", "generate,inspect", *limits]) == 0
    captured = capsys.readouterr()
    secret = captured.out.strip()
    assert secret not in captured.err
    doorkeeper = Doorkeeper(path)
    identity = doorkeeper.identify_key([f"Bearer {secret}"])
    assert (identity.tenant, identity.key_name) == ("acme", "ci")
    assert identity.permissions == {Permission.GENERATE, Permission.INSPECT}
    assert identity.allowance == Allowance(3, None, 60)

    assert main(["keys", "list", "--file", str(path)]) == 0
    listed = capsys.readouterr().out
    assert identity.key_id in listed
    assert "until 2999-01-31" in listed
    assert secret.split("_")[2] not in listed

    assert main(["keys", "revoke", "--file", str(path), identity.key_id]) == 0
    doorkeeper.reload(only_if_changed=True)
    with pytest.raises(Unauthenticated):
        doorkeeper.identify_key([f"Bearer {secret}"])
    capsys.readouterr()
    assert main(["keys", "list", "--file", str(path)]) == 0
    assert "revoked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--tenant", ""], "tenant: must be 1 to 64 letters"),
        (["--tenant", "a", "--permissions", "generate,fly"], "permissions: 'fly' is none"),
        (["--tenant", "a", "--max-requests", "0"], "max_requests: must be a whole number"),
        (["--tenant", "a", "--expires", "soon"], "expires: must be a time such as"),
        (["--tenant", "a", "--name", "x" * 129], "name: must be a text of at most 128"),
    ],
)
def test_a_bad_option_of_a_new_key_is_one_line(path, capsys, options, cause):
    assert main(["keys", "new", "--file", str(path), *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"treeserve keys new: {cause}")
    assert err.count("\n") == 1
    assert not path.exists()


def test_a_key_that_is_not_there_cannot_be_revoked(path, capsys):
    add_key(path, make_key()[0])
    assert main(["keys", "revoke", "--file", str(path), "00000000"]) == 2
    assert "key: " in capsys.readouterr().err
    assert main(["keys", "revoke", "--file", str(path.parent / "no" / "keys"), "0"]) == 2

"""The file of API keys: one JSON object a line, read as a whole and never half."""

import fcntl
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from treeserve.errors import ConfigError
from treeserve.server.identity import Allowance, Permission
from treeserve.server.keys import ApiKey

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LIMITS = ("max_requests", "max_tokens", "requests_per_minute")
_REQUIRED = ("id", "sha256", "tenant")
_OPTIONAL = ("name", "permissions", *_LIMITS, "expires", "disabled")


class _Wrong(Exception):
    """What is wrong with a line."""


def read_keys(path: Path) -> list[ApiKey]:
    """All keys of a file.

    Raises:
        ConfigError: Names the file, the line, the field and what would be right.
    """
    keys: list[ApiKey] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            key = _read_line(line)
            if any(key.key_id == other.key_id for other in keys):
                raise _Wrong(f"id: {key.key_id} is there twice")
        except _Wrong as error:
            raise ConfigError(f"api_keys: {path} line {number}: {error}") from None
        keys.append(key)
    return keys


def is_open_to_others(path: Path) -> bool:
    """Whether users other than its owner may read the file."""
    return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def add_key(path: Path, key: ApiKey) -> None:
    """Add a key to a file, which is made if there is none; only its owner may read it then.

    Raises:
        ConfigError: The key or the file is malformed, or cannot be written.
    """
    try:
        _read_line(json.dumps(_fields(key)))
    except _Wrong as error:
        raise ConfigError(str(error)) from None
    with _locked(path):
        keys = read_keys(path) if path.exists() else []
        _write(path, [*keys, key])


def revoke_key(path: Path, key_id: str) -> ApiKey:
    """Disable a key, and give it back.

    Raises:
        ConfigError: There is no such key, or the file is malformed.
    """
    with _locked(path):
        keys = {key.key_id: key for key in read_keys(path)}
        if key_id not in keys:
            raise ConfigError(f"key: {path} has none with the id {key_id!r}")
        revoked = keys[key_id] = replace(keys[key_id], disabled=True)
        _write(path, list(keys.values()))
    return revoked


def read_time(text: str) -> datetime:
    """A time such as 2027-01-31 or 2027-01-31T12:00:00+01:00; UTC unless it says otherwise.

    Raises:
        ConfigError: It is not one.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"expires: must be a time such as 2027-01-31T12:00:00Z, got {text!r}"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").split("\n")
    except OSError as error:
        raise ConfigError(f"api_keys: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"api_keys: {path} is not UTF-8 text: byte {error.start}") from None


def _read_line(line: str) -> ApiKey:
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        raise _Wrong("is not JSON; a key is one JSON object on one line") from None
    if not isinstance(fields, dict):
        raise _Wrong("must be a JSON object")
    _check_names(fields)
    return ApiKey(
        key_id=_text(fields, "id", _KEY_ID, "8 hex digits"),
        digest=_text(fields, "sha256", _DIGEST, "64 hex digits, lower case"),
        tenant=_text(
            fields, "tenant", _TENANT, "1 to 64 letters, digits and . _ -, first a letter or digit"
        ),
        name=_text(fields, "name", re.compile(r".{0,128}"), "a text of at most 128 characters"),
        permissions=_permissions(fields.get("permissions", [Permission.GENERATE.value])),
        allowance=Allowance(*(_limit(fields, name) for name in _LIMITS)),
        expires=_expires(fields.get("expires")),
        disabled=_flag(fields, "disabled"),
    )


def _check_names(fields: dict[str, Any]) -> None:
    for name in fields:
        if name not in (*_REQUIRED, *_OPTIONAL):
            known = ", ".join((*_REQUIRED, *_OPTIONAL))
            raise _Wrong(f"{name}: is not a field of a key; there are {known}")
    for name in _REQUIRED:
        if name not in fields:
            raise _Wrong(f"{name}: is missing")


def _text(fields: dict[str, Any], name: str, pattern: "re.Pattern[str]", right: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _Wrong(f"{name}: must be {right}")
    return value


def _permissions(value: object) -> frozenset[Permission]:
    known = ", ".join(Permission)
    if not isinstance(value, list):
        raise _Wrong(f"permissions: must be a list of {known}")
    for entry in value:
        if entry not in list(Permission):
            raise _Wrong(f"permissions: {entry!r} is none; there are {known}")
    return frozenset(Permission(entry) for entry in value)


def _limit(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise _Wrong(f"{name}: must be a whole number of at least 1, or null")
    return value


def _expires(value: object) -> datetime | None:
    if value is None:
        return None
    try:
        return read_time(value if isinstance(value, str) else repr(value))
    except ConfigError as error:
        raise _Wrong(str(error)) from None


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise _Wrong(f"{name}: must be true or false")
    return value


def _write(path: Path, keys: list[ApiKey]) -> None:
    """To a file beside it, and then in its place: a server never reads half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    text = "".join(f"{json.dumps(_fields(key))}\n" for key in keys)

    def private(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600)

    def write() -> None:
        with open(fresh, "w", encoding="utf-8", opener=private) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    _naming(path, write)


def _fields(key: ApiKey) -> dict[str, Any]:
    limits = {name: getattr(key.allowance, name) for name in _LIMITS}
    return {
        "id": key.key_id,
        "name": key.name,
        "tenant": key.tenant,
        "sha256": key.digest,
        "permissions": sorted(key.permissions),
        **{name: value for name, value in limits.items() if value is not None},
        **({"expires": key.expires.isoformat()} if key.expires else {}),
        **({"disabled": True} if key.disabled else {}),
    }


def _naming(path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise ConfigError(f"file: cannot write {path}: {error.strerror}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time: of two revocations at once, none is lost."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"file: cannot write {path}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)

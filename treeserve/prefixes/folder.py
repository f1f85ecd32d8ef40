"""The folder of what is saved: names, one sub-folder a tenant, whole files or none."""

import contextlib
import hashlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from treeserve.errors import (
    AlreadyExists,
    ConfigError,
    InvalidRequest,
    NoRoom,
    NotFound,
    NotPossible,
)

DEFAULT_MAX_BYTES = 10 << 30
MAX_SAVED = 1024
"""Of one tenant and kind."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TEMPORARY = ".writing-"
_ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Kind:
    """What is saved, and how its files are called."""

    one: str
    many: str
    suffix: str
    """No kind lists another's files: none ends as another's do."""
    name: "re.Pattern[str]"
    rule: str
    """What a name must be."""


PREFIXES = Kind(
    "prefix",
    "prefixes",
    ".safetensors",
    _NAME,
    'must be 1 to 64 characters a to z, 0 to 9, "-", "_" and ".", the first a letter or a digit',
)
SCHEMAS = Kind(
    "schema",
    "schemas",
    ".schema",
    re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,63}"),
    'must be 1 to 64 letters a to z, digits, "_", "-" and ".", the first a letter or "_"',
)


@dataclass(frozen=True, slots=True)
class SavedEntry:
    """What is saved under one name, as the folder lists it."""

    name: str
    num_bytes: int
    saved_at: float
    """Seconds since 1970-01-01 UTC."""


class PrefixFolder:
    """Every file in it is whole: it is written under another name and then renamed.

    Files can be read by the server's own user alone, for they hold what tenants wrote.

    Args:
        path: Made if it is not there.
        max_bytes: Of all files of all tenants and kinds together.
        kind: Of the files that it reads, writes and lists.

    Raises:
        ConfigError: It is no folder that can be written to, or max_bytes is not positive.
    """

    def __init__(
        self, path: Path, max_bytes: int = DEFAULT_MAX_BYTES, kind: Kind = PREFIXES
    ) -> None:
        if max_bytes < 1:
            raise ConfigError(f"prefix_folder_bytes: must be at least 1, got {max_bytes}")
        self._path = path
        self._max_bytes = max_bytes
        self._kind = kind
        self._one = kind.one
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise ConfigError(f"prefix_folder: cannot write to {path}: {error.strerror}") from None
        self._drop_abandoned()

    def of(self, kind: Kind) -> "PrefixFolder":
        """The same folder for files of another kind, which count towards the same bytes."""
        return PrefixFolder(self._path, self._max_bytes, kind)

    def check_name(self, name: str) -> None:
        """Raises InvalidRequest unless it can name what is saved."""
        if not self._kind.name.fullmatch(name):
            raise InvalidRequest("name", self._kind.rule)

    def require_free(self, namespace: str, name: str) -> None:
        """Raises AlreadyExists where something is saved under the name."""
        if os.path.lexists(self._file(namespace, name)):
            raise self._exists(name)

    def require_room(self, namespace: str, num_bytes: int) -> None:
        """Raises NoRoom where so many bytes more, or one file more, would be too many."""
        if len(self.entries(namespace)) >= MAX_SAVED:
            raise NoRoom(
                f"{MAX_SAVED} {self._kind.many} are saved, and no more may be: delete some"
            )
        num_left = self.num_bytes_left()
        if num_bytes > num_left:
            raise NoRoom(
                f"the saved {self._one} would take {num_bytes} bytes, and {num_left} of the "
                f"{self._max_bytes} for all that is saved are left"
            )

    def num_bytes_left(self) -> int:
        """For all tenants together."""
        sizes = [_size_of(file) for file in self._path.glob("*/*")]
        return max(0, self._max_bytes - sum(sizes))

    def write(
        self, namespace: str, name: str, pieces: Sequence[memoryview], *, overwrite: bool
    ) -> SavedEntry:
        """Store a file, piece after piece, whole or not at all.

        Raises:
            AlreadyExists: There is one, and it is not to be overwritten.
            NotPossible: The disk refuses.
        """
        target = self._file(namespace, name)
        try:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=_TEMPORARY)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.writelines(pieces)
                    file.flush()
                    os.fsync(file.fileno())
                _put(temporary, target, overwrite)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
            return self._entry(target)
        except FileExistsError:
            raise self._exists(name) from None
        except OSError as error:
            raise NotPossible(f"the {self._one} could not be saved: {error.strerror}") from None

    def read(self, namespace: str, name: str, max_bytes: int) -> bytes:
        """A file's content, from a file that is a plain one.

        Raises:
            NotFound: There is none of that name.
            NotPossible: It is longer than max_bytes, or cannot be read.
        """
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self._file(namespace, name), flags)
        except FileNotFoundError:
            raise self._not_found(name) from None
        except OSError as error:
            raise NotPossible(f"the saved {self._one} cannot be read: {error.strerror}") from None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise NotPossible(f"the saved {self._one} cannot be read: it is not a plain file")
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(max_bytes + 1) if status.st_size <= max_bytes else b""
        if status.st_size > max_bytes or len(data) > max_bytes:
            raise NotPossible(
                f"the saved {self._one} has {status.st_size} bytes, and one that fits this "
                f"server at most {max_bytes}: it is damaged, or another model's"
            )
        return data

    def entries(self, namespace: str) -> list[SavedEntry]:
        """What a tenant has saved, by name."""
        kind = self._kind
        files = [
            file
            for file in self._tenant_folder(namespace).glob(f"*{kind.suffix}")
            if kind.name.fullmatch(file.name.removesuffix(kind.suffix)) and not file.is_symlink()
        ]
        found = []
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                found.append(self._entry(file))
        return sorted(found, key=lambda entry: entry.name)

    def delete(self, namespace: str, name: str) -> None:
        """Raises NotFound where there is none of that name."""
        try:
            self._file(namespace, name).unlink()
        except FileNotFoundError:
            raise self._not_found(name) from None
        except OSError as error:
            raise NotPossible(
                f"the saved {self._one} cannot be deleted: {error.strerror}"
            ) from None

    def _file(self, namespace: str, name: str) -> Path:
        self.check_name(name)
        return self._tenant_folder(namespace) / f"{name}{self._kind.suffix}"

    def _tenant_folder(self, namespace: str) -> Path:
        """No two tenants have the same, whatever they are called."""
        if not namespace:
            return self._path / "no-tenant"
        if _NAME.fullmatch(namespace):
            return self._path / f"name-{namespace}"
        return self._path / f"sha256-{hashlib.sha256(namespace.encode()).hexdigest()}"

    def _entry(self, file: Path) -> SavedEntry:
        status = file.stat()
        name = file.name.removesuffix(self._kind.suffix)
        return SavedEntry(name, status.st_size, status.st_mtime)

    def _exists(self, name: str) -> AlreadyExists:
        return AlreadyExists(
            f"a {self._one} is saved as {name!r} already; overwrite it or choose another"
        )

    def _not_found(self, name: str) -> NotFound:
        return NotFound(f"no {self._one} is saved as {name!r}")

    def _drop_abandoned(self) -> None:
        """Files that a server was writing when it was killed."""
        for file in self._path.glob(f"*/{_TEMPORARY}*"):
            with contextlib.suppress(OSError):
                if time.time() - file.lstat().st_mtime > _ABANDONED_SECONDS:
                    file.unlink()


def _put(temporary: str, target: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(temporary, target)
    else:
        os.link(temporary, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _size_of(file: Path) -> int:
    with contextlib.suppress(OSError):
        return file.lstat().st_size
    return 0

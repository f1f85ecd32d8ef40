"""The doorkeeper: who a caller is, and what it may do."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc

from treeserve.errors import ConfigError
from treeserve.server.file_watch import FileWatch
from treeserve.server.identity import ANYBODY, Identity, Permission
from treeserve.server.key_file import is_open_to_others, read_keys
from treeserve.server.keys import KeyRing
from treeserve.server.refusals import Forbidden, Unauthenticated

logger = logging.getLogger(__name__)

_SCHEME = "bearer "
_NO_KEY = "a valid API key is needed, as metadata 'authorization: Bearer KEY'"
KEY_NO_LONGER_VALID = "the API key of this call is no longer valid"
_NO_CERTIFICATE = "a client certificate whose subject has a common name is needed"
_COMMON_NAME = "x509_common_name"


class Doorkeeper:
    """Knows callers by their API keys, else by their client certificates, else not at all.

    Args:
        api_keys: The file of keys; None: there are none, and nobody is asked for one.
        by_certificate: Without keys, a client certificate's common name is the tenant. Else all
            callers are one tenant, which may do everything.

    Raises:
        ConfigError: The file cannot be read, or a line of it is wrong.
    """

    def __init__(self, api_keys: Path | None = None, *, by_certificate: bool = False) -> None:
        self._path = api_keys
        self._by_certificate = by_certificate
        self._watch = FileWatch(() if api_keys is None else (api_keys,))
        self._keys = KeyRing() if api_keys is None else _load(api_keys)

    @property
    def asks_for_keys(self) -> bool:
        """Whether callers need a key."""
        return self._path is not None

    def identify(self, context: "grpc.aio.ServicerContext[Any, Any]") -> Identity:
        """Who makes a gRPC call.

        Raises:
            Unauthenticated: The caller has no valid key or certificate.
        """
        if self.asks_for_keys:
            return self.identify_key(_values(context.invocation_metadata(), "authorization"))
        if self._by_certificate:
            names = list(context.auth_context().get(_COMMON_NAME, ()))
            return _named(names[0] if names else b"")
        return ANYBODY

    def identify_key(self, authorization: Iterable[str | bytes]) -> Identity:
        """Who shows an API key.

        Args:
            authorization: The values of that header; there must be one.

        Raises:
            Unauthenticated: It is missing, wrong, revoked or expired; which one is not told.
        """
        values = list(authorization)
        value = values[0] if len(values) == 1 else ""
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        secret = text[len(_SCHEME) :].strip() if text.lower().startswith(_SCHEME) else ""
        key = self._keys.find(secret)
        if key is None:
            raise Unauthenticated(_NO_KEY)
        return key.identity()

    def still_knows(self, identity: Identity) -> bool:
        """Whether a caller that was let in would still be; its key may have been revoked since."""
        return not identity.key_id or self._keys.knows(identity)

    def require(self, identity: Identity, permission: Permission) -> None:
        """Raise Forbidden unless the caller has a permission."""
        if permission not in identity.permissions:
            raise Forbidden(f"the permission {permission.value!r} is needed, and the key lacks it")

    def reload(self, *, only_if_changed: bool = False) -> None:
        """Read the keys again; a malformed file is logged, and the old keys stay."""
        if self._path is None or not (self._watch.has_changed() or not only_if_changed):
            return
        try:
            self._keys = _load(self._path)
        except ConfigError as error:
            logger.error("the old API keys stay: %s", error)
        else:
            logger.info("read %d API keys", len(self._keys))


def _load(path: Path) -> KeyRing:
    keys = KeyRing(read_keys(path))
    if is_open_to_others(path):
        logger.warning("api_keys: other users may read %s; chmod 600 keeps them out", path)
    return keys


def _named(common_name: bytes) -> Identity:
    """All permissions but ADMIN, which needs a key or a server that asks nobody."""
    tenant = common_name.decode("utf-8", "replace")
    if not tenant:
        raise Unauthenticated(_NO_CERTIFICATE)
    return Identity(tenant, frozenset(Permission) - {Permission.ADMIN})


def _values(metadata: Any, name: str) -> list[str | bytes]:
    return [value for key, value in metadata or () if key == name]

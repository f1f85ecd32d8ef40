"""API keys: how they look, and what of them is kept."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from treeserve.server.identity import NO_LIMITS, Allowance, Identity, Permission

_PREFIX = "ts"
_NOBODY = "0" * 64
"""A digest that no secret has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """All that is kept of a key: its secret is not among it.

    The digest is a plain SHA-256: the secret is 256 random bits, so there is nothing to guess, and
    a slow hash, which protects what people choose, would only cost time in every call.
    """

    key_id: str
    """Part of the key itself, and no secret."""
    digest: str
    """SHA-256 of the whole key, in hex."""
    tenant: str
    name: str = ""
    permissions: frozenset[Permission] = frozenset({Permission.GENERATE})
    allowance: Allowance = NO_LIMITS
    expires: datetime | None = None
    disabled: bool = False

    def is_valid(self, now: datetime) -> bool:
        """Whether it may be used at this time."""
        return not self.disabled and (self.expires is None or now < self.expires)

    def identity(self) -> Identity:
        """Who calls with it."""
        return Identity(self.tenant, self.permissions, self.key_id, self.name, self.allowance)


class KeyRing:
    """The keys that are known; never changes.

    Args:
        keys: With ids that differ.
    """

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = {key.key_id: key for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def knows(self, identity: Identity, now: datetime | None = None) -> bool:
        """Whether the key with which a caller came is still valid, and still its tenant's."""
        key = self._keys.get(identity.key_id)
        is_same = key is not None and key.tenant == identity.tenant
        return is_same and key is not None and key.is_valid(now or datetime.now(UTC))

    def find(self, secret: str, now: datetime | None = None) -> ApiKey | None:
        """The valid key that a caller shows; None for a wrong, revoked or expired one.

        Digests are compared in constant time, also where no key has the id.
        """
        key = self._keys.get(_id_of(secret))
        digest = _NOBODY if key is None else key.digest
        is_right = hmac.compare_digest(digest, digest_of(secret))
        if key is None or not is_right or not key.is_valid(now or datetime.now(UTC)):
            return None
        return key


def new_secret() -> tuple[str, str]:
    """A fresh key id, and the key that its owner is shown once."""
    key_id = secrets.token_hex(4)
    return key_id, f"{_PREFIX}_{key_id}_{secrets.token_hex(32)}"


def digest_of(secret: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _id_of(secret: str) -> str:
    parts = secret.split("_")
    return parts[1] if len(parts) == 3 and parts[0] == _PREFIX else ""

"""Who may see the page's data."""

from starlette.requests import Request

from treeserve.server.config import Address, ServerConfig
from treeserve.server.doorkeeper import Doorkeeper
from treeserve.server.identity import ANYBODY, Identity, Permission
from treeserve.server.refusals import Forbidden

_NEEDS_KEYS = (
    "the page needs a key, and this server has none: start it with --api-keys; "
    "client certificates are asked for over gRPC only"
)


class PageDoor:
    """Where the service asks for keys, so does the page: with the permission `inspect`.

    Without keys the page is open where the service is: on this machine alone, or with --insecure.

    Args:
        config: Where the server listens, and for whom.
        doorkeeper: Knows the keys.
    """

    def __init__(self, config: ServerConfig, doorkeeper: Doorkeeper) -> None:
        self._doorkeeper = doorkeeper
        self._address = config.http_address
        self._is_insecure = config.access.insecure
        self._by_certificate = config.by_certificate

    def identify(self, request: Request) -> Identity:
        """Who asks.

        Raises:
            Unauthenticated: It shows no valid key.
            Forbidden: The key may not inspect, or nobody may see the page.
        """
        if self._doorkeeper.asks_for_keys:
            identity = self._doorkeeper.identify_key(request.headers.getlist("authorization"))
            self._doorkeeper.require(identity, Permission.INSPECT)
            return identity
        if self._by_certificate:
            raise Forbidden(_NEEDS_KEYS)
        if not self._is_insecure:
            self._require_this_machine(request)
        return ANYBODY

    def _require_this_machine(self, request: Request) -> None:
        """A page from elsewhere whose name was made to lead here is not to be told anything."""
        if not self._address.is_loopback:
            raise Forbidden(_NEEDS_KEYS)
        host = request.url.hostname or ""
        if not Address(host, 0).is_loopback:
            raise Forbidden(f"the page is for this machine: open it as localhost, not as {host!r}")

"""Who may read the metrics."""

from starlette.responses import PlainTextResponse, Response

from treeserve.server.config import ServerConfig
from treeserve.server.doorkeeper import Doorkeeper
from treeserve.server.identity import Permission
from treeserve.server.refusals import Forbidden, Unauthenticated

_CLOSED = "the metrics need a key, and this server has none: --api-keys or --open-metrics\n"


class MetricsDoor:
    """Open to all, to keys with the permission `inspect`, or to nobody.

    Client certificates do not count here: probes have none, so HTTP does not ask for them.

    Args:
        config: Where the server listens, and for whom.
        doorkeeper: Knows the keys.
    """

    def __init__(self, config: ServerConfig, doorkeeper: Doorkeeper) -> None:
        self._doorkeeper = doorkeeper
        is_private = config.http_address.is_loopback or config.access.insecure
        self._is_open = config.access.open_metrics or (is_private and not doorkeeper.asks_for_keys)

    def refuse(self, authorization: list[str]) -> Response | None:
        """The answer to a caller who may not; None for one who may."""
        if self._is_open:
            return None
        if not self._doorkeeper.asks_for_keys:
            return PlainTextResponse(_CLOSED, status_code=403)
        try:
            identity = self._doorkeeper.identify_key(authorization)
            self._doorkeeper.require(identity, Permission.INSPECT)
        except Unauthenticated as error:
            headers = {"WWW-Authenticate": "Bearer"}
            return PlainTextResponse(f"{error}\n", status_code=401, headers=headers)
        except Forbidden as error:
            return PlainTextResponse(f"{error}\n", status_code=403)
        return None

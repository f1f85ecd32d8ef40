"""AdminService for asyncio."""

from types import TracebackType

from treeserve.client import admin_calls
from treeserve.client.admin_calls import Costs, Drained, LogLevel, ServerStatus
from treeserve.client.async_stream import AsyncConnection
from treeserve.client.endpoint import Endpoint, Tls, key_from_environment
from treeserve.client.retries import NO_RETRIES, Retries


class AsyncAdminClient:
    """A connection to a server's administration, which has an address of its own.

    Needs a key with the permission "admin", and a server that was started with --admin-address.
    Close it, or use it in an `async with` statement. It belongs to the event loop in which it is
    built. Every method takes the call's timeout in seconds; None is the client's. They raise
    InvalidRequest, and RemoteError for anything else that goes wrong.

    Args:
        address: What the server was given as --admin-address, "host:port".
        tls: Encrypts the connection; None: plain text.
        api_key: Says who calls. None: what the environment has as TREESERVE_API_KEY, if anything.
        insecure: Send the key in plain text to another machine all the same.
        timeout_seconds: Of calls that bring none, their retries among it; None: no limit.
        retries: How often calls are made again where that is safe; None: never.

    Raises:
        ConfigError: Names the option and what would be right.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        api_key: str | None = None,
        insecure: bool = False,
        timeout_seconds: float | None = None,
        retries: Retries | None = Retries(),  # noqa: B008  # frozen
    ) -> None:
        endpoint = Endpoint(
            address=address,
            tls=tls,
            api_key=key_from_environment() if api_key is None else api_key,
            insecure=insecure,
        )
        self._address = address
        self._connection = AsyncConnection(endpoint, retries or NO_RETRIES, timeout_seconds)

    def __repr__(self) -> str:
        return f"AsyncAdminClient({self._address!r})"

    async def __aenter__(self) -> "AsyncAdminClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End what still runs."""
        await self._connection.close()

    async def status(self, *, timeout_seconds: float | None = None) -> ServerStatus:
        """What runs, how it was started, and how much there is of everything; in every phase."""
        return await self._connection.unary(admin_calls.status(), timeout_seconds)

    async def drain(self, *, timeout_seconds: float | None = None) -> Drained:
        """Refuse new calls from now on, for good, until all have ended or the grace is over.

        The server's process goes on until it gets a signal.
        """
        return await self._connection.unary(admin_calls.drain(), timeout_seconds)

    async def clear_cache(self, *, timeout_seconds: float | None = None) -> int:
        """Evict everything that no running sample needs, retained or not, in all namespaces.

        Returns:
            The number of tokens that left the tree.
        """
        return await self._connection.unary(admin_calls.clear_cache(), timeout_seconds)

    async def set_log_level(
        self, level: LogLevel, *, timeout_seconds: float | None = None
    ) -> str | None:
        """Say more or less in the server's log from now on.

        Args:
            level: "debug", "info", "warning" or "error".
            timeout_seconds: Of the call; None: the client's.

        Returns:
            What it was before; None where it was none of these.
        """
        return await self._connection.unary(admin_calls.set_log_level(level), timeout_seconds)

    async def calibrate(
        self, seconds: float | None = None, *, timeout_seconds: float | None = None
    ) -> Costs:
        """Measure what attention costs on the server's device, store it, and plan by it.

        FAILED_PRECONDITION while there are requests; those that come meanwhile wait. Never made
        again where the answer was lost.

        Args:
            seconds: About how long, from 1 to 60; None: 8.
            timeout_seconds: Of the call; None: the client's.
        """
        return await self._connection.unary(admin_calls.calibrate(seconds), timeout_seconds)

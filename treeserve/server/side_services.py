"""The services beside generation: tree and prefixes on its address, administration on another."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.message import Message

from treeserve.server import module_service, prefix_service, tree_service
from treeserve.server.admin_service import AdminService, set_own_log_level
from treeserve.server.backstage import Backstage
from treeserve.server.config import Address, ServerConfig
from treeserve.server.doors import Doors
from treeserve.server.endings import Endings
from treeserve.server.module_service import ModuleService
from treeserve.server.prefix_service import PrefixService
from treeserve.server.tree_service import TreeService

SERVICE_NAMES = (
    tree_service.SERVICE_NAME,
    prefix_service.SERVICE_NAME,
    module_service.SERVICE_NAME,
)
"""Those on the same address as generation."""

Bind: TypeAlias = Callable[[str, grpc.aio.Server, Address], Address]
"""(name of the option, server, where to listen) -> where it listens; raises BindError."""


class SideServices:
    """Built with the server; they answer from a backstage once there is one.

    Args:
        doors: Decide whether a call may run.
        endings: Tell of every call.
        config: Where administration listens, and whether prompts are logged.
        drain: The server's.
    """

    def __init__(
        self,
        doors: Doors,
        endings: Endings,
        config: ServerConfig,
        drain: Callable[[], Awaitable[bool]],
    ) -> None:
        self._tree = TreeService(doors, endings)
        self._prefix = PrefixService(doors, endings, log_prompts=config.log_prompts)
        self._module = ModuleService(doors, endings, log_prompts=config.log_prompts)
        self._admin = AdminService(doors, endings, _Process(doors, drain))
        self.admin_address = config.admin_address
        """None: there is no AdminService."""
        self._admin_server: grpc.aio.Server | None = None

    @property
    def num_watchers(self) -> int:
        """Streams of WatchTree that are open."""
        return self._tree.num_watchers

    def handlers(self) -> tuple["grpc.GenericRpcHandler[bytes, Message]", ...]:
        """Of the services on the address of generation, in the order of SERVICE_NAMES."""
        return self._tree.handler(), self._prefix.handler(), self._module.handler()

    async def start(self, bind: Bind, options: list[tuple[str, Any]]) -> None:
        """Listen on the admin address, if there is one, which then carries the chosen port.

        Raises:
            BindError: It is in use or cannot be bound.
        """
        if self.admin_address is None:
            return
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((self._admin.handler(),))
        self.admin_address = bind("admin_address", server, self.admin_address)
        await server.start()
        self._admin_server = server

    def set_ready(self, backstage: Backstage | None) -> None:
        """Answer from now on; without a backstage there is nothing to answer from."""
        if backstage is not None:
            self._tree.inspection = backstage.inspection
            self._prefix.keeper = backstage.keeper
            self._module.backstage = backstage
            self._admin.administration = backstage.administration

    async def stop(self) -> None:
        """Close the admin address; running calls there end."""
        if self._admin_server is not None:
            await self._admin_server.stop(None)


class _Process:
    """The server's own process, as its AdminService sees it.

    Args:
        doors: Count its calls.
        drain: The server's.
    """

    def __init__(self, doors: Doors, drain: Callable[[], Awaitable[bool]]) -> None:
        self._calls = doors.calls
        self._drain = drain

    async def drain(self) -> int:
        await self._drain()
        return self._calls.num_running

    async def set_log_level(self, level: int) -> int:
        return set_own_log_level(level)

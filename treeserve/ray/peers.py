"""The ingresses of an application, as each of them reaches all."""

import asyncio
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from treeserve.errors import EngineStopped
from treeserve.ray.engines import all_answers

INGRESS = "Ingress"
"""The name of their deployment."""


class Peers:
    """Belongs to one event loop, of an ingress that Ray Serve runs."""

    def __init__(self) -> None:
        self._handle: DeploymentHandle | None = None

    async def ask(self, method: str, *arguments: Any, timeout_seconds: float = 10.0) -> list[Any]:
        """What a method of Ingress returns on all of them, the one that asks among them.

        Raises:
            EngineStopped: One did not answer in time, or Ray Serve does not know of any yet.
        """
        if self._handle is None:
            self._handle = await asyncio.to_thread(_handle)
        return await all_answers(self._handle, method, *arguments, timeout_seconds=timeout_seconds)


def _handle() -> DeploymentHandle:
    context = serve.get_replica_context()
    if context is None:
        raise EngineStopped("Ray Serve does not run this ingress")
    return serve.get_deployment_handle(INGRESS, context.app_name)

"""PrefixService and TreeService for asyncio."""

from collections.abc import AsyncGenerator

from treeserve.client import activity_calls, prefix_calls, tree_calls
from treeserve.client.activity_calls import ServerActivity
from treeserve.client.async_stream import AsyncConnection
from treeserve.client.prefix_calls import (
    Content,
    RestoredPrefix,
    Retained,
    SavedPrefix,
    SavedPrefixes,
    WarmedPrefix,
)
from treeserve.client.tree_calls import PlannedStep
from treeserve.inspection import TreeView


class AsyncPrefixes:
    """Prefixes computed ahead, kept warm, or saved to the server's disk.

    Needs the permission "retain". Every method takes the call's timeout in seconds; None is the
    client's. They raise InvalidRequest, and RemoteError for anything else that goes wrong.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def warm(self, content: Content, *, timeout_seconds: float | None = None) -> WarmedPrefix:
        """Compute a prefix now, so that later prompts which begin with it find it cached."""
        return await self._connection.unary(prefix_calls.warm(content), timeout_seconds)

    async def retain(
        self,
        content: Content,
        *,
        weight: float | None = None,
        ttl_seconds: float | None = None,
        timeout_seconds: float | None = None,
    ) -> Retained:
        """Make a prefix worth more when memory is needed, for a time.

        Args:
            content: Text or token ids.
            weight: In doublings of its hits, above 0, at most 1000; None: 1.
            ttl_seconds: Above 0, at most a week; None: 600.
            timeout_seconds: Of the call; None: the client's.
        """
        call = prefix_calls.retain(content, weight, ttl_seconds)
        return await self._connection.unary(call, timeout_seconds)

    async def retained(self, *, timeout_seconds: float | None = None) -> Retained:
        """The caller's retained prefixes."""
        return await self._connection.unary(prefix_calls.list_retained(), timeout_seconds)

    async def release(self, retained_id: int, *, timeout_seconds: float | None = None) -> None:
        """End a retention before its time; NOT_FOUND where the caller has none of that id."""
        await self._connection.unary(prefix_calls.release(retained_id), timeout_seconds)

    async def save(
        self,
        name: str,
        content: Content,
        *,
        overwrite: bool = False,
        timeout_seconds: float | None = None,
    ) -> SavedPrefix:
        """Write a prefix with its keys and values to the server's disk.

        Args:
            name: 1 to 64 of the characters a to z, 0 to 9, "-", "_" and ".".
            content: Text or token ids.
            overwrite: Replace a saved prefix of that name; else that is ALREADY_EXISTS.
            timeout_seconds: Of the call; None: the client's.
        """
        return await self._connection.unary(
            prefix_calls.save(name, content, overwrite), timeout_seconds
        )

    async def restore(self, name: str, *, timeout_seconds: float | None = None) -> RestoredPrefix:
        """Put a saved prefix back into the tree, whole or not at all."""
        return await self._connection.unary(prefix_calls.restore(name), timeout_seconds)

    async def saved(self, *, timeout_seconds: float | None = None) -> SavedPrefixes:
        """The caller's saved prefixes."""
        return await self._connection.unary(prefix_calls.list_saved(), timeout_seconds)

    async def delete_saved(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Delete a saved prefix; what of it is in the tree stays there."""
        await self._connection.unary(prefix_calls.delete_saved(name), timeout_seconds)


class AsyncTrees:
    """What the server holds and how it shares it; needs the permission "inspect".

    `all_namespaces` shows everybody's, for which it needs "admin" too.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(
        self,
        *,
        max_nodes: int | None = None,
        all_namespaces: bool = False,
        timeout_seconds: float | None = None,
    ) -> TreeView:
        """The tree as it is between two steps.

        Args:
            max_nodes: To show, those nearest to the root first, from 1 to 2048; None: 256.
            all_namespaces: Everybody's nodes.
            timeout_seconds: Of the call; None: the client's.
        """
        call = tree_calls.get_tree(max_nodes, all_namespaces)
        return await self._connection.unary(call, timeout_seconds)

    def watch(
        self,
        *,
        interval_seconds: float | None = None,
        max_nodes: int | None = None,
        all_namespaces: bool = False,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[TreeView, None]:
        """The tree now and again whenever it has changed; close the iterator to end it.

        Args:
            interval_seconds: Between two views at least, from 0.1 to 60; None: 1.
            max_nodes: As of get().
            all_namespaces: As of get().
            timeout_seconds: Of the call; None: the client's.
        """
        call = tree_calls.watch_tree(interval_seconds, max_nodes, all_namespaces)
        return self._connection.stream(call, timeout_seconds)

    async def plan(
        self, *, all_namespaces: bool = False, timeout_seconds: float | None = None
    ) -> PlannedStep:
        """What the last step shared, what it did not share, and why."""
        return await self._connection.unary(tree_calls.get_plan(all_namespaces), timeout_seconds)

    async def activity(
        self,
        *,
        max_calls: int | None = None,
        all_namespaces: bool = False,
        timeout_seconds: float | None = None,
    ) -> ServerActivity:
        """Which calls run, and what the engine has done so far.

        Args:
            max_calls: To list, the oldest first, from 0 to 1000; None: 100.
            all_namespaces: Everybody's calls.
            timeout_seconds: Of the call; None: the client's.
        """
        call = activity_calls.get_activity(max_calls, all_namespaces)
        return await self._connection.unary(call, timeout_seconds)

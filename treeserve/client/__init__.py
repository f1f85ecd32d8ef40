"""Clients of a treeserve server, blocking and for asyncio, in the words of the Python API."""

from treeserve.client.async_stream import AsyncStream
from treeserve.client.asynchronous import AsyncClient
from treeserve.client.blocking import Client
from treeserve.client.blocking_stream import Stream
from treeserve.client.endpoint import Tls
from treeserve.client.gathering import Completion, DrawnSample, SampleHandle
from treeserve.client.prefix_calls import (
    RestoredPrefix,
    Retained,
    RetainedPrefix,
    SavedPrefix,
    SavedPrefixes,
    WarmedPrefix,
)
from treeserve.client.remote_error import RejectedRequest, RemoteError
from treeserve.client.retries import Retries
from treeserve.client.tree_calls import PlannedNode, PlannedStep, PlanTotals
from treeserve.inspection import NodeUse, TreeNode, TreeView

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Client",
    "Completion",
    "DrawnSample",
    "NodeUse",
    "PlanTotals",
    "PlannedNode",
    "PlannedStep",
    "RejectedRequest",
    "RemoteError",
    "RestoredPrefix",
    "Retained",
    "RetainedPrefix",
    "Retries",
    "SampleHandle",
    "SavedPrefix",
    "SavedPrefixes",
    "Stream",
    "Tls",
    "TreeNode",
    "TreeView",
    "WarmedPrefix",
]

"""Clients of a treeserve server, blocking and for asyncio, in the words of the Python API."""

from treeserve.client.activity_calls import RunningCall, ServerActivity, ServerTotals
from treeserve.client.admin_calls import Costs, Drained, LogLevel, ServerStatus
from treeserve.client.async_admin import AsyncAdminClient
from treeserve.client.async_stream import AsyncStream
from treeserve.client.asynchronous import AsyncClient
from treeserve.client.blocking import Client
from treeserve.client.blocking_admin import AdminClient
from treeserve.client.blocking_stream import Stream
from treeserve.client.endpoint import Tls
from treeserve.client.gathering import Completion, DrawnSample, SampleHandle
from treeserve.client.module_calls import (
    ModuleLayout,
    PutSchema,
    RestoredSchema,
    SavedSchema,
    SavedSchemas,
    SchemaLayout,
    SchemaSummary,
    WarmedSchema,
)
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
    "AdminClient",
    "AsyncAdminClient",
    "AsyncClient",
    "AsyncStream",
    "Client",
    "Completion",
    "Costs",
    "Drained",
    "DrawnSample",
    "LogLevel",
    "ModuleLayout",
    "NodeUse",
    "PlanTotals",
    "PlannedNode",
    "PlannedStep",
    "PutSchema",
    "RejectedRequest",
    "RemoteError",
    "RestoredPrefix",
    "RestoredSchema",
    "Retained",
    "RetainedPrefix",
    "Retries",
    "RunningCall",
    "SampleHandle",
    "SavedPrefix",
    "SavedPrefixes",
    "SavedSchema",
    "SavedSchemas",
    "SchemaLayout",
    "SchemaSummary",
    "ServerActivity",
    "ServerStatus",
    "ServerTotals",
    "Stream",
    "Tls",
    "TreeNode",
    "TreeView",
    "WarmedPrefix",
    "WarmedSchema",
]

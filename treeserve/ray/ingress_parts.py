"""What an ingress is made of once the engines have said what they serve."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import grpc
from google.protobuf.message import Message
from ray.serve.handle import DeploymentHandle

from treeserve.config import EngineOptions
from treeserve.errors import ModelError
from treeserve.metrics import Metrics
from treeserve.model_place import resolve_model
from treeserve.prompt import Prompter
from treeserve.ray.calls import Served
from treeserve.ray.config import IngressConfig, ReplicaConfig
from treeserve.ray.engines import Engines
from treeserve.ray.peers import Peers
from treeserve.ray.remote_host import ClusterActivity, RemoteAdministration, RemoteHost
from treeserve.ray.remote_inspection import RemoteInspection
from treeserve.ray.remote_prefixes import NoSavedSchemas, RemoteKeeper, RemoteWarmer
from treeserve.ray.remote_service import RemoteTextService
from treeserve.ray.shared_schemas import SharedSchemas
from treeserve.schemas.store import SchemaStore
from treeserve.server import (
    admin_service,
    module_service,
    prefix_service,
    service,
    tree_service,
)
from treeserve.server.activity import Activity
from treeserve.server.admin_service import AdminService
from treeserve.server.calls import Calls, Phase
from treeserve.server.config import AccessConfig, Address, LoadConfig, ServerConfig
from treeserve.server.doorkeeper import Doorkeeper
from treeserve.server.doors import Doors
from treeserve.server.endings import Endings
from treeserve.server.engine_watch import EngineWatch
from treeserve.server.generating import Generating
from treeserve.server.metrics_door import MetricsDoor
from treeserve.server.module_service import ModuleService
from treeserve.server.prefix_service import PrefixService
from treeserve.server.quotas import Quotas
from treeserve.server.service import GenerationService
from treeserve.server.tree_service import TreeService
from treeserve.server.waiting import WaitingRoom
from treeserve.tokenizer import Tokenizer

GENERATION = service.SERVICE_NAME
TREE = tree_service.SERVICE_NAME
PREFIX = prefix_service.SERVICE_NAME
MODULE = module_service.SERVICE_NAME
ADMIN = admin_service.SERVICE_NAME

_Handler = Any
"""A grpc.RpcMethodHandler whose functions are coroutines, which the stubs do not know."""


class _Details(NamedTuple):
    """Of a call, as a generic handler asks for them."""

    method: str
    invocation_metadata: tuple[()] = ()


@dataclass(frozen=True, slots=True, eq=False)
class IngressParts:
    """Of one ingress; it lives as long as its process."""

    doors: Doors
    endings: Endings
    metrics: Metrics
    engines: Engines
    tree: TreeService
    schemas: SharedSchemas
    metrics_door: MetricsDoor
    handlers: "Mapping[str, grpc.GenericRpcHandler[bytes, Message]]"
    """By the names of the services that are offered."""

    def handler_of(self, service_name: str, method: str) -> _Handler | None:
        """None: the service is not offered."""
        handlers = self.handlers.get(service_name)
        if handlers is None:
            return None
        details = cast(grpc.HandlerCallDetails, _Details(f"/{service_name}/{method}"))
        return handlers.service(details)

    def reload(self) -> None:
        """Read the keys again if they have changed; calls of revoked ones end."""
        self.doors.doorkeeper.reload(only_if_changed=True)
        self.endings.end_unless(self.doors.doorkeeper.still_knows)


async def open_parts(
    handle: DeploymentHandle,
    peers: Peers,
    options: EngineOptions,
    ingress: IngressConfig,
    replica: ReplicaConfig,
) -> IngressParts:
    """Waits for an engine, which may still be loading.

    Args:
        handle: Of the engines' deployment.
        peers: All ingresses.
        options: Of the engines.
        ingress: Of this ingress.
        replica: Of the engines.

    Raises:
        ModelError: The tokenizer here is another than the engines'.
        ConfigError: The file of keys or the folder of prefixes cannot be used.
    """
    served: Served = await handle.describe.remote()
    # Reading a tokenizer takes seconds.
    prompter = await asyncio.to_thread(make_prompter, served, options)
    engines = Engines(handle, served)
    config = _server_config(ingress)
    doors = _make_doors(config)
    metrics = Metrics()
    metrics.ask_server(
        is_ready=lambda: doors.calls.phase is Phase.READY,
        stalled_seconds=lambda: 0.0,
        num_calls=lambda: doors.calls.num_running,
    )
    endings = Endings(doors.calls, metrics, None, request_log=config.request_log)
    generating = Generating(doors, metrics, config)
    store = SchemaStore(prompter, served.model)
    generating.schemas = store
    generating.set_ready(RemoteTextService(engines, prompter))
    schemas = SharedSchemas(store, peers)
    tree = _make_tree(doors, endings, engines, peers)
    prefixes = PrefixService(doors, endings, log_prompts=False)
    prefixes.keeper = RemoteKeeper(engines, prompter, replica.open_folder())
    modules = ModuleService(doors, endings, log_prompts=False)
    modules.backstage = _Modules(store, RemoteWarmer(engines), NoSavedSchemas())
    modules.tell_others = schemas.tell
    handlers = {
        GENERATION: GenerationService(doors, endings, generating, config).handler(),
        TREE: tree.handler(),
        PREFIX: prefixes.handler(),
        MODULE: modules.handler(),
    }
    if ingress.admin:
        host = RemoteHost(engines, peers, ingress.drain_grace_seconds)
        admin = AdminService(doors, endings, host)
        admin.administration = RemoteAdministration(engines, peers)
        handlers[ADMIN] = admin.handler()
    doors.calls.phase = Phase.READY
    door = MetricsDoor(config, doors.doorkeeper)
    return IngressParts(doors, endings, metrics, engines, tree, schemas, door, handlers)


class _Modules(NamedTuple):
    """As ModuleService asks for them."""

    schemas: SchemaStore
    warmer: RemoteWarmer
    schema_keeper: NoSavedSchemas


def _make_tree(doors: Doors, endings: Endings, engines: Engines, peers: Peers) -> TreeService:
    tree = TreeService(doors, endings)
    tree.inspection = RemoteInspection(engines)
    tree.ask_activity = ClusterActivity(engines, peers).ask
    return tree


def _make_doors(config: ServerConfig) -> Doors:
    load, watch = config.load, EngineWatch()
    waiting = WaitingRoom(load.max_waiting_requests, load.max_waiting_tokens, watch)
    calls = Calls(load.max_calls, waiting.retry_seconds)
    doorkeeper = Doorkeeper(config.access.api_keys)
    return Doors(doorkeeper, calls, Quotas(), waiting, watch, Activity())


def make_prompter(served: Served, options: EngineOptions) -> Prompter:
    """Of the checkpoint on this node; raises ModelError where it is another than the engines'."""
    tokenizer = Tokenizer.load(resolve_model(options.model))
    if tokenizer.fingerprint() != served.tokenizer:
        raise ModelError(
            f"model: the tokenizer of {options.model} on the ingress's node is another than the "
            "engines'; all nodes need one checkpoint"
        )
    return Prompter(
        tokenizer,
        vocabulary_size=served.vocabulary_size,
        max_positions=served.max_positions,
        end_token_ids=served.end_token_ids,
        limits=options.limits,
        why_no_modules=served.why_no_modules,
    )


def _server_config(ingress: IngressConfig) -> ServerConfig:
    """Ray's proxy listens; of the addresses here nothing is bound."""
    unused = Address("127.0.0.1", 0)
    return ServerConfig(
        grpc_address=unused,
        http_address=unused,
        access=AccessConfig(api_keys=ingress.key_file),
        load=LoadConfig(
            max_calls=ingress.max_calls,
            max_waiting_requests=ingress.max_waiting_requests,
            max_waiting_tokens=ingress.max_waiting_tokens,
        ),
        drain_grace_seconds=ingress.drain_grace_seconds,
        request_log=ingress.request_log,
    )

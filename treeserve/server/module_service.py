"""The methods of ModuleService: schemas put, listed, shown, deleted, warmed, saved and restored."""

import asyncio
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import Message

from treeserve.errors import NotPossible
from treeserve.pb import module_pb2 as pb
from treeserve.server.doors import Call, Doors
from treeserve.server.endings import Endings
from treeserve.server.identity import Permission
from treeserve.server.methods import Methods
from treeserve.server.side_contract import KeepsSchemas, TellOthers
from treeserve.server.wire import parse

if TYPE_CHECKING:
    from treeserve.pml import CompiledSchema
    from treeserve.prefixes.folder import SavedEntry
    from treeserve.scheduler.modules import Module

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ModuleService"].full_name


class ModuleService:
    """Answers from a backstage that arrives when the model is loaded.

    Everything is in the caller's own namespace, which is its tenant.

    Args:
        doors: Decide whether a call may run.
        endings: Tell of every call.
        log_prompts: Whether what they tell holds the text of schemas.
    """

    def __init__(self, doors: Doors, endings: Endings, *, log_prompts: bool) -> None:
        self._log_prompts = log_prompts
        self.backstage: KeepsSchemas | None = None
        self.tell_others: TellOthers | None = None
        """Told of every schema that is put or deleted; None: nobody else keeps them."""
        self._methods = Methods(SERVICE_NAME, doors, endings)
        self._methods.work("PutSchema", Permission.RETAIN, self._put)
        self._methods.look("ListSchemas", Permission.RETAIN, self._list)
        self._methods.look("ShowSchema", Permission.RETAIN, self._show)
        self._methods.look("DeleteSchema", Permission.RETAIN, self._delete)
        self._methods.work("WarmSchema", Permission.RETAIN, self._warm)
        self._methods.work("SaveSchema", Permission.RETAIN, self._save)
        self._methods.work("RestoreSchema", Permission.RETAIN, self._restore)
        self._methods.look("ListSavedSchemas", Permission.RETAIN, self._list_saved)
        self._methods.look("DeleteSavedSchema", Permission.RETAIN, self._delete_saved)

    def handler(self) -> "grpc.GenericRpcHandler[bytes, Message]":
        """To be added to a grpc.aio server."""
        return self._methods.handler()

    async def _put(self, data: bytes, call: Call) -> Message:
        request = parse(pb.PutSchemaRequest, data)
        if self._log_prompts:
            call.record.prompt = request.pml
        schemas = self._ready().schemas
        put = await asyncio.to_thread(
            schemas.put, call.tenant, request.pml, overwrite=request.overwrite
        )
        if self.tell_others is not None:
            await self.tell_others(call.tenant, put.schema.name, request.pml)
        return pb.PutSchemaResponse(schema=_write_summary(put.schema), existed=put.existed)

    async def _list(self, data: bytes, call: Call) -> Message:
        parse(pb.ListSchemasRequest, data)
        found = self._ready().schemas.schemas(call.tenant)
        return pb.ListSchemasResponse(schemas=[_write_summary(schema) for schema in found])

    async def _show(self, data: bytes, call: Call) -> Message:
        request = parse(pb.ShowSchemaRequest, data)
        schema = self._ready().schemas.find(call.tenant, request.name)
        layouts = [_write_layout(name, module, ()) for name, module in schema.modules.items()]
        layouts += [
            _write_layout(scaffold.name, scaffold.module, scaffold.members)
            for scaffold in schema.scaffolds
            if scaffold.module is not None
        ]
        return pb.ShowSchemaResponse(schema=_write_summary(schema), modules=layouts)

    async def _delete(self, data: bytes, call: Call) -> Message:
        request = parse(pb.DeleteSchemaRequest, data)
        self._ready().schemas.delete(call.tenant, request.name)
        if self.tell_others is not None:
            await self.tell_others(call.tenant, request.name, None)
        return pb.DeleteSchemaResponse()

    async def _warm(self, data: bytes, call: Call) -> Message:
        request = parse(pb.WarmSchemaRequest, data)
        backstage = self._ready()
        schema = backstage.schemas.find(call.tenant, request.name)
        warmed = await backstage.warmer.warm(schema, request.modules, call.tenant, call.admit)
        call.record.add_prompt(warmed.num_tokens, computed=warmed.num_encoded_tokens)
        return pb.WarmSchemaResponse(
            tokens=warmed.num_tokens,
            encoded_tokens=warmed.num_encoded_tokens,
            cached_tokens=warmed.num_cached_tokens,
        )

    async def _save(self, data: bytes, call: Call) -> Message:
        request = parse(pb.SaveSchemaRequest, data)
        saved = await self._ready().schema_keeper.save(
            request.name, call.tenant, overwrite=request.overwrite, admit=call.admit
        )
        call.record.add_prompt(saved.num_tokens, computed=saved.num_encoded_tokens)
        return pb.SaveSchemaResponse(
            saved=_write_entry(saved.entry),
            tokens=saved.num_tokens,
            encoded_tokens=saved.num_encoded_tokens,
        )

    async def _restore(self, data: bytes, call: Call) -> Message:
        request = parse(pb.RestoreSchemaRequest, data)
        restored = await self._ready().schema_keeper.restore(
            request.name, call.tenant, overwrite=request.overwrite, admit=call.admit
        )
        call.record.add_prompt(restored.num_tokens)
        return pb.RestoreSchemaResponse(
            schema=_write_summary(restored.put.schema),
            tokens=restored.num_tokens,
            restored_tokens=restored.num_restored_tokens,
        )

    async def _list_saved(self, data: bytes, call: Call) -> Message:
        parse(pb.ListSavedSchemasRequest, data)
        keeper = self._ready().schema_keeper
        entries, num_left = await asyncio.to_thread(keeper.saved, call.tenant)
        return pb.ListSavedSchemasResponse(
            saved=[_write_entry(entry) for entry in entries], bytes_left=num_left
        )

    async def _delete_saved(self, data: bytes, call: Call) -> Message:
        request = parse(pb.DeleteSavedSchemaRequest, data)
        keeper = self._ready().schema_keeper
        await asyncio.to_thread(keeper.delete_saved, request.name, call.tenant)
        return pb.DeleteSavedSchemaResponse()

    def _ready(self) -> KeepsSchemas:
        if self.backstage is None:
            raise NotPossible("this server has no engine to keep schemas for")
        return self.backstage


def _write_summary(schema: "CompiledSchema") -> pb.SchemaSummary:
    return pb.SchemaSummary(
        name=schema.name,
        schema_id=schema.schema_id,
        module_tokens=sum(len(module) for module in schema.modules.values()),
        positions=schema.base_position,
    )


def _write_layout(name: str, module: "Module", members: tuple[str, ...]) -> pb.ModuleLayout:
    return pb.ModuleLayout(
        name=name,
        tokens=len(module),
        first_position=int(module.positions[0]),
        last_position=int(module.positions[-1]),
        members=members,
    )


def _write_entry(entry: "SavedEntry") -> pb.SavedSchema:
    return pb.SavedSchema(name=entry.name, bytes=entry.num_bytes, saved_at_seconds=entry.saved_at)

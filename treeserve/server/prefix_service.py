"""The methods of PrefixService: prefixes warmed, retained, saved and restored."""

import asyncio
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import Message

from treeserve.errors import InvalidRequest, NotPossible
from treeserve.pb import prefix_pb2 as pb
from treeserve.server.call_log import text_of
from treeserve.server.doors import Call, Doors
from treeserve.server.endings import Endings
from treeserve.server.identity import Permission
from treeserve.server.methods import Methods
from treeserve.server.side_contract import KeepsPrefixes
from treeserve.server.wire import parse
from treeserve.types import Prompt

if TYPE_CHECKING:
    from treeserve.prefixes.folder import SavedEntry
    from treeserve.prefixes.keeper import Held

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["PrefixService"].full_name
DEFAULT_WEIGHT = 1.0
DEFAULT_TTL_SECONDS = 600.0


class PrefixService:
    """Answers from a keeper that arrives when the model is loaded.

    Everything is in the caller's own namespace, which is its tenant.

    Args:
        doors: Decide whether a call may run.
        endings: Tell of every call.
        log_prompts: Whether what they tell holds the text of prefixes.
    """

    def __init__(self, doors: Doors, endings: Endings, *, log_prompts: bool) -> None:
        self._log_prompts = log_prompts
        self.keeper: KeepsPrefixes | None = None
        self._methods = Methods(SERVICE_NAME, doors, endings)
        self._methods.work("Warm", Permission.RETAIN, self._warm)
        self._methods.work("Retain", Permission.RETAIN, self._retain)
        self._methods.look("ListRetained", Permission.RETAIN, self._list_retained)
        self._methods.look("Release", Permission.RETAIN, self._release)
        self._methods.work("Save", Permission.RETAIN, self._save)
        self._methods.work("Restore", Permission.RETAIN, self._restore)
        self._methods.look("ListSaved", Permission.RETAIN, self._list_saved)
        self._methods.look("DeleteSaved", Permission.RETAIN, self._delete_saved)

    def handler(self) -> "grpc.GenericRpcHandler[bytes, Message]":
        """To be added to a grpc.aio server."""
        return self._methods.handler()

    async def _warm(self, data: bytes, call: Call) -> Message:
        prompt = self._read_prefix(parse(pb.WarmRequest, data), call)
        usage = await self._keeper().warm(prompt, call.tenant, call.admit)
        call.record.add_prompt(
            usage.prompt_tokens, usage.cached_tokens, usage.shared_tokens, usage.computed_tokens
        )
        return pb.WarmResponse(
            tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            shared_in_flight_tokens=usage.shared_tokens,
            computed_tokens=usage.computed_tokens,
        )

    async def _retain(self, data: bytes, call: Call) -> Message:
        request = parse(pb.RetainRequest, data)
        retained = await self._keeper().retain(
            self._read_prefix(request, call),
            call.tenant,
            request.weight if request.HasField("weight") else DEFAULT_WEIGHT,
            request.ttl_seconds if request.HasField("ttl_seconds") else DEFAULT_TTL_SECONDS,
        )
        [held] = retained.prefixes
        return pb.RetainResponse(
            retained=_write_held(held), budget_left_tokens=retained.num_tokens_left
        )

    async def _list_retained(self, data: bytes, call: Call) -> Message:
        parse(pb.ListRetainedRequest, data)
        retained = await self._keeper().retained(call.tenant)
        return pb.ListRetainedResponse(
            retained=[_write_held(held) for held in retained.prefixes],
            budget_left_tokens=retained.num_tokens_left,
        )

    async def _release(self, data: bytes, call: Call) -> Message:
        request = parse(pb.ReleaseRequest, data)
        await self._keeper().release(request.id, call.tenant)
        return pb.ReleaseResponse()

    async def _save(self, data: bytes, call: Call) -> Message:
        request = parse(pb.SaveRequest, data)
        saved = await self._keeper().save(
            request.name,
            self._read_prefix(request, call),
            call.tenant,
            overwrite=request.overwrite,
            admit=call.admit,
        )
        call.record.add_prompt(saved.num_tokens, computed=saved.num_computed_tokens)
        return pb.SaveResponse(
            saved=_write_entry(saved.entry), computed_tokens=saved.num_computed_tokens
        )

    async def _restore(self, data: bytes, call: Call) -> Message:
        request = parse(pb.RestoreRequest, data)
        restored = await self._keeper().restore(request.name, call.tenant, call.admit)
        call.record.add_prompt(restored.num_tokens)
        return pb.RestoreResponse(
            tokens=restored.num_tokens, restored_tokens=restored.num_restored_tokens
        )

    async def _list_saved(self, data: bytes, call: Call) -> Message:
        parse(pb.ListSavedRequest, data)
        entries, num_left = await asyncio.to_thread(self._keeper().saved, call.tenant)
        return pb.ListSavedResponse(
            saved=[_write_entry(entry) for entry in entries], bytes_left=num_left
        )

    async def _delete_saved(self, data: bytes, call: Call) -> Message:
        request = parse(pb.DeleteSavedRequest, data)
        await asyncio.to_thread(self._keeper().delete_saved, request.name, call.tenant)
        return pb.DeleteSavedResponse()

    def _read_prefix(
        self, request: pb.WarmRequest | pb.RetainRequest | pb.SaveRequest, call: Call
    ) -> Prompt:
        prompt = read_prefix(request)
        if self._log_prompts:
            call.record.prompt = text_of(prompt)
        return prompt

    def _keeper(self) -> KeepsPrefixes:
        if self.keeper is None:
            raise NotPossible("this server has no engine to keep prefixes in")
        return self.keeper


def read_prefix(request: pb.WarmRequest | pb.RetainRequest | pb.SaveRequest) -> Prompt:
    """The text or the token ids of a request's prefix.

    Raises:
        InvalidRequest: There is neither.
    """
    match request.prefix.WhichOneof("content"):
        case "text":
            return request.prefix.text
        case "token_ids":
            return tuple(request.prefix.token_ids.ids)
        case _:
            raise InvalidRequest("prefix", "must be given, as text or as token_ids")


def _write_held(held: "Held") -> pb.RetainedPrefix:
    return pb.RetainedPrefix(
        id=held.retained_id,
        tokens=held.num_tokens,
        held_tokens=held.num_held_tokens,
        weight=held.weight,
        seconds_left=held.seconds_left,
    )


def _write_entry(entry: "SavedEntry") -> pb.SavedPrefix:
    return pb.SavedPrefix(name=entry.name, bytes=entry.num_bytes, saved_at_seconds=entry.saved_at)

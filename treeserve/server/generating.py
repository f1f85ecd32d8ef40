"""Generation as every door calls it: one request object in, one measured stream of events out."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from treeserve.errors import EngineStopped, NotPossible
from treeserve.metrics import Metrics
from treeserve.module_prompt import ImportingPrompt
from treeserve.server.call_log import text_of
from treeserve.server.config import ServerConfig
from treeserve.server.contract import EventStream, ServedModel, TextService
from treeserve.server.convert import ForkCall, GenerateCall, TreeCall
from treeserve.server.doors import Call, Doors
from treeserve.server.identity import Permission
from treeserve.server.measure import measured
from treeserve.types import Prompt, PromptTree, RequestOptions, StreamEvent, TokenCounts

if TYPE_CHECKING:
    from treeserve.schemas.store import SchemaStore

ResultT = TypeVar("ResultT")

_LONGEST_HOLD_SECONDS = 0.1
"""Between two messages of a stream: what somebody who reads along does not mind."""

AskedCall: TypeAlias = GenerateCall | TreeCall | ForkCall
"""What a caller asks to be drawn, whichever door it came through."""


class Known(NamedTuple):
    """A call whose caller may make it, and what is known before its request is read."""

    call: Call
    came: RequestOptions
    """When it came, when it has to end, and whose it is."""

    def joined(self, asked: RequestOptions) -> RequestOptions:
        """What the request asks for, with what is known of its call."""
        return replace(
            asked,
            arrived_at=self.came.arrived_at,
            deadline=self.came.deadline,
            namespace=self.came.namespace,
            tenant=self.came.tenant,
        )


class Generating:
    """Starts what calls ask for, from a text service that arrives when the model is loaded.

    Texts are read and tokenised in one thread of their own, so that a long prompt does not hold up
    the streams.

    Args:
        doors: Say how many calls run.
        metrics: Told of every stream.
        config: How often messages are sent, and whether prompts are logged.
    """

    def __init__(self, doors: Doors, metrics: Metrics, config: ServerConfig) -> None:
        self.text_service: TextService | None = None
        self.schemas: SchemaStore | None = None
        self.model = ServedModel()
        self._doors = doors
        self._metrics = metrics
        self._config = config
        self._tokenising = ThreadPoolExecutor(1, thread_name_prefix="treeserve-tokenise")

    def set_ready(self, text_service: TextService, model: ServedModel | None = None) -> None:
        """The model is loaded."""
        self.text_service = text_service
        self.model = model or self.model

    def close(self) -> None:
        self._tokenising.shutdown(wait=False, cancel_futures=True)

    def ready(self) -> TextService:
        """The text service; raises EngineStopped while there is none."""
        if self.text_service is None:
            raise EngineStopped(f"the server is {self._doors.calls.phase.value}")
        return self.text_service

    async def tokenise(self, work: Callable[[], ResultT]) -> ResultT:
        """Do it in the tokenising thread."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenising, work)

    async def open(
        self, known: Known, read: Callable[[], AskedCall]
    ) -> AsyncGenerator[StreamEvent, None]:
        """A stream that nothing has been asked of yet; to be closed.

        Args:
            known: The call.
            read: What it asks for; called in the tokenising thread, and may raise.
        """
        stream = await self.tokenise(partial(self._start, known, self.ready(), read))
        call = known.call
        return measured(stream, self._metrics, also=call.see, tenant=call.tenant)

    def count(
        self, call: Call, asked: Prompt | PromptTree | ImportingPrompt | TreeCall
    ) -> TokenCounts:
        """Tokens of what would be generated from; to be called in the tokenising thread."""
        service = self.ready()
        if isinstance(asked, ImportingPrompt):
            return service.count_importing(self._schemas().importing(call.tenant, asked))
        if isinstance(asked, TreeCall):
            assert asked.modules is not None
            importing = self._schemas().importing(call.tenant, asked.modules)
            return service.count_importing(importing, asked.tree)
        return service.count_tokens(asked)

    def hold_seconds(self) -> float:
        """Between two messages of a stream; alone it hardly waits."""
        rate = self._config.max_messages_per_second
        return min(self._doors.calls.num_running / rate, _LONGEST_HOLD_SECONDS)

    def _start(
        self, known: Known, service: TextService, read: Callable[[], AskedCall]
    ) -> EventStream:
        match read():
            case GenerateCall() as asked:
                return self._generate(known, service, asked)
            case TreeCall() as asked:
                return self._generate_tree(known, service, asked)
            case ForkCall() as asked:
                return self._fork(known, service, asked)

    def _generate(self, known: Known, service: TextService, asked: GenerateCall) -> EventStream:
        if isinstance(asked.prompt, ImportingPrompt):
            return self._generate_importing(known, service, asked, asked.prompt)
        self._log_prompt(known.call, asked.prompt)
        return service.generate(
            asked.prompt,
            asked.params,
            output=asked.output,
            options=known.joined(asked.options),
            admit=known.call.admit,
        )

    def _generate_importing(
        self, known: Known, service: TextService, asked: GenerateCall, prompt: ImportingPrompt
    ) -> EventStream:
        imported = self._schemas().imported(known.call.tenant, prompt)
        self._log_importing(known.call, prompt)
        params = asked.params
        if imported.max_tokens is not None and not asked.has_max_tokens:
            params = replace(params, max_tokens=imported.max_tokens)
        return service.generate(
            imported.token_ids,
            params,
            output=asked.output,
            options=known.joined(asked.options),
            admit=known.call.admit,
            modules=imported.modules,
        )

    def _generate_tree(self, known: Known, service: TextService, asked: TreeCall) -> EventStream:
        if asked.options.public_trunk:
            known.call.require(Permission.PUBLISH)
        self._log_prompt(known.call, asked.tree)
        options = known.joined(asked.options)
        importing = None
        if asked.modules is not None:
            self._log_importing(known.call, asked.modules)
            importing = self._schemas().importing(known.call.tenant, asked.modules)
        return service.generate_tree(
            asked.tree, options=options, admit=known.call.admit, importing=importing
        )

    def _fork(self, known: Known, service: TextService, asked: ForkCall) -> EventStream:
        return service.fork(
            asked.parent,
            asked.num_tokens,
            asked.params,
            n=asked.n,
            output=asked.output,
            options=known.joined(asked.options),
            admit=known.call.admit,
        )

    def _schemas(self) -> "SchemaStore":
        if self.schemas is None:
            raise NotPossible("this server has no engine to keep schemas for")
        return self.schemas

    def _log_importing(self, call: Call, prompt: ImportingPrompt) -> None:
        if self._config.log_prompts:
            # As it was sent: PML, or its fields.
            call.record.prompt = f"{call.record.prompt or ''}{prompt.prompt}"

    def _log_prompt(self, call: Call, prompt: Prompt | PromptTree) -> None:
        if self._config.log_prompts:
            call.record.prompt = text_of(prompt)

"""A replica: one engine with its own tree, which streams what the ingress asks for."""

import asyncio
import os
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from typing import Any, TypeAlias

from ray import serve

from treeserve.building import BuiltEngine, build_engine
from treeserve.config import EngineOptions
from treeserve.errors import EngineStopped, NotFound, TreeserveError
from treeserve.generation import TextService
from treeserve.loop import EngineLoop
from treeserve.metrics import Metrics
from treeserve.prefixes.fingerprint import make_fingerprint
from treeserve.ray.calls import (
    Done,
    Failure,
    Fork,
    Full,
    Generate,
    GenerateTree,
    Served,
    StreamCall,
    Told,
    Work,
    with_tokenizer,
)
from treeserve.ray.config import engine_options, installed_version, replica_config
from treeserve.ray.failures import write_failure
from treeserve.ray.replica_side import ReplicaSide
from treeserve.ray.stats import StatsMessage
from treeserve.request_book import RequestBook
from treeserve.request_size import RequestSize
from treeserve.server.batching import PromptEvents, batched
from treeserve.server.config import DEFAULT_STALL_SECONDS
from treeserve.server.engine_side import describe_engine, open_backstage
from treeserve.server.engine_watch import EngineWatch
from treeserve.server.refusals import Overloaded
from treeserve.server.waiting import Ticket, WaitingRoom
from treeserve.types import StepNumbers, StreamEvent

Answer: TypeAlias = list[PromptEvents] | RequestSize | Failure | Full | Done
"""What a step brought; before that, of a fork, its size; and last the error that ended it. Full
alone, or Done alone of Work."""

_MAX_UNREAD_BYTES = 64 << 20
_LAST_WORDS_SECONDS = 1.0
"""For the streams of an engine that cannot go on to tell so, before its process ends."""


class Replica:
    """What Ray Serve runs as the deployment `Engine`: the scheduler decides as in one process.

    Args:
        options: Of `treeserve.config.EngineOptions`, by name.
        replica: Of `treeserve.ray.config.ReplicaConfig`, by name.
        replica_id: None: as Ray Serve calls it.

    Raises:
        ConfigError, ModelError: As when an engine is built.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        replica: Mapping[str, Any] | None = None,
        replica_id: str | None = None,
    ) -> None:
        config, engine = replica_config(replica or {}), engine_options(options)
        folder = config.open_folder()
        built = build_engine(engine)
        self._built = built
        self._id = _own_id() if replica_id is None else replica_id
        self._served = _served(built)
        self._page_size = built.kv_cache.num_slots // built.num_pages
        self._metrics, self._watch = Metrics(), EngineWatch()
        self._waiting = WaitingRoom(
            config.max_waiting_requests, config.max_waiting_tokens, self._watch
        )
        self._loop = EngineLoop(built.engine, self._observe)
        self._side = ReplicaSide(
            open_backstage(
                built,
                engine,
                self._loop,
                version=installed_version(),
                shows_tokens=config.show_text,
                folder=folder,
            ),
            self._metrics,
            self._watch,
            uuid.uuid4().int % (1 << 31),
        )
        self._describe(engine)
        self._book = RequestBook()
        self._service = TextService(self._loop, built.prompter, self._book)
        self._epoch = uuid.uuid4().hex
        self._num_reports = 0
        self._is_ending = False
        self._work: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._totals = dict.fromkeys(("prompt_tokens", "computed_tokens", "drawn_tokens"), 0)
        self._loop.start()

    async def describe(self) -> Served:
        """What it runs."""
        return self._served

    async def stream(self, call: StreamCall) -> AsyncGenerator[Answer, None]:
        """The events of one call, those of one step together; closing it ends its work."""
        try:
            self._require_same(call.served)
            with self._counting(call):
                async with aclosing(self._answers(call)) as answers:
                    async for answer in answers:
                        yield answer
        except Overloaded as error:
            retry_seconds = error.retry_seconds or Overloaded.RETRY_SECONDS
            yield Full(self._id, str(error), retry_seconds)
        except TreeserveError as error:
            yield write_failure(error)
        finally:
            if self._failure() is not None:
                self._end_soon()

    async def answer(self, question: str, *arguments: Any) -> Told | Failure:
        """What a method of ReplicaSide says."""
        try:
            return Told(self._id, await getattr(self._side, question)(*arguments))
        except TreeserveError as error:
            return write_failure(error)

    async def knows(self, namespace: str, request_id: str) -> str | None:
        """Its own id, if a request of this name runs here or ended lately."""
        try:
            self._book.find(namespace, request_id)
        except NotFound:
            return None
        return self._id

    async def abort(
        self, request_id: str, path: tuple[int, ...], sample_index: int | None, namespace: str
    ) -> int | Failure | None:
        """As `TextService.abort`; None: no such request is here."""
        try:
            return self._service.abort(request_id, path, sample_index, namespace=namespace)
        except NotFound:
            return None
        except TreeserveError as error:
            return write_failure(error)

    async def totals(self) -> tuple[str, dict[str, int]]:
        """Its id; how often it has reported; and of what has ended, the tokens of prompts, computed
        and drawn ones.
        """
        return self._id, {**self._totals, "reports": self._num_reports}

    async def record_routing_stats(self) -> dict[str, Any]:
        """What Ray Serve asks for from time to time, and hands to every router."""
        counts = await self._loop.look(lambda engine: engine.scheduler.counts())
        self._num_reports += 1
        message = StatsMessage(
            epoch=self._epoch,
            number=self._num_reports,
            num_cached_tokens=counts.used_pages * self._page_size,
            capacity_tokens=self._built.num_pages * self._page_size,
            work_by_router=dict(self._work),
        )
        return asdict(message)

    async def check_health(self) -> None:
        """Ray Serve starts another one in its place when this raises."""
        failure = self._failure()
        if failure is not None:
            self._end_soon()
            raise EngineStopped(f"the engine cannot go on: {failure}")

    def _failure(self) -> str | None:
        """Why the engine is of no use any more; None: it goes on."""
        leader = self._built.leader
        if leader is not None and leader.failure is not None:
            return leader.failure
        if self._loop.has_failed:
            return "a step ended it; the log has the details"
        stalled_seconds = self._watch.stalled_seconds()
        if stalled_seconds > DEFAULT_STALL_SECONDS:
            return f"there has been work and no step for {stalled_seconds:.0f} seconds"
        return None

    def _end_soon(self) -> None:
        """Ray Serve notices a process that ends at once, and a check that fails only after a while,
        in which the router would go on sending calls here.
        """
        if not self._is_ending:
            self._is_ending = True
            asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, os._exit, 1)

    def close(self) -> None:
        """End the engine, and the processes of its other ranks."""
        self._loop.stop()
        if self._built.leader is not None:
            self._built.leader.close()

    def __del__(self) -> None:
        if hasattr(self, "_loop"):
            self.close()

    async def _answers(self, call: StreamCall) -> AsyncGenerator[Answer, None]:
        if isinstance(call.asked, Work):
            yield Done(await getattr(self._side, call.asked.name)(*call.asked.arguments))
            return
        entry = _Entry(self._waiting, self._watch)
        events = await asyncio.to_thread(self._start, call, entry.admit)
        first = await anext(events, None)
        if isinstance(call.asked, Fork):
            assert entry.size is not None
            yield entry.size
        async with batched(events, _MAX_UNREAD_BYTES, first) as batches:
            async for batch in batches:
                entry.see(batch)
                self._count(batch)
                yield batch

    def _start(self, call: StreamCall, admit: Any) -> AsyncGenerator[StreamEvent, None]:
        options = call.times.on_this_machine(call.options)
        asked = call.asked
        if isinstance(asked, Generate):
            return self._service.generate(
                asked.token_ids,
                asked.params,
                output=asked.output,
                options=options,
                admit=admit,
                modules=asked.modules,
            )
        if isinstance(asked, Fork):
            return self._service.fork(
                asked.parent,
                asked.num_tokens,
                asked.params,
                n=asked.n,
                output=asked.output,
                options=options,
                admit=admit,
            )
        assert isinstance(asked, GenerateTree)
        importing = asked.importing
        if importing is not None:
            importing = with_tokenizer(importing, self._built.prompter.tokenizer)
        return self._service.generate_tree(
            asked.tree, options=options, admit=admit, importing=importing
        )

    def _observe(self, numbers: StepNumbers) -> None:
        """In the engine's thread."""
        self._metrics.observe_step(numbers)
        self._watch.observe(numbers)

    def _describe(self, options: EngineOptions) -> None:
        self._metrics.ask_server(
            is_ready=lambda: self._loop.healthy,
            stalled_seconds=self._watch.stalled_seconds,
            num_calls=lambda: self._open.total(),
        )
        describe_engine(self._metrics, self._built, options, installed_version())

    def _require_same(self, served: Served) -> None:
        differences = self._served.differences(served)
        if differences:
            raise EngineStopped(
                "a replica does not run what the ingress tokenises for: "
                f"{'; '.join(differences)}; all nodes need one version and one checkpoint"
            )

    @contextmanager
    def _counting(self, call: StreamCall) -> Iterator[None]:
        self._work[call.router_id] += call.work  # type: ignore[assignment]  # a Counter of floats
        self._open[call.router_id] += 1
        try:
            yield
        finally:
            self._work[call.router_id] -= call.work  # type: ignore[assignment]
            self._open[call.router_id] -= 1
            if not self._open[call.router_id]:
                del self._open[call.router_id], self._work[call.router_id]

    def _count(self, batch: list[PromptEvents]) -> None:
        for events in batch:
            if events.usage is not None:
                self._totals["prompt_tokens"] += events.usage.prompt_tokens
                self._totals["computed_tokens"] += events.usage.computed_tokens
                self._totals["drawn_tokens"] += events.usage.completion_tokens


class _Entry:
    """What one call takes up in the waiting room until its prompts draw.

    Args:
        waiting: The room.
        watch: Told that there is work.
    """

    def __init__(self, waiting: WaitingRoom, watch: EngineWatch) -> None:
        self._waiting = waiting
        self._watch = watch
        self._ticket: Ticket | None = None
        self.size: RequestSize | None = None

    @contextmanager
    def admit(self, size: RequestSize) -> Iterator[None]:
        """Raises Overloaded where there is no room."""
        self.size = size
        with self._waiting.wait(size) as self._ticket, self._watch.work(size.first_request_id):
            yield

    def see(self, batch: list[PromptEvents]) -> None:
        """A prompt that draws waits no more."""
        for events in batch:
            if self._ticket and (events.deltas or events.usage is not None):
                self._ticket.leave_one(events.path)


def _own_id() -> str:
    return str(serve.get_replica_context().replica_id.unique_id)


def _served(built: BuiltEngine) -> Served:
    tokenizer = built.prompter.tokenizer
    fingerprint = make_fingerprint(built.model, tokenizer, built.kv_cache)
    return Served(
        version=installed_version(),
        name=built.model.name,
        model=fingerprint.model,
        tokenizer=fingerprint.tokenizer,
        vocabulary_size=built.model.vocabulary_size,
        max_positions=built.model.max_positions,
        end_token_ids=built.model.end_token_ids,
        why_no_modules=built.prompter.why_no_modules,
    )

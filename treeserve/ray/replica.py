"""A replica: one engine with its own tree, which streams what the ingress asks for."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from typing import Any, TypeAlias

from ray import serve

from treeserve.building import BuiltEngine, build_engine
from treeserve.errors import EngineStopped, NotFound, TreeserveError
from treeserve.generation import TextService
from treeserve.loop import EngineLoop
from treeserve.prefixes.fingerprint import make_fingerprint
from treeserve.ray.calls import Failure, Fork, Generate, Served, StreamCall
from treeserve.ray.config import engine_options, installed_version
from treeserve.ray.failures import write_failure
from treeserve.ray.stats import StatsMessage
from treeserve.request_book import RequestBook
from treeserve.request_size import RequestSize
from treeserve.server.batching import PromptEvents, batched
from treeserve.types import StreamEvent

Answer: TypeAlias = list[PromptEvents] | RequestSize | Failure
"""What a step brought; before that, of a fork, its size; and last the error that ended it."""

_MAX_UNREAD_BYTES = 64 << 20


class Replica:
    """What Ray Serve runs as the deployment `Engine`: the scheduler decides as in one process.

    Args:
        options: Of `treeserve.config.EngineOptions`, by name.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        built = build_engine(engine_options(options))
        self._engine = built.engine
        self._served = _served(built)
        self._page_size = built.kv_cache.num_slots // built.num_pages
        self._num_pages = built.num_pages
        self._loop = EngineLoop(built.engine)
        self._book = RequestBook()
        self._service = TextService(self._loop, built.prompter, self._book)
        self._epoch = uuid.uuid4().hex
        self._num_reports = 0
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
        except TreeserveError as error:
            yield write_failure(error)

    async def knows(self, namespace: str, request_id: str) -> str | None:
        """Its own id, if a request of this name runs here or ended lately."""
        try:
            self._book.find(namespace, request_id)
        except NotFound:
            return None
        return _own_id()

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
        """Its id; and of what has ended, the tokens of prompts, computed and drawn ones."""
        return _own_id(), dict(self._totals)

    async def record_routing_stats(self) -> dict[str, Any]:
        """What Ray Serve asks for from time to time, and hands to every router."""
        counts = await self._loop.look(lambda engine: engine.scheduler.counts())
        self._num_reports += 1
        message = StatsMessage(
            epoch=self._epoch,
            number=self._num_reports,
            num_cached_tokens=counts.used_pages * self._page_size,
            capacity_tokens=self._num_pages * self._page_size,
            work_by_router=dict(self._work),
        )
        return asdict(message)

    async def check_health(self) -> None:
        """Ray Serve starts another one in its place when this raises."""
        if not self._loop.healthy:
            raise EngineStopped("the engine cannot go on")

    def __del__(self) -> None:
        loop = getattr(self, "_loop", None)
        if loop is not None:
            loop.stop()

    async def _answers(self, call: StreamCall) -> AsyncGenerator[Answer, None]:
        sizes: list[RequestSize] = []

        @contextmanager
        def admit(size: RequestSize) -> Iterator[None]:
            sizes.append(size)
            yield

        events = await asyncio.to_thread(self._start, call, admit)
        first = await anext(events, None)
        if isinstance(call.asked, Fork):
            yield sizes[0]
        async with batched(events, _MAX_UNREAD_BYTES, first) as batches:
            async for batch in batches:
                self._count(batch)
                yield batch

    def _start(self, call: StreamCall, admit: Any) -> AsyncGenerator[StreamEvent, None]:
        options = call.times.on_this_machine(call.options)
        asked = call.asked
        if isinstance(asked, Generate):
            return self._service.generate(
                asked.token_ids, asked.params, output=asked.output, options=options, admit=admit
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
        return self._service.generate_tree(asked.tree, options=options, admit=admit)

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
    )

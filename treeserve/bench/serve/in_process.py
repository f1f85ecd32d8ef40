"""The same calls without sockets: by the engine alone, and through the text service."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from treeserve.bench.serve.cpu_time import Stopwatch, Taken
from treeserve.bench.serve.workloads import Call
from treeserve.building import BuiltEngine, build_engine
from treeserve.config import EngineOptions
from treeserve.engine import Engine
from treeserve.engine_messages import RequestEnded, TokenEvent
from treeserve.errors import TreeserveError
from treeserve.generation import TextService
from treeserve.loop import EngineLoop
from treeserve.prompt import EncodedPrompt
from treeserve.types import Delta


class EngineAlone:
    """Steps of an engine, no text and no threads: the most that any service around it can give.

    Args:
        options: As the server's.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._built: BuiltEngine = build_engine(options)

    def finish_all(self, calls: Sequence[Call], num_streams: int) -> Taken:
        """What all of them take, so many open at once; prompts are tokenised beforehand.

        Raises:
            TreeserveError: They drew something else than was asked for.
        """
        encoded = [self._built.prompter.encode_tree(call.tree) for call in calls]
        watch = Stopwatch()
        num_drawn = _drive(self._built.engine, encoded, num_streams)
        taken = watch.taken()
        _require_tokens("the engine alone", num_drawn, calls)
        return taken


class TextServiceAlone:
    """The engine in its thread and text in streams, as the server has them, but no sockets.

    Args:
        options: As the server's.
    """

    def __init__(self, options: EngineOptions) -> None:
        built = build_engine(options)
        self._loop = EngineLoop(built.engine)
        self._loop.start()
        self._service = TextService(self._loop, built.prompter)

    def close(self) -> None:
        self._loop.stop()

    async def finish_all(self, calls: Sequence[Call], num_streams: int) -> Taken:
        """As EngineAlone.finish_all, but tokenising counts."""
        left = iter(calls)
        num_drawn = 0

        async def stream() -> None:
            nonlocal num_drawn
            for call in left:
                async for item in self._service.generate_tree(call.tree):
                    if isinstance(item, Delta):
                        num_drawn += len(item.token_ids)

        watch = Stopwatch()
        async with asyncio.TaskGroup() as group:
            for _ in range(num_streams):
                group.create_task(stream())
        taken = watch.taken()
        _require_tokens("the text service", num_drawn, calls)
        return taken


@contextmanager
def both_alone(options: EngineOptions) -> Iterator[tuple[EngineAlone, TextServiceAlone]]:
    """Engines of their own; what they are made of is no load for the garbage collector."""
    engine = EngineAlone(options)
    service = TextServiceAlone(options)
    gc.collect()
    gc.freeze()
    try:
        yield engine, service
    finally:
        gc.unfreeze()
        service.close()


def _drive(engine: Engine, calls: Sequence[list[EncodedPrompt]], num_streams: int) -> int:
    """Tokens that were drawn; when all prompts of a call have ended, the next call begins."""
    left = iter(enumerate(calls))
    call_of: dict[str, int] = {}
    open_prompts: Counter[int] = Counter()

    def open_next() -> None:
        number, prompts = next(left, (-1, []))
        open_prompts[number] = len(prompts)
        for prompt in prompts:
            call_of[prompt.request.request_id] = number
            engine.add(prompt.request)

    for _ in range(num_streams):
        open_next()
    num_drawn = 0
    while engine.has_work():
        for event in engine.step()[0]:
            if isinstance(event, TokenEvent):
                num_drawn += 1
            elif isinstance(event, RequestEnded):
                number = call_of[event.request_id]
                open_prompts[number] -= 1
                if open_prompts[number] == 0:
                    open_next()
    return num_drawn


def _require_tokens(who: str, num_drawn: int, calls: Sequence[Call]) -> None:
    asked = sum(call.num_drawn_tokens for call in calls)
    if num_drawn != asked:
        raise TreeserveError(f"{who} drew {num_drawn} tokens, asked for {asked}")

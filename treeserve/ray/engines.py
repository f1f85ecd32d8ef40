"""The engines as an ingress reaches them: the one that the router chooses, or all of them."""

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from treeserve.cluster.held_prefixes import TokenIds
from treeserve.cluster.router import RoutedRequest
from treeserve.errors import EngineStopped
from treeserve.ray.calls import Asked, Done, Drew, Failure, Full, Served, StreamCall, Times, Told
from treeserve.ray.failures import read_failure
from treeserve.request_size import RequestSize
from treeserve.scheduler.modules import Module
from treeserve.server.batching import PromptEvents
from treeserve.server.refusals import Overloaded
from treeserve.types import RequestOptions

_DIED = "the replica that ran the call died; what it had not sent is lost"
_MAX_LEARNED = 256
"""What the router may not hear of: then it only guesses less well."""
_MOST_TRIED = 8
"""Engines that one call is sent to, the least loaded first: more would be a load of their own."""
_ANSWER_SECONDS = 10.0
"""How long all of them have to answer a question."""


class Engines:
    """Belongs to one event loop.

    Args:
        handle: Of their deployment.
        served: What they run, as the ingress tokenises for it.
    """

    def __init__(self, handle: DeploymentHandle, served: Served) -> None:
        self._handle = handle
        self._streams = handle.options(method_name="stream", stream=True)
        self._served = served
        self._learned: deque[Drew] = deque(maxlen=_MAX_LEARNED)

    def learn(self, routed: RoutedRequest, tokens: TokenIds) -> None:
        """Where a request ran these tokens are held now; the router hears of it with a later call.

        Args:
            routed: The request, with a name of its own.
            tokens: [n]
        """
        self._learned.append(Drew(routed.namespace, routed.name, tokens))

    def call(self, asked: Asked, options: RequestOptions, routed: RoutedRequest) -> StreamCall:
        """To be streamed."""
        return StreamCall(
            asked=asked,
            options=options,
            times=Times.of(options),
            served=self._served,
            routed=routed,
        )

    async def stream(self, call: StreamCall) -> AsyncGenerator[Any, None]:
        """What one replica answers; one that is full is passed over.

        Raises:
            EngineStopped: It died, or there is none.
            Overloaded: All of them are full, or _MOST_TRIED, or the one that it has to go to; says
                when there may be room.
            TreeserveError: As the replica raised it.
        """
        avoided: frozenset[str] = frozenset()
        retry_seconds: list[float] = []
        while True:
            again = replace(call, avoid=avoided, times=Times.of(call.options))
            async with aclosing(self._sent(again)) as answers:
                first = await anext(answers, None)
                if not isinstance(first, Full):
                    if first is not None:
                        yield first
                    async for answer in answers:
                        yield answer
                    return
            retry_seconds.append(first.retry_seconds)
            has_tried_all = call.replica_id is not None or first.replica_id in avoided
            if has_tried_all or len(retry_seconds) == _MOST_TRIED:
                raise Overloaded(f"the engines are full: {first.text}", min(retry_seconds))
            avoided |= {first.replica_id}

    async def do(self, asked: Asked, options: RequestOptions, routed: RoutedRequest) -> Any:
        """What came of Work, on the replica that the router chooses; raises as stream()."""
        async with aclosing(self.stream(self.call(asked, options, routed))) as answers:
            async for answer in answers:
                assert isinstance(answer, Done)
                return answer.value
        raise EngineStopped("the replica ended the call without an answer")

    async def ask(self, question: str, *arguments: Any) -> list[Told]:
        """What a method of ReplicaSide says on all that answer in time.

        Raises:
            TreeserveError: All that answered failed: as the first of them.
            EngineStopped: None answered.
        """
        answers = await self.broadcast("answer", question, *arguments)
        told = [answer for answer in answers if isinstance(answer, Told)]
        if told:
            return told
        for answer in answers:
            if isinstance(answer, Failure):
                raise read_failure(answer)
        raise EngineStopped("no engine answers")

    async def broadcast(self, method: str, *arguments: Any) -> list[Any]:
        """What a method of Replica returns on all that answer in time; one that died knows nothing.

        Raises:
            EngineStopped: One did not answer in time, or there is none.
        """
        return await all_answers(self._handle, method, *arguments)

    async def _sent(
        self, call: StreamCall
    ) -> AsyncGenerator[list[PromptEvents] | RequestSize | Full | Done, None]:
        learned = tuple(self._learned)
        self._learned.clear()
        answers = self._streams.remote(replace(call, learned=learned))
        has_ended = False
        try:
            async for answer in answers:
                if isinstance(answer, Failure):
                    raise read_failure(answer)
                yield answer
            has_ended = True
        except RayActorError as error:
            raise EngineStopped(_DIED) from error
        except BackPressureError as error:
            raise Overloaded(f"too many calls wait for a replica: {error.message}") from error
        except RayServeException as error:
            raise EngineStopped(f"no replica can take the call: {error}") from error
        finally:
            if not has_ended:
                answers.cancel()


async def all_answers(
    handle: DeploymentHandle,
    method: str,
    *arguments: Any,
    timeout_seconds: float = _ANSWER_SECONDS,
) -> list[Any]:
    """What all replicas of a deployment return, but for those that died or raised.

    Raises:
        EngineStopped: One did not answer in time, or there is none.
    """
    try:
        answers = await handle.broadcast(method, *arguments).results_async(
            timeout_s=timeout_seconds, return_exceptions=True
        )
    except TimeoutError as error:
        raise EngineStopped("a replica did not answer in time") from error
    except RayServeException as error:
        raise EngineStopped(f"no replica can be asked: {error}") from error
    return [answer for answer in answers if not isinstance(answer, BaseException)]


def routed_by(
    token_ids: Sequence[int] | TokenIds, options: RequestOptions, *, num_expected: int = 0
) -> RoutedRequest:
    """What the router decides by, for a prompt."""
    return RoutedRequest(
        request_id="",
        namespace=options.namespace,
        tokens=np.array(token_ids, dtype=np.int32),
        num_expected=num_expected,
        name=options.request_id or "",
    )


def routed_by_modules(
    modules: Sequence[Module],
    own_token_ids: Sequence[int],
    options: RequestOptions,
    *,
    num_expected: int = 0,
) -> RoutedRequest:
    """As routed_by(), for a prompt that imports: it goes where its modules are.

    The router takes them for the beginning of a text, in a namespace where such texts are by
    themselves: the same tokens without modules are computed otherwise.
    """
    own = np.array(own_token_ids, dtype=np.int32)
    tokens = np.concatenate([*(module.token_ids for module in modules), own])
    routed = routed_by(tokens, options, num_expected=num_expected)
    return replace(routed, namespace=("modules", options.namespace))

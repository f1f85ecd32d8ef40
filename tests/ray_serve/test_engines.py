"""A call that meets full engines: it goes on to the next, and ends where all are full."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from ray_serve.test_replica import call
from ray_serve.test_without_ray import served

from treeserve.ray.calls import Done, Full
from treeserve.server.refusals import Overloaded

pytest.importorskip("ray.serve", reason="needs Ray Serve: pip install 'treeserve[ray]'")
pytestmark = pytest.mark.filterwarnings("ignore")


class Handle:
    """Of a deployment of replicas, by id what each answers; chooses as PrefixRouter may.

    Args:
        answers: By id.
    """

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    def options(self, **options):
        return self

    def remote(self, sent):
        free = [name for name in self.answers if name not in sent.avoid]
        chosen = sent.replica_id or (free or list(self.answers))[0]
        self.asked.append(chosen)
        return Answers([self.answers[chosen]])


class Answers:
    def __init__(self, answers):
        self._answers = iter(answers)

    def __aiter__(self):
        return self

    async def __anext__(self):
        for answer in self._answers:
            return answer
        raise StopAsyncIteration

    def cancel(self):
        """Nothing runs."""


def engines(**answers):
    from treeserve.ray.engines import Engines

    handle = Handle(answers)
    return SimpleNamespace(handle=handle, engines=Engines(handle, served()))


def full(name: str, retry_seconds: float) -> Full:
    return Full(name, "2 prompts wait and 1 more came; 2 may wait", retry_seconds)


async def answers_of(made, **changes) -> list:
    asked = replace(call(served()), **changes)
    return [answer async for answer in made.engines.stream(asked)]


async def test_a_call_goes_on_to_an_engine_that_has_room():
    made = engines(a=full("a", 9.0), b=full("b", 4.0), c=Done("here"))
    assert await answers_of(made) == [Done("here")]
    assert made.handle.asked == ["a", "b", "c"]


async def test_where_all_are_full_the_first_that_will_have_room_says_when():
    made = engines(a=full("a", 9.0), b=full("b", 4.0))
    with pytest.raises(Overloaded, match="the engines are full: 2 prompts wait") as refused:
        await answers_of(made)
    assert refused.value.retry_seconds == 4.0


async def test_what_has_to_go_to_one_engine_goes_to_no_other():
    made = engines(a=full("a", 9.0), b=Done("elsewhere"))
    with pytest.raises(Overloaded) as refused:
        await answers_of(made, replica_id="a")
    assert refused.value.retry_seconds == 9.0
    assert made.handle.asked == ["a"]


async def test_of_a_large_cluster_only_some_are_tried():
    made = engines(**{f"e{index}": full(f"e{index}", 2.0) for index in range(50)})
    with pytest.raises(Overloaded):
        await answers_of(made)
    assert len(made.handle.asked) == len(set(made.handle.asked)) == 8

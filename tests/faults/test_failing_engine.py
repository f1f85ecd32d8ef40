"""Steps that fail in earnest, under load: who has to end does, and everybody else goes on."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from faults.spotless import TRUNK, WAIT_SECONDS, nothing_is_held, serves, spotless_house
from running_service import Told, collect, parameters
from server.side_house import House, prefix

from treeserve.pb import generation_pb2 as pb
from treeserve.pb import prefix_pb2

LOGGED = {
    "out of memory": "DefaultCPUAllocator: can't allocate memory",
    "logits that are no numbers": "the logits of a drawn row are not finite",
}
ENDED = pb.FINISH_REASON_LENGTH
FAILED = pb.FINISH_REASON_ERROR


def run_out_of_memory(module, arguments, output):
    torch.empty(1 << 60, dtype=torch.uint8)


def spoil(module, arguments, output):
    output.logits.mul_(float("nan"))


FAULTS = {"out of memory": run_out_of_memory, "logits that are no numbers": spoil}


@contextmanager
def failing(house: House, fault: str, when: Callable[[], bool]) -> Iterator[None]:
    """The model's own forward pass fails whenever a condition holds in the engine's thread."""

    def hook(module, arguments, output):
        if when():
            FAULTS[fault](module, arguments, output)

    handle = house.built.model.module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def request(text: str, max_tokens: int, n: int = 1) -> pb.GenerateRequest:
    params = parameters(max_tokens, stopping=pb.Stopping(ignore_eos=True))
    return pb.GenerateRequest(text=text, n=n, params=params)


def start(house: House, asked: pb.GenerateRequest) -> "asyncio.Task[Told]":
    return asyncio.create_task(collect(house.generation.Generate(asked)))


async def num_waiting_of(house: House) -> int:
    counts = await house.loop.look(lambda engine: engine.scheduler.counts())
    return counts.waiting_requests


def ends_of(told: Told) -> list[int]:
    samples = (sample for message in told.messages for sample in message.samples)
    return [sample.finish_reason for sample in samples if sample.finish_reason]


@pytest.mark.parametrize("fault", FAULTS)
async def test_only_those_in_the_failed_step_end_and_those_who_wait_are_served(
    options, fault, expected, caplog
):
    expected.log("step ")
    num_running, num_waiting = 4, 8
    in_the_step: list[int] = []
    async with spotless_house(replace(options, max_running=num_running)) as house:

        def when() -> bool:
            counts = house.scheduler.counts()
            everybody = (counts.running_samples, counts.waiting_requests)
            if in_the_step or everybody != (num_running, num_waiting):
                return False
            in_the_step.append(counts.running_samples)
            return True

        with failing(house, fault, when):
            async with house.held.standing(num_requests=num_running, num_steps=1) as stands:
                long = [start(house, request(f"{k} {TRUNK}", 50)) for k in range(num_running)]
                await stands()
                short = [start(house, request(f"{k}{TRUNK}", 9)) for k in range(num_waiting)]
                async with asyncio.timeout(WAIT_SECONDS):
                    while await num_waiting_of(house) < num_waiting:
                        pass
            waited = await asyncio.gather(*short)
            failed = await asyncio.gather(*long)
        assert in_the_step == [num_running]
        assert [ends_of(told) for told in failed] == [[FAILED]] * num_running
        assert [ends_of(told) for told in waited] == [[ENDED]] * num_waiting
        assert [len(told.tokens()) for told in waited] == [9] * num_waiting
        assert LOGGED[fault] in caplog.text
        await nothing_is_held(house)
        await serves(house)


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_is_drawn_after_a_failure_is_what_would_have_been_drawn_without(
    options, fault, expected
):
    """Nothing of a failed step is left in the tree to be attended to."""
    expected.log("step ")
    async with spotless_house(options) as house:
        asked = request(TRUNK + "so", 20)
        right = await collect(house.generation.Generate(asked))
        await house.loop.call(lambda engine: engine.scheduler.clear_cache())
        steps = iter(range(100))
        with failing(house, fault, lambda: next(steps) in (0, 3)):
            for _ in range(2):
                told = await collect(house.generation.Generate(asked))
                assert ends_of(told) == [FAILED]
        again = await collect(house.generation.Generate(asked))
        assert again.tokens() == right.tokens()


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_seventh_step_failing_loses_no_call_and_no_page(options, fault, expected):
    """Streams, trees, branches and prefixes: each call ends once, well or with its own error."""
    expected.log("step ")
    expected.log("a call failed")
    num_steps = [0]

    def when() -> bool:
        num_steps[0] += 1
        return num_steps[0] % 7 == 0

    async with spotless_house(replace(options, num_pages=64, max_running=16)) as house:
        parent = await collect(house.generation.Generate(request("parent", 8)))
        where = pb.ForkParent(request_id=parent.request_id, num_tokens=5)

        async def stream(number: int) -> list[int]:
            params = parameters(1 + number % 13, stopping=pb.Stopping(ignore_eos=True))
            text = TRUNK[: 7 * number] + str(number % 5)
            if number % 3 == 0:
                call = house.generation.Fork(pb.ForkRequest(parent=where, n=2, params=params))
            elif number % 3 == 1:
                tree = pb.TreeNode(text=text, n=1, branches=[pb.TreeNode(text="x")], params=params)
                call = house.generation.GenerateTree(pb.GenerateTreeRequest(tree=tree))
            else:
                call = house.generation.Generate(
                    pb.GenerateRequest(text=text or "a", n=2, params=params)
                )
            return ends_of(await collect(call))

        async def warm(number: int) -> str:
            call = house.prefix.Warm(prefix_pb2.WarmRequest(prefix=prefix(f"{number} {TRUNK}")))
            return (await call.code()).name

        with failing(house, fault, when):
            streams = asyncio.gather(*(stream(number) for number in range(60)))
            warmed = await asyncio.gather(*(warm(number) for number in range(20)))
            ends = await streams
        assert all(len(each) == 2 and set(each) <= {ENDED, FAILED} for each in ends), ends
        reasons = [reason for each in ends for reason in each]
        assert min(reasons.count(ENDED), reasons.count(FAILED)) > 0
        assert set(warmed) <= {"OK", "INTERNAL"}
        print(
            f"\n{num_steps[0] // 7} of {num_steps[0]} steps failed, {fault}:"
            f" {reasons.count(FAILED)} of {len(reasons)} samples,"
            f" {warmed.count('INTERNAL')} of {len(warmed)} prefixes"
        )
        await nothing_is_held(house)
        await serves(house)


async def test_a_server_whose_steps_fail_stays_in_service(options, expected):
    expected.log("step ")
    async with spotless_house(options) as house:
        with failing(house, "out of memory", lambda: True):
            for _ in range(3):
                told = await collect(house.generation.Generate(request("abc", 3)))
                assert ends_of(told) == [FAILED]
        assert house.server.is_alive()
        assert (await house.generation.Tokenize(pb.TokenizeRequest(text="a"))).token_ids
        told = await collect(house.generation.Generate(request("abc", 3)))
        assert ends_of(told) == [ENDED]

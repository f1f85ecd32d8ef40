"""The whole service, from the generated stubs down to a tiny random model."""

import asyncio
import contextlib
import math
import random
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from treeserve import LLM, PromptTree, SamplingParams
from treeserve.building import build_engine
from treeserve.client import AsyncClient
from treeserve.config import EngineOptions
from treeserve.engine import Engine
from treeserve.errors import InvalidRequest
from treeserve.generation import TextService
from treeserve.loop import EngineLoop
from treeserve.metrics import Metrics
from treeserve.pb import generation_pb2 as pb
from treeserve.pb import generation_pb2_grpc
from treeserve.server.app import Server
from treeserve.server.config import Address, ServerConfig
from treeserve.types import Delta, Finished, FinishReason, StepNumbers

NUM_PAGES = 48
PAGE_SIZE = 16
TRUNK = "What many prompts begin with is computed and stored once. " * 3
LONG = SamplingParams(n=2, max_tokens=200, ignore_eos=True, seed=1)


@dataclass
class Service:
    """A running server and what lies beneath it."""

    server: Server
    engine: Engine
    loop: EngineLoop
    client: AsyncClient
    stub: generation_pb2_grpc.GenerationServiceStub
    metrics: Metrics
    steps: list[StepNumbers] = field(default_factory=list)

    def observe(self, numbers: StepNumbers) -> None:
        self.steps.append(numbers)
        self.metrics.observe_step(numbers)

    async def wait_until_idle(self) -> None:
        assert await asyncio.to_thread(self.loop._wait_until_idle, 60)
        # Whoever looks finds no step on its way.
        assert not await self.loop.look(lambda engine: engine.has_work())


@pytest.fixture
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(
        model=str(checkpoint_of("llama")), num_pages=NUM_PAGES, page_size=PAGE_SIZE
    )


@pytest.fixture
async def service(options) -> AsyncIterator[Service]:
    built = build_engine(options)
    address = Address("127.0.0.1", 0)
    metrics = Metrics()
    server = Server(ServerConfig(grpc_address=address, http_address=address), metrics)
    await server.start()
    target = str(server.grpc_address)
    async with AsyncClient(target) as client, grpc.aio.insecure_channel(target) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        loop = EngineLoop(built.engine, lambda numbers: running.observe(numbers))
        running = Service(server, built.engine, loop, client, stub, metrics)
        loop.start()
        await server.set_ready(TextService(loop, built.prompter), lambda: loop.healthy)
        try:
            yield running
        finally:
            await server.stop()
            loop.stop()


async def collect(stream) -> list[Delta | Finished]:
    return [item async for item in stream]


def tokens_of(items, path=(), index=0) -> tuple[int, ...]:
    deltas = [
        i for i in items if isinstance(i, Delta) and (i.path, i.sample_index) == (path, index)
    ]
    return tuple(token_id for delta in deltas for token_id in delta.token_ids)


def usage_of(items, path=()):
    [usage] = [item.usage for item in items if isinstance(item, Finished) and item.path == path]
    assert usage.prompt_tokens == usage.cached_tokens + usage.shared_tokens + usage.computed_tokens
    return usage


async def test_samples_are_those_of_the_python_api(service, options):
    params = SamplingParams(n=3, max_tokens=12, seed=7, logprobs=2)
    items = await collect(service.client.generate(TRUNK, params))
    [expected] = LLM(
        options.model, num_pages=options.num_pages, page_size=options.page_size
    ).generate(TRUNK, params)
    for sample in expected.samples:
        deltas = [
            item for item in items if isinstance(item, Delta) and item.sample_index == sample.index
        ]
        assert "".join(delta.text for delta in deltas) == sample.text
        assert tokens_of(items, (), sample.index) == sample.token_ids
        assert deltas[-1].finish_reason == sample.finish_reason
        logprobs = [entry for delta in deltas for entry in delta.logprobs or ()]
        assert [entry.token_id for entry in logprobs] == list(sample.token_ids)
        assert [len(entry.top) for entry in logprobs] == [2] * len(logprobs)
    assert usage_of(items).completion_tokens == sum(len(s.token_ids) for s in expected.samples)


async def test_a_prompt_that_came_before_is_cached(service):
    params = SamplingParams(max_tokens=2)
    first = usage_of(await collect(service.client.generate(TRUNK, params)))
    again = usage_of(await collect(service.client.generate(TRUNK, params)))
    assert (first.cached_tokens, first.computed_tokens) == (0, first.prompt_tokens)
    assert again.cached_tokens > 0.8 * again.prompt_tokens


async def test_equal_prompts_sent_at_once_are_computed_once(service):
    """64 calls of 500 tokens each, in a pool that holds the prompt and a few samples at a time."""
    prompt = (TRUNK * 3)[:500]
    calls = [service.client.generate(prompt, SamplingParams(max_tokens=2)) for _ in range(64)]
    await asyncio.gather(*(collect(call) for call in calls))

    def counted(source: str) -> float | None:
        labels = {"source": source, "tenant": "(none)"}
        return service.metrics.registry.get_sample_value("treeserve_prompt_tokens_total", labels)

    assert counted("computed") == 500
    assert counted("cached") + counted("shared") == 63 * 500
    assert sum(step.num_prompt_rows for step in service.steps) == 500


async def test_a_tree_computes_its_trunk_once(service):
    tree = PromptTree(
        TRUNK,
        params=SamplingParams(max_tokens=4, ignore_eos=True),
        branches=(
            PromptTree("One.", n=2),
            PromptTree("Two.", branches=(PromptTree(" Deeper."), PromptTree(" Other.", n=3))),
            PromptTree("Three.", params=SamplingParams(max_tokens=2, ignore_eos=True)),
        ),
    )
    items = await collect(service.client.generate_tree(tree))
    samples = {
        (item.path, item.sample_index): item.finish_reason
        for item in items
        if isinstance(item, Delta)
    }
    expected = [((0,), 0), ((0,), 1), ((1, 0), 0), ((1, 1), 0), ((1, 1), 1), ((1, 1), 2), ((2,), 0)]
    assert samples == dict.fromkeys(expected, FinishReason.LENGTH)
    assert len(tokens_of(items, (1, 1), 2)) == 4
    assert len(tokens_of(items, (2,), 0)) == 2
    usages = [usage_of(items, path) for path in ((0,), (1, 0), (1, 1), (2,))]
    assert sum(usage.computed_tokens for usage in usages) < len(TRUNK) + 40
    assert sum(usage.shared_tokens for usage in usages) > 2.9 * len(TRUNK)


async def test_a_stop_string_ends_a_sample(service):
    params = SamplingParams(max_tokens=100, seed=3, ignore_eos=True)
    items = await collect(service.client.generate("abc", params))
    text = "".join(item.text for item in items if isinstance(item, Delta))
    stop = text[5:7]
    stopped = SamplingParams(max_tokens=100, seed=3, ignore_eos=True, stop=(stop,))
    items = await collect(service.client.generate("abc", stopped))
    assert "".join(i.text for i in items if isinstance(i, Delta)) == text[: text.index(stop)]
    assert items[-2].finish_reason is FinishReason.STOP
    await service.wait_until_idle()


async def test_a_cancelled_call_frees_its_pages_within_one_step(service, monkeypatch):
    steps_at = {}
    step, tell_engine, abort = service.engine.step, service.loop.abort, service.engine.abort
    is_told = threading.Event()

    def step_unless_long():
        # However slow the client is, the engine is in its midst when it is told.
        if len(service.steps) > 5:
            is_told.wait(60)
        return step()

    def told(request_id, sample_index=None):
        steps_at["told"] = len(service.steps)
        tell_engine(request_id, sample_index)
        is_told.set()

    def aborted(request_id, sample_index=None):
        abort(request_id, sample_index)
        steps_at["aborted"] = len(service.steps)
        counts = service.engine.scheduler.counts()
        steps_at["held_pages"] = counts.used_pages - counts.cached_pages

    monkeypatch.setattr(service.engine, "step", step_unless_long)
    monkeypatch.setattr(service.loop, "abort", told)
    monkeypatch.setattr(service.engine, "abort", aborted)
    async with contextlib.aclosing(service.client.generate(TRUNK, LONG)) as stream:
        async for _ in stream:
            if len(service.steps) > 5:
                break
    await service.wait_until_idle()
    assert steps_at["aborted"] - steps_at["told"] <= 1
    assert steps_at["held_pages"] == 0
    assert len(service.steps) < LONG.max_tokens
    service.engine.scheduler.check()


async def test_gauges_fall_to_zero_after_a_cancelled_call(service):
    async with contextlib.aclosing(service.client.generate(TRUNK, LONG)) as stream:
        async for _ in stream:
            if len(service.steps) > 5:
                break
    await service.wait_until_idle()
    assert service.metrics.registry.get_sample_value("treeserve_running_samples") == 0


async def test_clients_that_come_and_go_leave_nothing_behind(service):
    chance = random.Random(5)

    async def visit(number: int) -> None:
        prompt = TRUNK[: chance.randrange(1, len(TRUNK))] + chr(97 + number % 5)
        params = SamplingParams(n=chance.randrange(1, 5), max_tokens=chance.randrange(1, 30))
        patience = chance.choice((1, 5, 1000))
        async with contextlib.aclosing(service.client.generate(prompt, params)) as stream:
            async for item in stream:
                patience -= 1
                if isinstance(item, Finished) or patience == 0:
                    return

    await asyncio.gather(*(visit(number) for number in range(40)))
    await service.wait_until_idle()
    counts = service.engine.scheduler.counts()
    assert counts.waiting_requests == 0
    assert counts.used_pages == counts.cached_pages
    service.engine.scheduler.check()


async def test_a_failed_step_ends_its_samples_and_the_server_lives_on(service, monkeypatch, caplog):
    def fail(*arguments):
        raise RuntimeError("the device is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(service.engine._runner, "launch", fail)
        items = await collect(service.client.generate("abc", SamplingParams(n=2)))
    reasons = [item.finish_reason for item in items if isinstance(item, Delta)]
    assert reasons == [FinishReason.ERROR] * 2
    assert "the device is on fire" in caplog.text
    await assert_serves(service)


async def assert_serves(service: Service) -> None:
    items = await collect(service.client.generate("abc", SamplingParams(max_tokens=3)))
    assert items[-1].usage.prompt_tokens == 3


def request_with(text: str = "abc", n: int | None = None, **sections) -> pb.GenerateRequest:
    return pb.GenerateRequest(text=text, n=n, params=pb.Parameters(**sections))


BAD_REQUESTS = [
    (request_with(""), "prompt", "empty"),
    (pb.GenerateRequest(token_ids=pb.TokenIds()), "prompt", "empty"),
    (request_with("x" * 1024), "prompt", "1023"),
    (request_with("x" * (NUM_PAGES * PAGE_SIZE + 1)), "prompt", "pool|pages"),
    (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5, 320])), "prompt[1]", "319|320"),
    (request_with(n=0), "n", "between 1 and 1024, got 0"),
    (request_with(n=1025), "n", "between 1 and 1024, got 1025"),
    (
        request_with(stopping=pb.Stopping(max_tokens=0)),
        "params.stopping.max_tokens",
        "between 1 and 1024, got 0",
    ),
    (
        request_with(stopping=pb.Stopping(max_tokens=2000)),
        "params.stopping.max_tokens",
        "got 2000",
    ),
    (request_with(stopping=pb.Stopping(stop=[""])), "params.stopping.stop[0]", "1 to 256"),
    (
        request_with(stopping=pb.Stopping(stop_token_ids=[320])),
        "params.stopping.stop_token_ids[0]",
        "319",
    ),
    (
        request_with(sampling=pb.Sampling(temperature=-1)),
        "params.sampling.temperature",
        "between 0 and 100, got -1",
    ),
    (
        request_with(sampling=pb.Sampling(temperature=math.nan)),
        "params.sampling.temperature",
        "number",
    ),
    (request_with(sampling=pb.Sampling(top_p=0)), "params.sampling.top_p", "above 0"),
    (request_with(sampling=pb.Sampling(top_k=400)), "params.sampling.top_k", "320"),
    (request_with(output=pb.Output(logprobs=21)), "params.output.logprobs", "20"),
]


@pytest.mark.parametrize(("bad_request", "field_path", "limit"), BAD_REQUESTS)
async def test_bad_input_names_field_and_limit(service, bad_request, field_path, limit):
    await assert_refused(service.stub.Generate(bad_request), field_path, limit)
    await assert_serves(service)


BAD_TREES = [
    (pb.TreeNode(), "tree.text", "empty"),
    (pb.TreeNode(text="a", n=0), "tree", "no node asks"),
    (pb.TreeNode(text="a", n=1025), "tree.n", "1024"),
    (
        pb.TreeNode(text="a", branches=[pb.TreeNode(), pb.TreeNode(text="b", n=1025)]),
        "tree.branches[1].n",
        "got 1025",
    ),
    (
        pb.TreeNode(
            text="a",
            branches=[
                pb.TreeNode(
                    text="b",
                    params=pb.Parameters(stopping=pb.Stopping(max_tokens=0)),
                )
            ],
        ),
        "tree.branches[0].params.stopping.max_tokens",
        "got 0",
    ),
    (
        pb.TreeNode(text="a", branches=[pb.TreeNode(text="b" * 1024)]),
        "tree.branches[0].text",
        "1023",
    ),
]


@pytest.mark.parametrize(("bad_tree", "field_path", "limit"), BAD_TREES)
async def test_bad_trees_name_node_field_and_limit(service, bad_tree, field_path, limit):
    call = service.stub.GenerateTree(pb.GenerateTreeRequest(tree=bad_tree))
    await assert_refused(call, field_path, limit)
    await assert_serves(service)


async def assert_refused(call, field_path: str, limit: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=limit) as caught:
        await collect(call)
    error = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = status_pb2.Status.FromString(error.trailing_metadata()["grpc-status-details-bin"])
    bad_request = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad_request)
    assert bad_request.field_violations[0].field == field_path


@pytest.mark.parametrize(
    ("prompt", "params", "field_name"),
    [
        ("abc", SamplingParams(n=0), "n"),
        ("abc", SamplingParams(n=-1), "n"),
        ("abc", SamplingParams(max_tokens=1 << 40), "max_tokens"),
        ("abc", SamplingParams(stop_token_ids=(1, -1)), "stop_token_ids[1]"),
        ("half a \ud83d", SamplingParams(), "prompt"),
        ([1, -5], SamplingParams(), "prompt[1]"),
        ("", SamplingParams(), "prompt"),
    ],
)
async def test_the_client_names_fields_as_the_python_api_does(service, prompt, params, field_name):
    with pytest.raises(InvalidRequest) as caught:
        await collect(service.client.generate(prompt, params))
    assert caught.value.field == field_name
    await assert_serves(service)


async def test_metrics_agree_with_usage(service):
    params = SamplingParams(n=4, max_tokens=20, ignore_eos=True)
    tree = PromptTree(TRUNK, params=params, branches=(PromptTree("a", n=4), PromptTree("b", n=4)))
    items = await collect(service.client.generate_tree(tree))
    usages = [item.usage for item in items if isinstance(item, Finished)]
    value = service.metrics.registry.get_sample_value
    for source in ("cached", "shared", "computed"):
        counted = value("treeserve_prompt_tokens_total", {"source": source, "tenant": "(none)"})
        assert counted == sum(getattr(usage, f"{source}_tokens") for usage in usages)
    assert value("treeserve_completion_tokens_total") == sum(u.completion_tokens for u in usages)
    assert value("treeserve_samples_finished_total", {"reason": "length", "tenant": "(none)"}) == 8
    read = value("treeserve_kv_tokens_read_total")
    assert 0 < read <= value("treeserve_kv_tokens_read_flat_total")
    assert value("treeserve_pages_capacity") == NUM_PAGES

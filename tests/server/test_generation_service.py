"""What streams tell, names of requests and counts of tokens, with a real model and socket."""

from collections.abc import AsyncIterator

import grpc
import pytest
import tiny_models
from running_service import (
    RunningService,
    bad_field_of,
    collect,
    error_of,
    long_parameters,
    parameters,
    running_service,
)

from treeserve.config import EngineOptions
from treeserve.pb import generation_pb2 as pb
from treeserve.types import Delta, FinishReason, OutputOptions, Progress, RequestOptions

TRUNK = "What many prompts begin with is computed and stored once. " * 3
PROGRESS = OutputOptions(progress=True)


@pytest.fixture
async def service(checkpoint_of) -> AsyncIterator[RunningService]:
    options = EngineOptions(model=str(checkpoint_of("llama")), num_pages=96, page_size=16)
    async with running_service(options) as running:
        yield running
        await running.assert_nothing_is_held()


class TestNames:
    async def test_the_first_message_names_the_request_and_its_seed(self, service):
        told = await collect(service.stub.Generate(pb.GenerateRequest(text=TRUNK)))
        started = told.messages[0].started
        assert len(started.request_id) == 32
        assert started.prompt_tokens == len(TRUNK)
        again = pb.GenerateRequest(
            text=TRUNK, params=pb.Parameters(sampling=pb.Sampling(seed=started.seed))
        )
        assert (await collect(service.stub.Generate(again))).tokens() == told.tokens()

    async def test_callers_can_name_their_requests_once(self, service):
        options = pb.RequestOptions(request_id="job-7")
        request = pb.GenerateRequest(text="a", options=options, params=parameters(3))
        assert (await collect(service.stub.Generate(request))).request_id == "job-7"
        error = await error_of(service.stub.Generate(request))
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        assert "'job-7' is in use" in error.details()

    @pytest.mark.parametrize("request_id", ["", "a b", "é", "x" * 65, "../a"])
    async def test_bad_names_are_refused(self, service, request_id):
        options = pb.RequestOptions(request_id=request_id)
        error = await error_of(service.stub.Generate(pb.GenerateRequest(text="a", options=options)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert bad_field_of(error) == "options.request_id"

    @pytest.mark.parametrize(
        ("options", "path"),
        [
            (pb.RequestOptions(priority=101), "options.priority"),
            (pb.RequestOptions(group="g" * 65), "options.group"),
        ],
    )
    async def test_options_out_of_range_are_named(self, service, options, path):
        error = await error_of(service.stub.Generate(pb.GenerateRequest(text="a", options=options)))
        assert (error.code(), bad_field_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, path)

    async def test_all_nodes_of_a_tree_have_one_name(self, service):
        tree = pb.TreeNode(
            text=TRUNK,
            params=parameters(4),
            branches=[pb.TreeNode(text="a"), pb.TreeNode(text="b", n=2)],
        )
        told = await collect(service.stub.GenerateTree(pb.GenerateTreeRequest(tree=tree)))
        assert told.request_id
        firsts = {tuple(m.path): m for m in reversed(told.messages)}
        assert all(firsts[path].HasField("started") for path in ((0,), (1,)))


class TestStreams:
    async def test_every_sample_tells_why_and_when_it_ended(self, service):
        request = pb.GenerateRequest(text=TRUNK, n=2, params=parameters(30))
        told = await collect(service.stub.Generate(request))
        for index in range(2):
            last = told.last(index)
            assert last.num_tokens == len(told.tokens(index))
            timings = last.timings
            assert 0 <= timings.queue_seconds <= timings.first_token_seconds
            assert 0 < timings.first_token_seconds <= timings.total_seconds
            later = (timings.total_seconds - timings.first_token_seconds) / (last.num_tokens - 1)
            assert timings.seconds_per_token == pytest.approx(later)

    async def test_the_token_that_ended_a_sample_is_told(self, service):
        request = pb.GenerateRequest(text=TRUNK, params=parameters(30))
        token = (await collect(service.stub.Generate(request))).tokens()[4]
        request.params.stopping.stop_token_ids.append(token)
        last = (await collect(service.stub.Generate(request))).last()
        assert last.finish_reason == pb.FINISH_REASON_STOP
        assert last.stop_token_id == token

    async def test_a_stop_string_can_be_kept(self, service):
        request = pb.GenerateRequest(text=TRUNK, params=parameters(30))
        text = (await collect(service.stub.Generate(request))).text()
        stop = text[5:7]
        request.params.stopping.stop.append(stop)
        without = (await collect(service.stub.Generate(request))).text()
        request.params.stopping.include_stop = True
        assert (await collect(service.stub.Generate(request))).text() == without + stop

    async def test_output_can_be_left_out_and_the_prompt_asked_for(self, service):
        output = pb.Output(token_ids=False, usage=False, echo=True)
        params = parameters(5, output=output)
        told = await collect(service.stub.Generate(pb.GenerateRequest(text="abc", params=params)))
        assert told.messages[0].started.prompt_text == "abc"
        assert list(told.messages[0].started.prompt_token_ids) == service.prompter.tokenizer.encode(
            "abc"
        )
        assert told.tokens() == []
        assert not any(message.HasField("usage") for message in told.messages)
        assert told.last().num_tokens > 0

    async def test_progress_of_a_prompt_grows_to_its_end(self, checkpoint_of):
        options = EngineOptions(
            model=str(checkpoint_of("llama")),
            num_pages=96,
            page_size=16,
            token_budget=64,
            max_running=8,
        )
        request = pb.GenerateRequest(
            text="y" * 500, params=parameters(3, output=pb.Output(progress=True))
        )
        async with running_service(options) as service:
            seen = []
            async for event in service.text_service.generate("y" * 500, output=PROGRESS):
                if isinstance(event, Progress):
                    seen.append((event.num_computed_tokens, event.num_prompt_tokens))
            assert [computed for computed, _ in seen] == [64 * i for i in range(1, 8)] + [500]
            told = await collect(service.stub.Generate(request))
            progress = [m.progress for m in told.messages if m.HasField("progress")]
            assert progress[-1] == pb.Progress(computed_tokens=500, prompt_tokens=500)

    async def test_a_trees_usage_counts_shared_tokens_once(self, service):
        tree = pb.TreeNode(text=TRUNK, branches=[pb.TreeNode(text="aa"), pb.TreeNode(text="b")])
        tree.params.CopyFrom(parameters(3))
        for cached in (0, len(TRUNK) + 3):
            told = await collect(service.stub.GenerateTree(pb.GenerateTreeRequest(tree=tree)))
            total = told.messages[-1].tree_usage
            usages = [message.usage for message in told.messages if message.HasField("usage")]
            assert total.prompt_tokens == len(TRUNK) + 3
            assert total.computed_tokens == sum(usage.computed_tokens for usage in usages)
            assert total.cached_tokens == cached
            assert total.shared_in_flight_tokens == 0
            assert total.completion_tokens == sum(usage.completion_tokens for usage in usages)

    async def test_a_time_limit_ends_a_sample_and_says_so(self, service):
        stopping = pb.Stopping(ignore_eos=True, time_limit_seconds=1e-6)
        request = pb.GenerateRequest(text=TRUNK, params=parameters(900, stopping=stopping))
        last = (await collect(service.stub.Generate(request))).last()
        assert last.finish_reason == pb.FINISH_REASON_TIME_LIMIT

    async def test_the_deadline_of_the_call_ends_its_work_in_the_engine(self, service):
        options = RequestOptions(deadline=0.0)
        events = [event async for event in service.text_service.generate(TRUNK, options=options)]
        [last] = [event for event in events if isinstance(event, Delta)]
        assert last.finish_reason is FinishReason.DEADLINE
        error = await error_of(
            service.stub.Generate(
                pb.GenerateRequest(text=TRUNK, params=long_parameters(), n=64), timeout=0.2
            )
        )
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


class TestTokens:
    async def test_text_becomes_tokens_and_text_again(self, service):
        text = "naïve 日本語"
        tokens = (await service.stub.Tokenize(pb.TokenizeRequest(text=text))).token_ids
        assert list(tokens) == service.prompter.tokenizer.encode(text)
        answer = await service.stub.Detokenize(pb.DetokenizeRequest(token_ids=tokens))
        assert answer.text == text

    async def test_special_tokens_are_shown_only_if_asked_for(self, service):
        request = pb.DetokenizeRequest(token_ids=[*service.prompter.tokenizer.encode("a"), 0])
        assert (await service.stub.Detokenize(request)).text == "a"
        request.special_tokens = True
        assert (await service.stub.Detokenize(request)).text == "a<end>"

    async def test_a_trees_trunk_is_counted_once(self, service):
        tree = pb.TreeNode(
            text="trunk", n=1, branches=[pb.TreeNode(text="ab", n=3), pb.TreeNode(text="ac", n=0)]
        )
        counts = await service.stub.CountTokens(pb.CountTokensRequest(tree=tree))
        assert counts.num_tokens == 7
        assert counts.num_unshared_tokens == 5 + 3 * 7
        assert {tuple(p.path): p.num_tokens for p in counts.prompts} == {(): 5, (0,): 7}
        counts = await service.stub.CountTokens(pb.CountTokensRequest(text="trunk"))
        assert (counts.num_tokens, counts.num_unshared_tokens) == (5, 5)

    @pytest.mark.parametrize(
        ("method", "request_message", "path"),
        [
            ("Tokenize", pb.TokenizeRequest(), "prompt"),
            ("Tokenize", pb.TokenizeRequest(text=""), "prompt"),
            ("Detokenize", pb.DetokenizeRequest(token_ids=[1, 320]), "token_ids[1]"),
            ("CountTokens", pb.CountTokensRequest(), "prompt"),
            (
                "CountTokens",
                pb.CountTokensRequest(tree=pb.TreeNode(branches=[pb.TreeNode(text="a", n=1025)])),
                "tree.branches[0].n",
            ),
            (
                "CountTokens",
                pb.CountTokensRequest(
                    tree=pb.TreeNode(text="a", n=1, branches=[pb.TreeNode(text="b" * 1023)])
                ),
                "tree.branches[0].text",
            ),
        ],
    )
    async def test_bad_input_is_named(self, service, method, request_message, path):
        error = await error_of(getattr(service.stub, method)(request_message))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert bad_field_of(error) == path


async def test_every_method_answers_with_the_embedded_model():
    text = "Read a number and print it twice.\n"
    async with running_service(EngineOptions(model="embedded", num_pages=256)) as service:
        stub = service.stub
        told = await collect(
            stub.Generate(pb.GenerateRequest(text=text, n=4, params=parameters(24)))
        )
        tree = pb.TreeNode(text=text, branches=[pb.TreeNode(text="a = "), pb.TreeNode(text="b")])
        tree.params.CopyFrom(parameters(8))
        trees = await collect(stub.GenerateTree(pb.GenerateTreeRequest(tree=tree)))
        assert trees.messages[-1].tree_usage.prompt_tokens < sum(
            message.usage.prompt_tokens for message in trees.messages
        )
        branch = pb.ForkParent(request_id=told.request_id, sample_index=2, num_tokens=3)
        forked = await collect(stub.Fork(pb.ForkRequest(parent=branch, params=parameters(8))))
        assert forked.usage.prompt_tokens == told.usage.prompt_tokens + 3
        assert (await stub.Abort(pb.AbortRequest(request_id=forked.request_id))).ended_samples == 0
        tokens = (await stub.Tokenize(pb.TokenizeRequest(text=text))).token_ids
        assert len(tokens) == told.usage.prompt_tokens
        assert (await stub.Detokenize(pb.DetokenizeRequest(token_ids=tokens))).text == text
        counts = await stub.CountTokens(pb.CountTokensRequest(tree=tree))
        assert counts.num_tokens == trees.messages[-1].tree_usage.prompt_tokens
        guided = parameters(40, guidance=pb.Guidance(json_schema='{"enum": ["left", "right"]}'))
        choice = await collect(stub.Generate(pb.GenerateRequest(text=text, params=guided)))
        assert choice.text() in {'"left"', '"right"'}
        await service.assert_nothing_is_held()


async def test_a_chat_goes_through_the_models_own_template(tmp_path):
    tiny_models.save_checkpoint(tmp_path, "llama")
    tokenizer = tiny_models.byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}>"
    tokenizer.save_pretrained(tmp_path)
    turns = [pb.Message(role="user", content="hi"), pb.Message(role="critic", content="né")]
    params = parameters(4, output=pb.Output(echo=True))
    request = pb.GenerateRequest(chat=pb.Chat(messages=turns), params=params)
    options = EngineOptions(model=str(tmp_path), num_pages=16, page_size=16)
    async with running_service(options) as service:
        told = await collect(service.stub.Generate(request))
        assert told.messages[0].started.prompt_text == "[user] hi\n[critic] né\n>"
        counts = await service.stub.CountTokens(pb.CountTokensRequest(chat=request.chat))
        assert counts.num_tokens == told.usage.prompt_tokens


async def test_a_chat_without_a_template_says_what_to_do(service):
    chat = pb.Chat(messages=[pb.Message(role="user", content="hi")])
    error = await error_of(service.stub.Generate(pb.GenerateRequest(chat=chat)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "no chat template; give the prompt as text" in error.details()


async def test_too_many_prompt_logprobs_are_refused_by_name(service):
    params = pb.Parameters(output=pb.Output(prompt_logprobs=21))
    error = await error_of(service.stub.Generate(pb.GenerateRequest(text="a", params=params)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "params.output.prompt_logprobs: must be between 0 and 20" in error.details()

"""What the terminal and machines are shown."""

import io
import json

from treeserve.commands.report import JsonReport, LiveReport, SampleReport, summary, total_usage
from treeserve.types import Delta, Finished, FinishReason, Sharing, TokenLogprob, Usage

USAGE = Usage(812, 500, 300, 12, 96)
SHARING = Sharing(812, 12, 4100, 32000)
STOP = FinishReason.STOP


def test_a_single_sample_is_written_as_it_grows():
    out, err = io.StringIO(), io.StringIO()
    report = LiveReport(out, err)
    report.see(Delta((), 0, "Hel", (1,)))
    assert out.getvalue() == "Hel"
    report.see(Delta((), 0, "lo", (2,), None, STOP))
    report.see(Finished((), USAGE))
    report.end(USAGE, SHARING)
    assert out.getvalue() == "Hello\n"
    assert err.getvalue() == (
        "prompt 812 tokens: 500 cached, 300 shared, 12 computed · completion 96 tokens · "
        "KV reads 4,100 of 32,000 flat (7.8x fewer)\n"
    )


def test_several_samples_are_written_when_they_end():
    out = io.StringIO()
    report = SampleReport(out, io.StringIO())
    report.see(Delta((), 0, "a", (1,)))
    report.see(Delta((0, 1), 1, "x\n", (1, 2, 3), None, FinishReason.LENGTH))
    report.see(Delta((), 0, "b", (2,), None, STOP))
    assert out.getvalue() == (
        "== branch 0.1, sample 1 (length, 3 tokens)\nx\n== sample 0 (stop, 2 tokens)\nab\n"
    )


def test_machines_get_every_event_and_the_sums():
    out = io.StringIO()
    report = JsonReport(out)
    report.see(
        Delta((1,), 0, "é", (4,), (TokenLogprob(4, -1.0, ((4, -1.0),), 1),), STOP, num_tokens=1)
    )
    report.see(Delta((1,), 1, "", (5,)))
    report.see(Finished((1,), USAGE))
    report.end(USAGE, SHARING)
    delta, bare, finished, total = map(json.loads, out.getvalue().splitlines())
    assert delta == {
        "path": [1],
        "sample_index": 0,
        "text": "é",
        "token_ids": [4],
        "logprobs": [{"token_id": 4, "logprob": -1.0, "top": [[4, -1.0]], "rank": 1}],
        "finish_reason": "stop",
        "stop_match": None,
        "num_tokens": 1,
        "timings": None,
    }
    assert "logprobs" not in bare
    assert finished["usage"]["shared_tokens"] == 300
    assert total["total"]["kv_tokens_read_flat"] == 32000


def test_a_summary_claims_no_more_than_it_knows():
    assert "KV" not in summary(USAGE, None)
    assert "KV" not in summary(USAGE, Sharing())
    assert summary(USAGE, Sharing(kv_tokens_read=100, kv_tokens_read_flat=104)).endswith(
        "KV reads 100, none shared"
    )


def test_usage_adds_up():
    assert total_usage([USAGE, USAGE]) == Usage(1624, 1000, 600, 24, 192)

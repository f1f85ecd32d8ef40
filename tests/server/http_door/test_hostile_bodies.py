"""Bodies that mean harm, or nothing: each is answered, none is the server's fault."""

import http.client
import json
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server.http_door.live import MODEL

from treeserve.server.openai.routes import described

EXAMPLES = 150
"""Of each of seven paths: a thousand and fifty in all."""

PLAIN = {
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
    "/v1/responses": {"input": "a", "max_output_tokens": 2},
    "/v1/trees": {"tree": {"text": "a", "params": {"max_tokens": 2}}},
    "/v1/forks": {"parent": {"request_id": "a"}},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [1, 2]},
}
ODD_NUMBERS = [0, -1, 1.5, 1e308, -(10**40), 10**40, (1 << 63), (1 << 64), 257, 320]
ODD_TEXTS = ["", "\x00", "<end>", "\u202e", "x" * 300, "{{ 7 * 7 }}", "../../etc/passwd", MODEL]

leaves = st.one_of(
    st.none(), st.booleans(), st.sampled_from(ODD_NUMBERS), st.sampled_from(ODD_TEXTS), st.text()
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def bodies(path: str) -> st.SearchStrategy[bytes]:
    """A good body of which some fields are anything, any JSON at all, cut JSON, or any bytes."""
    fields = [field.alias or name for name, field in described()[path].schema.model_fields.items()]
    spoilt = st.dictionaries(st.sampled_from(fields), values, min_size=1, max_size=3).map(
        lambda odd: json.dumps({**PLAIN[path], **odd}).encode()
    )
    nested = st.integers(1, 3000).map(lambda depth: b'{"prompt":' + b"[" * depth + b"]" * depth)
    whole = values.map(lambda value: json.dumps(value).encode())
    cut = st.tuples(spoilt, st.floats(0, 1)).map(
        lambda pair: pair[0][: int(len(pair[0]) * pair[1])]
    )
    return st.one_of(spoilt, spoilt, spoilt, whole, cut, nested, st.binary(max_size=64))


@pytest.mark.slow
@pytest.mark.parametrize("path", PLAIN)
def test_no_body_is_the_servers_fault(live, path):
    address = urlsplit(live.url).netloc
    connection = http.client.HTTPConnection(address, timeout=120)
    seen = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies(path))
    def check(body: bytes) -> None:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        seen.add(answer.status)
        if answer.status != 200:
            assert 400 <= answer.status < 500, (answer.status, data)
            error = json.loads(data)["error"]
            assert error["message"]
            assert set(error) == {"message", "type", "param", "code"}

    try:
        check()
        assert 400 in seen
    finally:
        connection.close()
    live.assert_nothing_is_held()


def test_every_path_that_takes_a_body_is_among_them():
    assert set(PLAIN) == set(described())

"""Every Python example of docs/client.md, against a real server."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest
from client.conftest import secret_of
from server.certificates import Authority
from server.side_house import running_house

from treeserve.server.config import TlsFiles

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
BLOCKS = re.findall(r"^## (.*?)$|^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def examples() -> dict[str, str]:
    """By the heading above them."""
    found: dict[str, str] = {}
    heading = "The first"
    for title, code in BLOCKS:
        heading = title or heading
        if code:
            assert heading not in found, "one example beneath a heading"
            found[heading] = code
    return found


EXAMPLES = examples()
SAYS = {
    "The first": "1 (length|stop) ",
    "Trees": "28 tokens need not be computed|\\(1,\\)",
    "Tokens, prefixes and the tree": "Read a number.",
    "Administration": "ready .*(.|\\n)* was the level before\\n.*\\nDrained\\(all_ended=True",
    "TLS and keys": "Completion\\(",
    "Timeouts, errors and retries": "top_p - must be .*\\nNOT_FOUND .* None",
    "Without treeserve: reflection": "treeserve.v1.TreeService(.|\\n)*completion_tokens: [1-9]",
}


def test_every_heading_that_promises_an_example_has_one():
    assert len(EXAMPLES) == 9
    assert set(SAYS) <= set(EXAMPLES)


@pytest.mark.parametrize("heading", EXAMPLES)
async def test_the_examples_run(heading, options, tmp_path, monkeypatch, capsys):
    code = EXAMPLES[heading]
    config = {}
    if "Tls(" in code:
        authority = Authority(tmp_path, "ca")
        pair, own = authority.sign("server"), authority.sign("acme")
        shutil.copy(own.cert, tmp_path / "client.pem")
        shutil.copy(own.key, tmp_path / "client.key")
        config["tls"] = TlsFiles(pair.cert, pair.key, authority.cert)
    monkeypatch.chdir(tmp_path)
    async with running_house(options, tmp_path / "prefixes", **config) as house:
        monkeypatch.setenv("TREESERVE_API_KEY", secret_of(house.own_key))
        port = house.server.grpc_address.port
        code = code.replace("treeserve.example:50051", f"localhost:{port}")
        code = code.replace("127.0.0.1:50051", f"127.0.0.1:{port}")
        code = code.replace("127.0.0.1:50052", str(house.server.side.admin_address))
        await asyncio.to_thread(exec, compile(code, heading, "exec"), {"__name__": "example"})
        await house.check()
    assert re.search(SAYS.get(heading, "."), capsys.readouterr().out)

"""`treeserve serve` and who may call: options, signals, and a process of its own."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from server.certificates import Authority

from treeserve.commands import serve
from treeserve.commands.main import main
from treeserve.pb import generation_pb2 as pb
from treeserve.pb import generation_pb2_grpc

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--grpc-address", "0.0.0.0:0"],
            "grpc_address: other machines may reach 0.0.0.0:0, and nobody would be asked who calls"
            ": give --api-keys or --tls-client-ca, or allow it with --insecure",
        ),
        (
            ["--http-address", "[::]:0"],
            "http_address: other machines may reach [::]:0, and nobody would be asked who calls"
            ": give --api-keys or --tls-client-ca, or allow it with --insecure",
        ),
        (["--tls-cert", "a"], "tls_key: must be given too, the certificate's private key in PEM"),
        (["--api-keys", "/no"], "api_keys: cannot read /no: No such file or directory"),
        (
            ["--tls-cert", "/no", "--tls-key", "/no"],
            "tls_cert: cannot read /no: No such file or directory",
        ),
        (["--max-calls", "0"], "max_calls: must be at least 1 and at most 2147483647, got 0"),
        (["--max-n", "0"], "max_n: must be at least 1, got 0"),
        (["--max-tree-depth", "65"], "max_tree_depth: must be at most 64, got 65"),
        (["--stall-seconds", "0"], "stall_seconds: must be above 0, got 0.0"),
        (["--log-prompts"], "log_prompts: is of no use without --request-log"),
    ],
)
def test_what_is_unsafe_or_wrong_is_one_line_before_any_model_is_loaded(capsys, options, line):
    addresses = ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
    assert main(["serve", "--model", "/no/such/model", *addresses, *options]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"treeserve serve: {line}\n"
    assert captured.out == ""


async def test_a_hangup_reads_keys_and_certificates_again():
    asked = asyncio.Event()
    signals = serve._Signals(asked.set)
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.wait_for(asked.wait(), 60)
    assert not signals.first.is_set()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


@pytest.mark.slow
def test_a_secured_process_serves_its_callers_and_logs_them(checkpoint_of, tmp_path, capsys):
    authority, keys = Authority(tmp_path), tmp_path / "keys.jsonl"
    server = authority.sign("server")
    assert main(["keys", "new", "--file", str(keys), "--tenant", "acme", "--name", "ci"]) == 0
    secret = capsys.readouterr().out.strip()
    options = ["--tls-cert", server.cert, "--tls-key", server.key, "--api-keys", keys]
    addresses = ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
    logs = ["--request-log", "--log-format", "json"]
    model = ["--model", checkpoint_of("llama"), "--num-pages", "64"]
    command = [sys.executable, "-m", "treeserve", "serve", *model, *addresses, *options, *logs]
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline()
            found = re.search(r"is ready: grpc (\S+), http", line)
            assert found, line + process.stderr.read()
            credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
            with grpc.secure_channel(found[1], credentials) as channel:
                stub = generation_pb2_grpc.GenerationServiceStub(channel)
                request = pb.GenerateRequest(text="abcde")
                given = (("authorization", f"Bearer {secret}"), ("x-request-id", "r-7"))
                assert list(stub.Generate(request, metadata=given))[-1].usage.prompt_tokens == 5
                with pytest.raises(grpc.RpcError) as caught:
                    list(stub.Generate(request))
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        finally:
            process.terminate()
            _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert [(line["code"], line.get("tenant")) for line in lines] == [
        ("OK", "acme"),
        ("UNAUTHENTICATED", None),
    ]
    assert (lines[0]["request_id"], lines[0]["key"]) == ("r-7", "ci")
    assert lines[0]["prompt_tokens"] == lines[0]["computed_tokens"] == 5
    assert secret not in err

"""`treeserve serve` with a folder of prefixes and an admin address, as a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from treeserve.commands.main import main
from treeserve.pb import (
    admin_pb2,
    admin_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    module_pb2,
    module_pb2_grpc,
    prefix_pb2,
    prefix_pb2_grpc,
    tree_pb2,
    tree_pb2_grpc,
)

ROOT = Path(__file__).parents[2]
ANY = "127.0.0.1:0"
SCHEMA = '<schema name="sum">Programs.<module name="read">Read numbers.</module></schema>'
TEXT = "Read some numbers and print their sum. "


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, str]]:
    """The addresses of a server with the embedded model."""
    addresses = ["--grpc-address", ANY, "--http-address", ANY, "--admin-address", ANY]
    options = ["--prefix-folder", str(folder), "--show-text", "--num-pages", "64"]
    with subprocess.Popen(
        [sys.executable, "-m", "treeserve", "serve", *addresses, *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            line = process.stdout.readline()
            found = re.search(r"is ready: grpc (\S+), http \S+, admin (\S+), model embedded", line)
            assert found, line + process.stderr.read()
            yield found[1], found[2]
            process.terminate()
            assert process.wait(120) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


@pytest.mark.slow
def test_a_prefix_and_a_schema_outlive_the_process_that_saved_them(tmp_path):
    prefix = prefix_pb2.Prefix(text=TEXT)
    with serving(tmp_path) as (address, admin_address):
        with grpc.insecure_channel(address) as channel:
            stub = prefix_pb2_grpc.PrefixServiceStub(channel)
            saved = stub.Save(prefix_pb2.SaveRequest(name="trunk", prefix=prefix))
            assert saved.computed_tokens > 0
            modules = module_pb2_grpc.ModuleServiceStub(channel)
            modules.PutSchema(module_pb2.PutSchemaRequest(pml=SCHEMA))
            schema = modules.SaveSchema(module_pb2.SaveSchemaRequest(name="sum"))
            assert schema.encoded_tokens == schema.tokens > 0
        with grpc.insecure_channel(admin_address) as channel:
            admin = admin_pb2_grpc.AdminServiceStub(channel)
            status = admin.GetStatus(admin_pb2.GetStatusRequest())
            assert (status.phase, status.options["model"]) == ("ready", "embedded")
            assert admin.Drain(admin_pb2.DrainRequest()).all_ended
    with serving(tmp_path) as (address, _), grpc.insecure_channel(address) as channel:
        stub = prefix_pb2_grpc.PrefixServiceStub(channel)
        restored = stub.Restore(prefix_pb2.RestoreRequest(name="trunk"))
        assert restored.restored_tokens == restored.tokens == saved.computed_tokens
        warmed = stub.Warm(prefix_pb2.WarmRequest(prefix=prefix))
        assert warmed.computed_tokens <= 1
        tree = tree_pb2_grpc.TreeServiceStub(channel).GetTree(tree_pb2.GetTreeRequest()).tree
        assert sum(len(node.token_ids) for node in tree.nodes) == restored.tokens
        modules = module_pb2_grpc.ModuleServiceStub(channel)
        back = modules.RestoreSchema(module_pb2.RestoreSchemaRequest(name="sum"))
        assert back.restored_tokens == back.tokens == schema.tokens
        prompt = generation_pb2.ModulePrompt(pml='<prompt schema="sum"><read/>Then</prompt>')
        generation = generation_pb2_grpc.GenerationServiceStub(channel)
        answer = list(generation.Generate(generation_pb2.GenerateRequest(modules=prompt)))
        assert answer[-1].usage.module_tokens > 0
        assert answer[-1].usage.encoded_tokens == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--prefix-folder", "/proc/nowhere"], "prefix_folder: cannot write to /proc/nowhere"),
        (["--prefix-folder-bytes", "0"], "prefix_folder_bytes: must be at least 1, got 0"),
        (["--admin-address", "nowhere"], "admin_address: must be HOST:PORT"),
        (["--admin-address", "0.0.0.0:1"], "admin_address: other machines may reach"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(options, text, capsys, tmp_path):
    folder = [] if "--prefix-folder" in options else ["--prefix-folder", str(tmp_path)]
    assert main(["serve", "--grpc-address", ANY, "--http-address", ANY, *folder, *options])
    err = capsys.readouterr().err
    assert err.startswith(f"treeserve serve: {text}")
    assert err.count("\n") == 1

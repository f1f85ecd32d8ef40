"""The OpenAPI document: true to what is served, by hand and by schemathesis."""

import json
import subprocess
import sys
import urllib.request

import pytest
from server.listening import fetch, listening

from treeserve.server.config import AccessConfig
from treeserve.server.openai.routes import described


def document_of(live) -> dict:
    with urllib.request.urlopen(f"{live.url}/openapi.json", timeout=60) as answer:
        return json.load(answer)


def test_every_path_is_described_with_all_its_fields(live):
    document = document_of(live)
    paths = {path for path in document["paths"] if "post" in document["paths"][path]}
    assert paths == set(described())
    for path, told in described().items():
        content = document["paths"][path]["post"]["requestBody"]["content"]
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        fields = {field.alias or key for key, field in told.schema.model_fields.items()}
        assert set(document["components"]["schemas"][name]["properties"]) == fields


def test_every_reference_leads_somewhere(live):
    document = document_of(live)
    names = set(document["components"]["schemas"])
    references = set()

    def walk(value) -> None:
        if isinstance(value, dict):
            references.update([value["$ref"]] if "$ref" in value else [])
            list(map(walk, value.values()))
        elif isinstance(value, list):
            list(map(walk, value))

    walk(document)
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= names


async def test_a_server_that_describes_nothing_has_no_document(text_service):
    async with listening(text_service, access=AccessConfig(reflection=False)) as server:
        assert (await fetch(server, "/openapi.json"))[0] == 404


@pytest.mark.slow
def test_schemathesis_finds_no_fault_of_the_server(live, tmp_path):
    pytest.importorskip("schemathesis", reason="the extra dev has it")
    checks = (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    )
    # As many requests on every machine, the same ones, and none that has to be quick.
    options = {
        "--checks": ",".join(checks),
        "--phases": "fuzzing",
        "--max-examples": "8",
        "--seed": "1",
        "--generation-database": "none",
        "--suppress-health-check": "all",
        "--request-timeout": "200",
        "--header": "x-request-timeout: 1000",
    }
    flat = [part for pair in options.items() for part in pair]
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{live.url}/openapi.json", *flat]
    # It leaves a folder of its own where it runs.
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    num_operations = sum(map(len, document_of(live)["paths"].values()))
    assert f" {num_operations} passed" in done.stdout

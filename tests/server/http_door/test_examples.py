"""Every example of docs/clients.md, against a real server."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "clients.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def examples() -> list[str]:
    """Those that need no more than this door; the one of modules is tested with them."""
    return [block for block in blocks("python") if "modules" not in block]


@pytest.mark.parametrize("number", range(4))
def test_the_python_examples_run(live, number, capsys):
    example = examples()[number]
    package = re.findall(r"^from (\w+) import", example, re.MULTILINE)
    missing = [name for name in package if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    exec(compile(example.replace(ADDRESS, live.url), "docs/clients.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_all_python_examples_are_among_them():
    assert (len(examples()), len(blocks("python"))) == (4, 5)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_curl_examples_run(live):
    [example] = blocks("sh")
    script = "set -e\nTREESERVE_API_KEY=none\n" + example.replace(ADDRESS, live.url)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"object":"text_completion"' in done.stdout
    assert '"error"' not in done.stdout
    assert done.stdout.endswith("data: [DONE]\n\n")

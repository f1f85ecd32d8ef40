"""What docs/pml.md shows works as it stands there."""

import re
import runpy
from pathlib import Path

from treeserve.embedded import MODEL_FOLDER
from treeserve.pml import PythonSchema, parse_prompt, parse_schema
from treeserve.tokenizer import Tokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "pml.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_schema_takes_the_prompt(compiled):
    schema, prompt = blocks("xml")
    laid_out = compiled(parse_schema(schema), tokenizer=Tokenizer.load(MODEL_FOLDER))
    module_prompt = laid_out.prompt(parse_prompt(prompt))
    assert module_prompt.imported == ("trip", "miami", "low_budget")
    assert module_prompt.max_tokens == 48


def test_the_python_blocks_run(tmp_path, capsys, compiled):
    decorated, building = blocks("python")
    (tmp_path / "decorated.py").write_text(decorated)
    trip = runpy.run_path(str(tmp_path / "decorated.py"))["trip"]
    assert isinstance(trip, PythonSchema)
    assert list(compiled(trip.build()).modules) == ["", "miami", "surf", "oslo", "cheap"]
    (tmp_path / "building.py").write_text(building)
    runpy.run_path(str(tmp_path / "building.py"))
    printed = parse_schema(capsys.readouterr().out)
    assert list(compiled(printed).modules) == ["", "trip", "miami", "oslo"]

"""A folder with problems and a tiny random model, and `treeserve contest sample` on them."""

import json
from pathlib import Path
from typing import Any

from treeserve.commands.main import main
from treeserve.contest.compose import generate_problems
from treeserve.contest.problem import write_problems

Key = tuple[str, int]


class Sampling:
    """One run's files; `sample` goes on with it."""

    def __init__(self, folder: Path, model: Path | str, num_problems: int = 4) -> None:
        self.problems = folder / "problems.jsonl"
        self.output = folder / "samples.jsonl"
        self.model = str(model)
        write_problems(self.problems, generate_problems("held_out", num_problems))

    def words(self, *options: str, output: Path | None = None) -> list[str]:
        """The command line.

        In another batch logits are rounded otherwise. In float32 and among four tokens, no draw of
        these tests is near enough to the next token for that to matter.
        """
        files = [str(self.problems), "-o", str(output or self.output)]
        sizes = ["--samples", "20", "--max-tokens", "12", "--top-k", "4", "--num-pages", "400"]
        model = [] if "--server" in options else ["--model", self.model, "--dtype", "float32"]
        sizes = sizes if "--server" not in options else sizes[:-2]
        return ["contest", "sample", *files, *sizes, *model, *options]

    def sample(self, *options: str, output: Path | None = None) -> int:
        return main(self.words(*options, output=output))

    def records(self, output: Path | None = None) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (output or self.output).read_text().splitlines()]

    def samples(self, output: Path | None = None) -> dict[Key, dict[str, Any]]:
        """Each once."""
        found: dict[Key, dict[str, Any]] = {}
        for record in self.records(output):
            if "sample_index" in record:
                key = (record["problem_id"], record["sample_index"])
                assert key not in found
                found[key] = record
        return found

    def usage(self, name: str, output: Path | None = None) -> int:
        return sum(
            record.get(name, 0) for record in self.records(output) if record.get("kind") == "usage"
        )

    @property
    def problem_ids(self) -> list[str]:
        return [json.loads(line)["problem_id"] for line in self.problems.read_text().splitlines()]

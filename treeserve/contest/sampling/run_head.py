"""What the samples of a run depend on, for the head of their file."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treeserve.contest.records.contest_problem import ContestProblem
from treeserve.contest.sampling.drawing import Drawing, DrawSettings
from treeserve.contest.sampling.few_shot import FewShot
from treeserve.contest.sampling.portion import PORTION_SIZE
from treeserve.contest.sampling.template import (
    RepairTemplate,
    Template,
    repair_template_of_format,
    template_of_format,
)


@dataclass(frozen=True)
class Wording:
    """Templates for problems of any format; given ones are for all.

    Attributes:
        template, repair: None: each format's own.
    """

    template: Template | None = None
    repair: RepairTemplate | None = None

    def of(self, source: str) -> Template:
        return self.template or template_of_format(source)

    def repair_of(self, source: str) -> RepairTemplate:
        return self.repair or repair_template_of_format(source)


def make_drawings(
    problems: Iterable[ContestProblem], examples: FewShot, wording: Wording, settings: DrawSettings
) -> list[Drawing]:
    """The problems with their whole prompts."""
    return [
        Drawing(
            problem, wording.of(problem.source).prompt(problem, examples.before(problem)), settings
        )
        for problem in problems
    ]


def head_parts(
    problems: Sequence[ContestProblem],
    examples: FewShot,
    wording: Wording,
    settings: DrawSettings,
    model: Mapping[str, Any],
) -> dict[str, Any]:
    """Under the names that a refusal says.

    How many samples, of which problems, how often repaired and when that is enough are not among
    them: a file may grow.

    Args:
        problems: All of the data set.
    """
    sources = sorted({problem.source for problem in problems})
    params = settings.params
    return {
        "problems": _digest(problem.digest for problem in problems),
        "few-shot examples": {
            "number": examples.number,
            "digest": _digest(
                part
                for candidate in examples.candidates
                for part in (candidate.digest, candidate.solution)
            ),
        },
        "template": {source: wording.of(source).source for source in sources},
        "repair template": {source: wording.repair_of(source).source for source in sources},
        "model": dict(model),
        "sampling": {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "min_p": params.min_p,
            "max_tokens": params.max_tokens,
            "stop": list(params.stop),
            "portion": PORTION_SIZE,
        },
        "language": settings.language,
        "seed": settings.seed,
    }


def describe_model(name: str, folder: str | Path, dtype: str) -> dict[str, Any]:
    """A model's name and, of a folder, a digest of its configuration and of the sizes of its files.

    Args:
        folder: Where its files are; a name that is no folder has no digest.
    """
    described: dict[str, Any] = {"name": name, "dtype": dtype}
    place = Path(folder)
    if place.is_dir():
        files = sorted(place.glob("*.safetensors"))
        sizes = [f"{file.name} {file.stat().st_size}" for file in files]
        described["digest"] = _digest([(place / "config.json").read_text(), *sizes])
    return described


def _digest(parts: Iterable[str]) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part.encode(errors="surrogatepass") + b"\0")
    return hashed.hexdigest()

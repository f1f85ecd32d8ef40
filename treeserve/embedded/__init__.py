"""The files that travel with the package: a small trained checkpoint and the contest problems to
try it on.
"""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

MODEL_FOLDER: Path = _FOLDER / "checkpoint"
"""Folder of the embedded Llama checkpoint, as `from_pretrained` of transformers expects it."""

PROBLEMS_FILE: Path = _FOLDER / "problems.jsonl"
"""Problems whose compositions the embedded model never saw in training."""

FEW_SHOT_FILE: Path = _FOLDER / "few_shot.jsonl"
"""Solved problems of compositions seen in training, for few-shot prompts."""

"""Serves text generation where many live requests share text.

The public Python API: `LLM`, `SamplingParams` and `PromptTree`, and what they return.
"""

from typing import TYPE_CHECKING

from treeserve.errors import ConfigError, InvalidRequest, ModelError, TreeserveError
from treeserve.types import (
    Chat,
    Delta,
    Finished,
    FinishReason,
    Generation,
    Guidance,
    Message,
    PromptTree,
    Sample,
    SamplingParams,
    Sharing,
    TokenLogprob,
    Usage,
)

if TYPE_CHECKING:
    from treeserve.llm import LLM

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "Chat",
    "ConfigError",
    "Delta",
    "FinishReason",
    "Finished",
    "Generation",
    "Guidance",
    "InvalidRequest",
    "Message",
    "ModelError",
    "PromptTree",
    "Sample",
    "SamplingParams",
    "Sharing",
    "TokenLogprob",
    "TreeserveError",
    "Usage",
]


def __getattr__(name: str) -> object:
    """Loads `LLM`, and PyTorch with it, only when it is asked for."""
    if name == "LLM":
        from treeserve.llm import LLM

        return LLM
    raise AttributeError(f"module 'treeserve' has no attribute {name!r}")

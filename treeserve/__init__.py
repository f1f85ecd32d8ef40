"""Serves text generation where many live requests share text.

The public Python API: `LLM`, for a model in this process; `Client` and `AsyncClient`, for a server;
`SamplingParams` and `PromptTree`, and what they return.
"""

from typing import TYPE_CHECKING

from treeserve.errors import ConfigError, InvalidRequest, ModelError, TreeserveError
from treeserve.module_prompt import ImportingPrompt, ModuleFields, ModuleImport
from treeserve.types import (
    Chat,
    Delta,
    Finished,
    FinishReason,
    Generation,
    Guidance,
    Message,
    OutputOptions,
    PromptTree,
    RequestOptions,
    Sample,
    SampleName,
    SamplingParams,
    Sharing,
    TokenLogprob,
    Usage,
)

if TYPE_CHECKING:
    from treeserve.client import AsyncClient, Client
    from treeserve.llm import LLM

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncClient",
    "Chat",
    "Client",
    "ConfigError",
    "Delta",
    "FinishReason",
    "Finished",
    "Generation",
    "Guidance",
    "ImportingPrompt",
    "InvalidRequest",
    "Message",
    "ModelError",
    "ModuleFields",
    "ModuleImport",
    "OutputOptions",
    "PromptTree",
    "RequestOptions",
    "Sample",
    "SampleName",
    "SamplingParams",
    "Sharing",
    "TokenLogprob",
    "TreeserveError",
    "Usage",
]


def __getattr__(name: str) -> object:
    """Loads `LLM`, and PyTorch with it, and the clients with gRPC, only when they are asked for."""
    if name == "LLM":
        from treeserve.llm import LLM

        return LLM
    if name in ("AsyncClient", "Client"):
        from treeserve import client

        return getattr(client, name)
    raise AttributeError(f"module 'treeserve' has no attribute {name!r}")

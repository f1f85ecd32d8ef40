"""The request bodies of responses, trees, forks and tokens."""

from typing import Annotated, Any, Literal

from pydantic import Field

from treeserve.server.openai.body import Body, ContentField, TextAsTurns
from treeserve.server.openai.schemas import (
    IGNORED,
    ChatMessage,
    Delivery,
    Drawing,
    ImportedModules,
    Retention,
    StreamOptions,
)


class TextFormat(Body):
    """What the text of a response has to be."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(Body):
    """About the text of a response."""

    format: TextFormat | None = None
    verbosity: str | None = Field(default=None, description=IGNORED)


class InputItem(Body):
    """One turn of what a response answers to."""

    type: Literal["message"] = "message"
    role: str
    content: ContentField
    id: str | None = Field(default=None, description=IGNORED)
    status: str | None = Field(default=None, description=IGNORED)


class ResponseRequest(Retention):
    """One answer to text or to turns of text; nothing is stored."""

    input: Annotated[list[InputItem], TextAsTurns]
    model: str | None = None
    instructions: str | None = Field(default=None, description="A system turn, first.")
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = Field(default=None, description="Not served: leave it unset or 0.")
    text: TextOptions | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: int | None = Field(default=None, description="Beyond OpenAI's: as in completions.")
    priority: int | None = None
    store: bool | None = Field(default=None, description="Nothing is ever stored.")
    metadata: dict[str, str] | None = None
    user: str | None = Field(default=None, description=IGNORED)
    safety_identifier: str | None = Field(default=None, description=IGNORED)
    service_tier: str | None = Field(default=None, description=IGNORED)
    truncation: Literal["disabled"] | None = None
    parallel_tool_calls: bool | None = Field(default=None, description=IGNORED)
    background: Literal[False] | None = None


class Params(Drawing):
    """How the samples of a node or a fork are drawn; all that is left out has its default."""

    logprobs: int | None = Field(
        default=None, description="Log-probabilities, and of so many likeliest."
    )


class TreeNode(Body):
    """Shared text and what grows from it; one of text, token_ids and messages."""

    text: str | None = None
    token_ids: list[int] | None = None
    messages: list[ChatMessage] | None = None
    n: int | None = Field(default=None, description="Default: 1 without branches, else 0.")
    params: Params | None = Field(default=None, description="Default: as for the node above.")
    branches: list["TreeNode"] | None = None


class TreeRequest(Delivery):
    """Samples of the nodes of a tree of prompts."""

    tree: TreeNode
    modules: ImportedModules | None = Field(
        default=None,
        description="What all prompts import; the nodes' texts are own text after its own.",
    )
    public_trunk: bool | None = Field(
        default=None,
        description='Other tenants may share the trunk; needs the permission "publish".',
    )


class ForkParent(Body):
    """A token of another sample."""

    request_id: str = Field(description="The id of its request's answer.")
    path: list[int] | None = Field(default=None, description="Of a tree: its node.")
    sample_index: int | None = Field(default=None, description="Default: 0.")
    num_tokens: int | None = Field(
        default=None, description="Before the branch. Default: all it has drawn."
    )


class ForkRequest(Delivery):
    """Samples that go on from a token of another one, computing nothing again."""

    parent: ForkParent
    n: int | None = None
    params: Params | None = Field(
        default=None, description="Default: the parent's, with a fresh seed."
    )


class TokenizeRequest(Body):
    """A text or a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = Field(default=None, description="Of a text. Default: true.")


class DetokenizeRequest(Body):
    """Token ids."""

    model: str | None = None
    tokens: list[int]
    special_tokens: bool | None = Field(default=None, description="Show them. Default: false.")

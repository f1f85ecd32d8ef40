"""The request bodies of completions and chats, and what every request that draws may say."""

from typing import Any, Literal

from pydantic import Field

from treeserve.server.openai.body import (
    Body,
    ContentField,
    PromptField,
    SchemaField,
    StopField,
    ToolChoiceField,
)

IGNORED = "Taken, and decides nothing."


class StreamOptions(Body):
    """What a stream tells beside text."""

    include_usage: bool | None = Field(
        default=None, description="A last event with the usage of all."
    )
    include_obfuscation: bool | None = Field(default=None, description=IGNORED)


class JsonSchemaFormat(Body):
    """A schema that the text has to be a value of."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = Field(default=None, description="Schemas are always kept to.")


class ResponseFormat(Body):
    """What the text has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Body):
    """vLLM's way to say what the text has to be; one of them."""

    json_: SchemaField | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class Drawing(Body):
    """How samples are drawn, when they end, and what their text has to be."""

    max_tokens: int | None = Field(default=None, description="Of each sample, at most.")
    temperature: float | None = Field(default=None, description="0 is greedy. Default: 1.")
    top_p: float | None = None
    top_k: int | None = Field(default=None, description="0 or -1: all tokens.")
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = Field(default=None, description="By token id.")
    seed: int | None = Field(default=None, description="From 0. Default: a fresh random one.")
    stop: StopField | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    time_limit_seconds: float | None = Field(
        default=None, description="What has not ended by then ends with the reason time_limit."
    )
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: SchemaField | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


class Delivery(Body):
    """How a request is known, queued and answered."""

    model: str | None = Field(
        default=None, description="As /v1/models names it. Default: the one served."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    request_id: str | None = Field(
        default=None, description="Its name for forks. Default: a fresh one."
    )
    priority: int | None = Field(default=None, description="From -100 to 100; higher goes sooner.")
    group: str | None = Field(default=None, description="A label; it decides nothing.")
    return_token_ids: bool | None = Field(default=None, description="The ids of drawn tokens too.")
    user: str | None = Field(default=None, description=IGNORED)


class Retention(Body):
    """How long a prompt stays worth more to the cache than others."""

    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = Field(
        default=None,
        description='"24h" retains the prompt for a day; needs the permission "retain".',
    )
    prompt_cache_key: str | None = Field(default=None, description=IGNORED)


class Import(Body):
    """A module that a prompt imports."""

    name: str
    arguments: dict[str, str] | None = Field(
        default=None, description="Of the module's own parameters, all of them."
    )
    imports: list["Import"] | None = Field(default=None, description="Of modules that lie in it.")


class ModulesTurn(Body):
    """A turn of a prompt's own."""

    role: str
    content: ContentField


class ImportedModules(Body):
    """Modules of a schema that was put with ModuleService, and a prompt's own text after them."""

    pml: str | None = Field(default=None, description="A <prompt>; in place of all but exact.")
    schema_: str | None = Field(default=None, alias="schema", description="The schema's name.")
    imports: list[Import] | None = Field(default=None, description="In any order.")
    arguments: dict[str, str] | None = Field(
        default=None, description="Of parameters that lie in no module."
    )
    text: str | None = Field(default=None, description="The prompt's own, after the imports.")
    messages: list[ModulesTurn] | None = Field(
        default=None, description="In place of text, where the schema has turns."
    )
    exact: bool | None = Field(
        default=None, description="Compute the same text without approximation. Default: false."
    )


class CompletionRequest(Drawing, Delivery, Retention):
    """Samples that go on from one prompt or several; several are one tree inside."""

    prompt: PromptField | None = Field(default=None, description="One or several; or else modules.")
    modules: ImportedModules | None = Field(
        default=None,
        description="Beyond OpenAI's: a prompt that imports modules, in place of prompt.",
    )
    n: int | None = Field(default=None, description="Samples of each prompt. Default: 1.")
    best_of: int | None = Field(
        default=None,
        description="Draw so many and return the n with the highest mean log-probability.",
    )
    logprobs: int | None = Field(
        default=None, description="Log-probabilities, and of so many likeliest."
    )
    echo: bool | None = Field(default=None, description="Texts begin with their prompt.")
    suffix: str | None = Field(default=None, description="Not served: leave it unset.")


class FunctionDefinition(Body):
    """A function that a model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="A JSON schema.")
    strict: bool | None = None


class Tool(Body):
    """A function, in its wrapping."""

    type: Literal["function"]
    function: FunctionDefinition


class CalledFunction(Body):
    """Which function, and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call that the model made in an earlier turn."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Body):
    """One turn of a chat."""

    role: str
    content: ContentField | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = Field(default=None, description=IGNORED)


class ChatRequest(Drawing, Delivery, Retention):
    """Samples of the next turn of a chat, put together by the model's own template."""

    messages: list[ChatMessage]
    n: int | None = Field(default=None, description="Default: 1.")
    max_completion_tokens: int | None = Field(
        default=None, description="As max_tokens. Default: what the model has room for."
    )
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = Field(default=None, description=IGNORED)
    metadata: dict[str, str] | None = Field(default=None, description=IGNORED)
    store: bool | None = Field(default=None, description="Nothing is ever stored.")
    service_tier: str | None = Field(default=None, description=IGNORED)
    safety_identifier: str | None = Field(default=None, description=IGNORED)

"""Prompts that import modules: met with their schema, and in tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from treeserve.errors import InvalidRequest
from treeserve.module_prompt import ImportingPrompt, ModuleFields, ModuleImport
from treeserve.pml import (
    CompiledSchema,
    ImportTag,
    ModulePrompt,
    PmlError,
    PromptTag,
    Text,
    TurnTag,
    parse_prompt,
)
from treeserve.prompt import EncodedPrompt, Prompter, node_name, walk_tree
from treeserve.request_checks import check_drawn
from treeserve.scheduler.modules import ModuleSet
from treeserve.types import Chat, Prompt, PromptTree, RequestOptions

_FIELD = "modules"


@dataclass(frozen=True, slots=True, eq=False)
class ImportedPrompt:
    """A prompt in tokens."""

    token_ids: tuple[int, ...]
    """Its own ones; where there are no modules, all."""
    modules: ModuleSet | None
    """None: it is computed exactly."""
    max_tokens: int | None
    """As the prompt says."""


@dataclass(frozen=True, slots=True, eq=False)
class Importing:
    """A prompt that has met its schema, to which own text may still be added."""

    schema: CompiledSchema
    prompt: PromptTag
    exact: bool

    def imported(self) -> ImportedPrompt:
        """The prompt in tokens.

        Raises:
            InvalidRequest: It does not fit its schema; names what is wrong, in PML with its place.
        """
        try:
            return as_imported(self.schema.prompt(self.prompt), exact=self.exact)
        except PmlError as error:
            raise as_invalid(error) from None

    def before(self, prompt: Prompt) -> "Importing":
        """With more own text after it, tokenised together with what it has.

        Raises:
            InvalidRequest: It is token ids.
        """
        content = (*self.prompt.content, *_content(prompt))
        return replace(self, prompt=replace(self.prompt, content=_joined(content)))


def read_tag(asked: ImportingPrompt) -> PromptTag:
    """What a prompt says.

    Raises:
        InvalidRequest: The PML is not sound; names line and column.
    """
    if not isinstance(asked.prompt, str):
        return _tag(asked.prompt)
    try:
        return parse_prompt(asked.prompt)
    except PmlError as error:
        raise as_invalid(error) from None


def as_imported(prompt: ModulePrompt, *, exact: bool) -> ImportedPrompt:
    """A compiled prompt as it is asked for: of modules, or exactly."""
    if exact:
        return ImportedPrompt(tuple(prompt.exact_token_ids), None, prompt.max_tokens)
    return ImportedPrompt(tuple(prompt.own_token_ids), prompt.module_set, prompt.max_tokens)


def encode_importing_tree(
    prompter: Prompter, tree: PromptTree, importing: Importing, options: RequestOptions
) -> list[EncodedPrompt]:
    """Every prompt of a tree that has samples, depth first; all import the same modules.

    Raises:
        InvalidRequest: Names the node, the field and the limit.
        NotPossible: The model cannot read modules.
    """
    if options.public_trunk:
        raise InvalidRequest("public_trunk", "is not possible where a tree imports modules")
    encoded = []
    for node in walk_tree(tree, prompter.limits):
        if node.num_samples < 1:
            continue
        try:
            own = importing.before(node.prompt).imported()
            params = replace(node.params, n=node.num_samples)
            encoded.append(
                prompter.encode(
                    own.token_ids,
                    params,
                    node.path,
                    output=node.output,
                    options=options,
                    modules=own.modules,
                )
            )
        except InvalidRequest as error:
            if error.field == _FIELD:
                raise
            raise InvalidRequest(
                f"{node_name(node.path)}.{error.field}", error.description
            ) from None
    if not encoded:
        raise InvalidRequest("tree", "no node asks for a sample; give at least one node n >= 1")
    each = [prompt.request.params for prompt in encoded]
    check_drawn("tree", sum(entry.n * entry.max_tokens for entry in each), prompter.limits)
    return encoded


def as_invalid(error: PmlError, field: str = _FIELD) -> InvalidRequest:
    """The same error with the name of a field; where it has a place in PML, that too."""
    has_place = error.place.line > 0
    text = f"{error.place}: {error.description}" if has_place else error.description
    return InvalidRequest(field, text)


def _content(prompt: Prompt) -> tuple[Text | TurnTag, ...]:
    if isinstance(prompt, Chat):
        return tuple(TurnTag(m.role, (Text(m.content),)) for m in prompt.messages)
    if isinstance(prompt, str):
        return (Text(prompt),) if prompt else ()
    raise InvalidRequest("prompt", "must be text or messages, as the tree imports modules")


def _joined(content: Sequence[Text | TurnTag]) -> tuple[Text | TurnTag, ...]:
    """With neighbouring texts as one, so that their tokens are those of the whole."""
    joined: list[Text | TurnTag] = []
    for node in content:
        last = joined[-1] if joined else None
        if isinstance(node, Text) and isinstance(last, Text):
            joined[-1] = Text(last.text + node.text, last.place)
        else:
            joined.append(node)
    return tuple(joined)


def _tag(fields: ModuleFields) -> PromptTag:
    own: Prompt = Chat(fields.messages) if fields.messages else fields.text
    imports = tuple(_import_tag(entry) for entry in fields.imports)
    return PromptTag(fields.schema, imports, _content(own), fields.arguments)


def _import_tag(entry: ModuleImport) -> ImportTag:
    nested = tuple(_import_tag(inner) for inner in entry.imports)
    return ImportTag(entry.name, entry.arguments, nested)

"""Turns what callers ask for into checked requests in token ids."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from uuid import uuid4

from treeserve.config import RequestLimits
from treeserve.engine_messages import (
    Branch,
    EngineRequest,
    all_tokens,
    check_length,
    check_request,
)
from treeserve.errors import InvalidRequest, NotPossible
from treeserve.guidance import Guide
from treeserve.logit_rules import RuleSet
from treeserve.request_checks import (
    ModelLimits,
    check_chat,
    check_drawn,
    check_int,
    check_options,
    check_output,
    check_params,
    check_prompt_length,
    check_text,
    check_token_ids,
)
from treeserve.scheduler.modules import ModuleSet
from treeserve.tokenizer import Tokenizer
from treeserve.types import (
    Chat,
    OutputOptions,
    Prompt,
    PromptTree,
    RequestOptions,
    SamplingParams,
)

CONTEXT_TOKENS = 32
"""Before a branch, that decide how the text after it reads."""

_DEFAULTS = RequestOptions()
_NO_LIMITS = RequestLimits()


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPrompt:
    """A checked prompt in token ids, and where in a tree it belongs."""

    path: tuple[int, ...]
    request: EngineRequest
    arrived_at: float
    """On the monotonic clock, in seconds."""
    output: OutputOptions = field(default_factory=OutputOptions)
    context_token_ids: tuple[int, ...] = ()
    """Of a branch: the tokens just before it."""
    guided_token_ids: tuple[int, ...] = ()
    """Of a branch: the prompt's last tokens that its grammar has seen."""
    is_time_limited: bool = False
    """Whether its time limit is nearer than the deadline of its call."""


class Prompter:
    """Knows the tokenizer and the limits; keeps nothing from one prompt to the next.

    Args:
        tokenizer: The model's.
        vocabulary_size: Token ids are below this.
        max_positions: Prompt and completion together have at most this many tokens.
        end_token_ids: The model's own end-of-text tokens.
        limits: How much one call may ask for.
        why_no_modules: Why prompts cannot import modules; None: they can.
        clock: Seconds, the engine's.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocabulary_size: int,
        max_positions: int,
        end_token_ids: frozenset[int],
        limits: RequestLimits = _NO_LIMITS,
        why_no_modules: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokenizer = tokenizer
        self.limits = limits
        self.model_limits = ModelLimits(vocabulary_size, max_positions)
        self.end_token_ids = end_token_ids
        self._guide = Guide(tokenizer, vocabulary_size, end_token_ids)
        self.why_no_modules = why_no_modules
        self._clock = clock

    def encode(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        path: tuple[int, ...] = (),
        *,
        output: OutputOptions | None = None,
        options: RequestOptions = _DEFAULTS,
        modules: ModuleSet | None = None,
    ) -> EncodedPrompt:
        """Check and tokenise one prompt, which may import modules: then it is its own tokens.

        Raises:
            InvalidRequest: Names the field and the limit.
            NotPossible: It needs a chat template, guidance or modules, and there is none.
        """
        check_options(options)
        params = params or SamplingParams()
        check_params(params, self.model_limits, self.limits)
        token_ids = self.token_ids(prompt)
        return self._encoded(path, token_ids, params, output, options, modules=modules)

    def encode_tree(
        self, tree: PromptTree, *, options: RequestOptions = _DEFAULTS
    ) -> list[EncodedPrompt]:
        """Check and tokenise every prompt of a tree that has samples, depth first.

        Raises:
            InvalidRequest: Names the node, the field and the limit.
            NotPossible: As encode().
        """
        check_options(options)
        nodes = list(walk_tree(tree, self.limits))
        encoded = [self._encode_node(node, options) for node in nodes if node.num_samples > 0]
        if not encoded:
            raise InvalidRequest("tree", "no node asks for a sample; give at least one node n >= 1")
        _check_drawn("tree", encoded, self.limits)
        if not options.public_trunk:
            return encoded
        trunk = self.node_token_ids(nodes[0])
        return [_with_public(prompt, trunk) for prompt in encoded]

    def encode_branch(
        self,
        branch: Branch,
        before: tuple[int, ...],
        params: SamplingParams,
        *,
        guided_token_ids: tuple[int, ...] = (),
        num_public_tokens: int = 0,
        output: OutputOptions | None = None,
        options: RequestOptions = _DEFAULTS,
        modules: ModuleSet | None = None,
    ) -> EncodedPrompt:
        """Check samples that go on from one of another sample's tokens.

        Args:
            branch: That token.
            before: All tokens up to the branch: the other sample's own prompt and what it drew.
            params: Of the new samples.
            guided_token_ids: Of those before, the last ones that the grammar begins with.
            num_public_tokens: Of those before, the first ones that every namespace may share.
            output: What to tell beside text.
            options: Who asks.
            modules: That the other sample's prompt imports.

        Raises:
            InvalidRequest: Names the field and the limit.
        """
        check_options(options)
        check_params(params, self.model_limits, self.limits)
        encoded = self._encoded((), before, params, output, options, guided_token_ids, modules)
        return replace(
            encoded,
            request=replace(encoded.request, branch=branch, num_public_tokens=num_public_tokens),
            context_token_ids=before[-CONTEXT_TOKENS:],
            guided_token_ids=guided_token_ids,
        )

    def token_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """A prompt's tokens; raises as encode()."""
        if isinstance(prompt, Chat):
            check_chat(prompt, self.tokenizer.special_tokens)
            return tuple(self.tokenizer.encode_chat(prompt))
        if not isinstance(prompt, str):
            check_token_ids("prompt", prompt, self.model_limits.vocabulary_size)
            return tuple(prompt)
        if not prompt:
            raise InvalidRequest("prompt", "must not be empty")
        check_text("prompt", prompt)
        return tuple(self.tokenizer.encode(prompt))

    def node_token_ids(self, node: "TreeNode") -> tuple[int, ...]:
        """The tokens of a node's whole prompt; raises as encode_tree().

        One that is too long is refused at once: the nodes beneath would repeat it.
        """
        with _naming(node):
            token_ids = self.token_ids(node.prompt)
            check_length(len(token_ids), self.model_limits.max_positions)
            return token_ids

    def _encode_node(self, node: "TreeNode", options: RequestOptions) -> EncodedPrompt:
        params = replace(node.params, n=node.num_samples)
        with _naming(node):
            return self.encode(node.prompt, params, node.path, output=node.output, options=options)

    def _encoded(
        self,
        path: tuple[int, ...],
        token_ids: tuple[int, ...],
        params: SamplingParams,
        output: OutputOptions | None,
        options: RequestOptions,
        guided_token_ids: tuple[int, ...] = (),
        modules: ModuleSet | None = None,
    ) -> EncodedPrompt:
        if modules is not None and self.why_no_modules is not None:
            raise NotPossible(f"modules: {self.why_no_modules}")
        output = output or OutputOptions()
        check_output(output)
        arrived_at = self._clock() if options.arrived_at is None else options.arrived_at
        deadline, is_time_limited = _deadline(params, options, arrived_at)
        end_token_ids = self._end_token_ids(params)
        before, num_before = all_tokens(modules, token_ids)
        request = EngineRequest(
            request_id=uuid4().hex,
            prompt_token_ids=token_ids,
            params=self._resolved(params, num_before),
            end_token_ids=end_token_ids,
            namespace=options.namespace,
            tenant=options.tenant,
            priority=options.priority,
            deadline=deadline,
            rules=self._rules(params, before, end_token_ids, guided_token_ids),
            reports_progress=output.progress,
            modules=modules,
        )
        model = self.model_limits
        check_request(request, model.vocabulary_size, model.max_positions)
        check_prompt_length(len(before), self.limits)
        encoded = EncodedPrompt(path, request, arrived_at, output, is_time_limited=is_time_limited)
        _check_drawn("max_tokens", [encoded], self.limits)
        return encoded

    def _resolved(self, params: SamplingParams, prompt_length: int) -> SamplingParams:
        """With a seed, and max_tokens no larger than what the model has room for."""
        room = max(1, self.model_limits.max_positions - prompt_length)
        seed = secrets.randbits(63) if params.seed is None else params.seed
        return replace(params, seed=seed, max_tokens=min(params.max_tokens, room))

    def _end_token_ids(self, params: SamplingParams) -> frozenset[int]:
        own = frozenset() if params.ignore_eos else self.end_token_ids
        return own | frozenset(params.stop_token_ids)

    def _rules(
        self,
        params: SamplingParams,
        token_ids: tuple[int, ...],
        end_token_ids: frozenset[int],
        guided_token_ids: tuple[int, ...],
    ) -> RuleSet | None:
        """None where logits stay as they are."""
        grammar = None
        if params.guidance is not None:
            grammar = self._guide.compile(params.guidance).after(guided_token_ids)
        rules = RuleSet(
            prompt_token_ids=token_ids,
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            logit_bias=params.logit_bias,
            min_tokens=params.min_tokens,
            end_token_ids=end_token_ids,
            grammar=grammar,
        )
        changes = rules.depends_on_tokens or rules.min_tokens > 0 or rules.logit_bias
        return rules if changes else None


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A node of a tree with its whole prompt, and what it inherits."""

    path: tuple[int, ...]
    prompt: Prompt
    params: SamplingParams
    output: OutputOptions
    num_samples: int


def walk_tree(tree: PromptTree, limits: RequestLimits) -> Iterator[TreeNode]:
    """Nodes depth first.

    Raises:
        InvalidRequest: There are too many, they are too deep, or prompts of two kinds are mixed.
    """
    start = TreeNode((), "", SamplingParams(), OutputOptions(), 0)
    stack: list[tuple[PromptTree, tuple[int, ...], TreeNode]] = [(tree, (), start)]
    num_nodes = 0
    while stack:
        node, path, parent = stack.pop()
        num_nodes += 1
        if num_nodes > limits.max_tree_nodes:
            raise InvalidRequest("tree", f"has more than {limits.max_tree_nodes} nodes")
        if len(path) > limits.max_tree_depth:
            raise InvalidRequest("tree", f"is deeper than {limits.max_tree_depth} levels")
        found = TreeNode(
            path=path,
            prompt=_joined(parent.prompt, node, path),
            params=node.params or parent.params,
            output=node.output or parent.output,
            num_samples=_num_samples(node, path, limits.max_n),
        )
        yield found
        below = [(child, (*path, i), found) for i, child in enumerate(node.branches)]
        stack.extend(reversed(below))


def node_name(path: tuple[int, ...]) -> str:
    """A node's field name in errors: "tree.branches[1]"."""
    return "tree" + "".join(f".branches[{index}]" for index in path)


@contextmanager
def _naming(node: TreeNode) -> Iterator[None]:
    """Errors name the node too."""
    try:
        yield
    except InvalidRequest as error:
        name = node_name(node.path)
        raise InvalidRequest(f"{name}.{error.field}", error.description) from None


def _check_drawn(field: str, prompts: Sequence[EncodedPrompt], limits: RequestLimits) -> None:
    drawn = (encoded.request.params.n * encoded.request.params.max_tokens for encoded in prompts)
    check_drawn(field, sum(drawn), limits)


def _with_public(encoded: EncodedPrompt, trunk: tuple[int, ...]) -> EncodedPrompt:
    """The tokens that it has in common with the trunk alone hold no text from beyond it."""
    token_ids = encoded.request.prompt_token_ids
    num_public = 0
    for own, other in zip(token_ids, trunk, strict=False):
        if own != other:
            break
        num_public += 1
    return replace(encoded, request=replace(encoded.request, num_public_tokens=num_public))


def _joined(above: Prompt, node: PromptTree, path: tuple[int, ...]) -> Prompt:
    """The prompt of a node; nodes without one leave it as it is."""
    own = _own_prompt(node, path)
    if not own:
        return above
    if not above:
        return own
    match above, own:
        case str(), str():
            return above + own
        case Chat(), Chat():
            return Chat((*above.messages, *own.messages))
        case tuple(), tuple():
            return (*above, *own)
    raise InvalidRequest(
        f"{node_name(path)}.prompt",
        f"is {_kind(own)}, and the prompt above is {_kind(above)}; all from the trunk down must be "
        "of one kind",
    )


def _own_prompt(node: PromptTree, path: tuple[int, ...]) -> Prompt | None:
    chat = Chat(tuple(node.messages)) if node.messages else None
    given = [prompt for prompt in (node.text, tuple(node.token_ids), chat) if prompt]
    if len(given) > 1:
        raise InvalidRequest(
            f"{node_name(path)}.prompt", "must be one of text, token_ids and messages"
        )
    return given[0] if given else None


def _kind(prompt: Prompt) -> str:
    return {str: "text", Chat: "messages"}.get(type(prompt), "token ids")


def _num_samples(node: PromptTree, path: tuple[int, ...], most: int) -> int:
    if node.n is None:
        return 0 if node.branches else 1
    check_int(f"{node_name(path)}.n", node.n, 0, most)
    return node.n


def _deadline(
    params: SamplingParams, options: RequestOptions, arrived_at: float
) -> tuple[float | None, bool]:
    """The nearer of the call's deadline and the time limit, and whether it is the time limit."""
    if params.time_limit_seconds is None:
        return options.deadline, False
    limit = arrived_at + params.time_limit_seconds
    is_time_limited = options.deadline is None or limit < options.deadline
    return (limit if is_time_limited else options.deadline), is_time_limited

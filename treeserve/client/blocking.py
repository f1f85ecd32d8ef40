"""The client for blocking code: every method of the service in the words of the Python API."""

from collections.abc import Sequence
from types import TracebackType

from treeserve.client import generation_calls
from treeserve.client.blocking_modules import Modules
from treeserve.client.blocking_side import Prefixes, Trees
from treeserve.client.blocking_stream import BlockingConnection, Stream
from treeserve.client.endpoint import MAX_MESSAGE_BYTES, Endpoint, Tls, key_from_environment
from treeserve.client.generation_calls import DEFAULTS
from treeserve.client.retries import NO_RETRIES, Retries
from treeserve.module_prompt import ImportingPrompt
from treeserve.types import (
    Chat,
    OutputOptions,
    Prompt,
    PromptTree,
    RequestOptions,
    SampleName,
    SamplingParams,
    TokenCounts,
)


class Client:
    """A connection that is used by blocking calls; close it, or use it in a `with` statement.

    It may be used by several threads, each stream by one of them. `prefixes` and `trees` hold the
    methods of PrefixService and TreeService, `modules` those of ModuleService.

    Args:
        address: The server's "host:port", or "unix:path".
        tls: Encrypts the connection; None: plain text.
        api_key: Says who calls. None: what the environment has as TREESERVE_API_KEY, if anything.
        insecure: Send the key in plain text to another machine all the same.
        timeout_seconds: Of calls that bring none, their retries among it; None: no limit.
        retries: How often calls are made again where that is safe; None: never.
        keepalive_seconds: Between signs of life while calls run, from 1 to 86400; servers of
            treeserve end connections with less than 10. Default: 30.
        max_message_bytes: Of a message in either direction. Default: 64 MiB.

    Raises:
        ConfigError: Names the option and what would be right.

    Example:
        >>> with Client("127.0.0.1:50051") as client:
        ...     for item in client.generate("Read a number.", SamplingParams(n=4)):
        ...         print(item)
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        api_key: str | None = None,
        insecure: bool = False,
        timeout_seconds: float | None = None,
        retries: Retries | None = Retries(),  # noqa: B008  # frozen
        keepalive_seconds: float = 30.0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        endpoint = Endpoint(
            address=address,
            tls=tls,
            api_key=key_from_environment() if api_key is None else api_key,
            insecure=insecure,
            keepalive_seconds=keepalive_seconds,
            max_message_bytes=max_message_bytes,
        )
        self._address = address
        self._connection = BlockingConnection(endpoint, retries or NO_RETRIES, timeout_seconds)
        self.prefixes = Prefixes(self._connection)
        self.modules = Modules(self._connection)
        self.trees = Trees(self._connection)

    def __repr__(self) -> str:
        return f"Client({self._address!r})"

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what still runs."""
        self._connection.close()

    def generate(
        self,
        prompt: Prompt | ImportingPrompt,
        params: SamplingParams | None = None,
        *,
        output: OutputOptions | None = None,
        options: RequestOptions = DEFAULTS,
        timeout_seconds: float | None = None,
    ) -> Stream:
        """Samples of one prompt, as they grow, or finished by Stream.collect().

        Args:
            prompt: Text, token ids, a chat for the model's own template, or an ImportingPrompt.
            params: How many are drawn and how; None: the defaults.
            output: What to tell beside text; None: the defaults.
            options: The caller's own request id, priority and group.
            timeout_seconds: Of the call; None: the client's.

        Raises:
            InvalidRequest: Names the field and the limit; what the server finds comes with the
                first item of the stream.
            RemoteError: Anything else that goes wrong, from the stream.
        """
        call = generation_calls.generate(prompt, params, output, options)
        return Stream(self._connection, call, self.fork, timeout_seconds)

    def generate_tree(
        self,
        tree: PromptTree,
        *,
        options: RequestOptions = DEFAULTS,
        timeout_seconds: float | None = None,
        modules: ImportingPrompt | None = None,
    ) -> Stream:
        """Samples of a tree of prompts; what the prompts share is computed once. As generate().

        Args:
            tree: Its nodes bring their own parameters.
            options: As of generate(), and whether the trunk is public.
            timeout_seconds: Of the call; None: the client's.
            modules: What all prompts import; the nodes' texts are then own text after its own.
        """
        call = generation_calls.generate_tree(tree, options, modules)
        return Stream(self._connection, call, self.fork, timeout_seconds)

    def fork(
        self,
        parent: SampleName,
        *,
        at: int | None = None,
        n: int = 1,
        params: SamplingParams | None = None,
        output: OutputOptions | None = None,
        options: RequestOptions = DEFAULTS,
        timeout_seconds: float | None = None,
    ) -> Stream:
        """New samples that go on from a token of another, which runs or ended not long ago.

        Its text is not sent again. Text begins after the branch. Samples that were collected, and
        Stream.sample(), have a fork() of their own. As generate().

        Args:
            parent: The sample, by its request's id, its place in a tree and its index.
            at: Tokens of it before the branch; 0 is the end of its prompt, None all of them.
            n: Samples to draw.
            params: How; their own n is not read. None: as the parent, with a fresh seed.
            output: What to tell beside text; needs params.
            options: As of generate().
            timeout_seconds: Of the call; None: the client's.
        """
        call = generation_calls.fork(parent, at, n, params, output, options)
        return Stream(self._connection, call, self.fork, timeout_seconds)

    def abort(
        self,
        request_id: str,
        path: Sequence[int] = (),
        sample_index: int | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> int:
        """End a request, a branch of a tree with all beneath it, or one sample.

        Their streams go on to their end in good order.

        Returns:
            The number of samples that this call ended.

        Raises:
            RemoteError: NOT_FOUND where the caller has no such request.
        """
        call = generation_calls.abort(request_id, path, sample_index)
        return self._connection.unary(call, timeout_seconds)

    def tokenize(
        self,
        prompt: str | Chat,
        *,
        special_tokens: bool = True,
        timeout_seconds: float | None = None,
    ) -> tuple[int, ...]:
        """Token ids of a text or a chat.

        Args:
            prompt: A chat has the special tokens of its template in any case.
            special_tokens: Whether a text begins with those of the model's prompts.
            timeout_seconds: Of the call; None: the client's.
        """
        call = generation_calls.tokenize(prompt, special_tokens)
        return self._connection.unary(call, timeout_seconds)

    def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        special_tokens: bool = False,
        timeout_seconds: float | None = None,
    ) -> str:
        """The text of token ids; bytes that are no character are shown as U+FFFD.

        Args:
            token_ids: Each below the size of the model's vocabulary.
            special_tokens: Whether they are shown.
            timeout_seconds: Of the call; None: the client's.
        """
        call = generation_calls.detokenize(token_ids, special_tokens)
        return self._connection.unary(call, timeout_seconds)

    def count_tokens(
        self,
        prompt: Prompt | PromptTree | ImportingPrompt,
        *,
        modules: ImportingPrompt | None = None,
        timeout_seconds: float | None = None,
    ) -> TokenCounts:
        """Tokens of a prompt or a tree, and what sharing saves of them; nothing is generated.

        Args:
            prompt: As of generate() or generate_tree().
            modules: What all prompts of a tree import; with a tree alone.
            timeout_seconds: Of the call; None: the client's.
        """
        call = generation_calls.count_tokens(prompt, modules)
        return self._connection.unary(call, timeout_seconds)

    def is_serving(self, *, timeout_seconds: float | None = None) -> bool:
        """Whether the server takes calls: False while it loads or drains. Needs no key.

        Raises:
            RemoteError: It cannot be reached; asked once, whatever the retries.
        """
        call = generation_calls.is_serving()
        return self._connection.unary(call, timeout_seconds, NO_RETRIES)

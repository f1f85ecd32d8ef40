"""Which requests callers can name: those that run, and those that ended last."""

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from uuid import uuid4

from treeserve.errors import AlreadyExists, BeyondDrawn, InvalidRequest, NotFound
from treeserve.text_stream import TextStream
from treeserve.types import RequestOptions, SampleName, SamplingParams

MAX_ENDED_TOKENS = 1 << 20
"""Of requests that have ended, prompts and what was drawn, that stay known."""
SAMPLE_TOKENS = 64
"""What a sample counts beside its tokens, so that short ones do not fill the memory."""


class KnownPrompt:
    """A prompt of a request and what its samples have drawn so far."""

    def __init__(self, stream: TextStream) -> None:
        request = stream.encoded.request
        self.engine_id = request.request_id
        self.prompt_token_ids = request.prompt_token_ids
        self.modules = request.modules
        self.num_public_tokens = request.num_public_tokens
        self.params: SamplingParams = request.params
        self.output = stream.encoded.output
        self.guided_token_ids = stream.encoded.guided_token_ids
        """The prompt's last tokens that its grammar has seen."""
        self.drawn: list[array[int]] = stream.drawn

    def before(self, sample_index: int, num_tokens: int | None) -> tuple[int, ...]:
        """The prompt and the first tokens of a sample; None: all that it has drawn.

        Raises:
            InvalidRequest: There is no such sample, or it has not drawn as many.
        """
        if not 0 <= sample_index < len(self.drawn):
            raise InvalidRequest(
                "parent.sample_index",
                f"must be below the parent's {len(self.drawn)} samples, got {sample_index}",
            )
        drawn = self.drawn[sample_index]
        if num_tokens is not None and not 0 <= num_tokens <= len(drawn):
            raise BeyondDrawn(
                "parent.num_tokens",
                f"must be between 0 and the {len(drawn)} tokens that the parent has drawn, "
                f"got {num_tokens}",
            )
        return (*self.prompt_token_ids, *drawn[:num_tokens])

    @property
    def num_tokens(self) -> int:
        """What it counts in the book."""
        return len(self.prompt_token_ids) + sum(len(drawn) + SAMPLE_TOKENS for drawn in self.drawn)


class KnownRequest:
    """A request by the name that its caller knows it by."""

    def __init__(
        self, request_id: str, options: RequestOptions, streams: Iterable[TextStream]
    ) -> None:
        self.namespace = options.namespace
        self.request_id = request_id
        self.group = options.group
        self.prompts = {stream.path: KnownPrompt(stream) for stream in streams}

    @property
    def num_tokens(self) -> int:
        return sum(prompt.num_tokens for prompt in self.prompts.values())


class RequestBook:
    """Every id names one request within its namespace; may be used from any thread.

    Args:
        max_ended_tokens: The oldest requests that have ended are forgotten above it.
    """

    def __init__(self, max_ended_tokens: int = MAX_ENDED_TOKENS) -> None:
        self._max_ended_tokens = max_ended_tokens
        self._num_ended_tokens = 0
        self._running: dict[tuple[str, str], KnownRequest] = {}
        self._ended: OrderedDict[tuple[str, str], KnownRequest] = OrderedDict()
        self._lock = Lock()

    def open(self, options: RequestOptions, streams: Iterable[TextStream]) -> KnownRequest:
        """A request begins.

        Raises:
            AlreadyExists: The id that its caller chose is in use.
        """
        request_id = uuid4().hex if options.request_id is None else options.request_id
        key = options.namespace, request_id
        known = KnownRequest(request_id, options, streams)
        with self._lock:
            if key in self._running or key in self._ended:
                raise AlreadyExists(
                    f"request_id: {request_id!r} is in use by a request that runs or ended lately"
                )
            self._running[key] = known
        return known

    def end(self, known: KnownRequest) -> None:
        """All its samples have ended; it stays known for a while."""
        key = known.namespace, known.request_id
        with self._lock:
            del self._running[key]
            self._ended[key] = known
            self._num_ended_tokens += known.num_tokens
            while self._num_ended_tokens > self._max_ended_tokens:
                _, oldest = self._ended.popitem(last=False)
                self._num_ended_tokens -= oldest.num_tokens

    def drop(self, known: KnownRequest) -> None:
        """It never began."""
        with self._lock:
            del self._running[known.namespace, known.request_id]

    def find(self, namespace: str, request_id: str) -> KnownRequest:
        """A request that runs or ended lately.

        Raises:
            NotFound: There is none of this id in the namespace.
        """
        key = namespace, request_id
        with self._lock:
            known = self._running.get(key) or self._ended.get(key)
        if known is None:
            raise NotFound(f"request_id: no request {request_id!r} runs or ended lately")
        return known

    def find_prompt(self, namespace: str, name: SampleName) -> KnownPrompt:
        """A prompt of a request, by its path.

        Raises:
            NotFound: As find().
            InvalidRequest: The request draws no samples there.
        """
        prompt = self.find(namespace, name.request_id).prompts.get(name.path)
        if prompt is None:
            raise InvalidRequest(
                "parent.path", f"the request draws no samples at {list(name.path)}"
            )
        return prompt

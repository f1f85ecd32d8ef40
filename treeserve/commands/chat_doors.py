"""The two doors of a server as a terminal chat needs them: turns in, pieces of the answer out."""

import http.client
import json
import ssl
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from treeserve.errors import ConfigError, TreeserveError
from treeserve.types import Chat, Delta, FinishReason, Message, SamplingParams

if TYPE_CHECKING:
    from treeserve.client import Client

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ChatFailed(TreeserveError):
    """A server that cannot be reached, or that refused a turn; says why."""


@dataclass(frozen=True, slots=True)
class Piece:
    """More of an answer."""

    text: str
    finish_reason: str | None = None
    """Set on the last."""


class Door(Protocol):
    """Answers turns; closing the iterator ends the work."""

    def answer(
        self, turns: Sequence[Message], params: SamplingParams
    ) -> Generator[Piece, None, None]: ...


class GrpcDoor:
    """The gRPC door, through the client of this package."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def answer(
        self, turns: Sequence[Message], params: SamplingParams
    ) -> Generator[Piece, None, None]:
        with closing(self._client.generate(Chat(tuple(turns)), params)) as stream:
            for item in stream:
                if isinstance(item, Delta):
                    yield Piece(item.text, item.finish_reason)


class HttpDoor:
    """The HTTP door: /v1/chat/completions, streamed. Any server that speaks OpenAI's API will do.

    Args:
        url: "http://host:port", with or without "/v1".
        api_key: None: none is sent.
        insecure: Send the key in plain text to another machine all the same.
        tls_ca: Who may have signed the server's certificate; None: whom the system trusts.
        timeout_seconds: Without a sign of life; None: no limit.

    Raises:
        ConfigError: The URL is none, or the key would be sent in the clear.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        insecure: bool,
        tls_ca: str | None,
        timeout_seconds: float | None,
    ) -> None:
        parts = urlsplit(url)
        try:
            self._port = parts.port
        except ValueError:
            parts = parts._replace(scheme="")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--url: must be like http://127.0.0.1:8000, got {url!r}")
        is_plain = parts.scheme == "http"
        if api_key and is_plain and parts.hostname not in _LOOPBACK and not insecure:
            raise ConfigError(
                "--url: would send the key in plain text to another machine; use https, or allow "
                "it with --insecure"
            )
        self._is_plain, self._host = is_plain, parts.hostname
        self._base = parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        self._api_key, self._tls_ca, self._timeout = api_key, tls_ca, timeout_seconds
        self._model: str | None = None

    def answer(
        self, turns: Sequence[Message], params: SamplingParams
    ) -> Generator[Piece, None, None]:
        self._model = self._model or self._first_model()
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
            "stream": True,
        }
        if params.seed is not None:
            body["seed"] = params.seed
        with closing(self._connect()) as connection:
            response = self._request(connection, "POST", "/chat/completions", body)
            yield from _pieces(response)

    def _first_model(self) -> str:
        with closing(self._connect()) as connection:
            listed = json.loads(self._request(connection, "GET", "/models").read())
        return str(listed["data"][0]["id"])

    def _connect(self) -> http.client.HTTPConnection:
        if self._is_plain:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        context = ssl.create_default_context(cafile=self._tls_ca)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout, context=context
        )

    def _request(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
    ) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method, self._base + path, data, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise ChatFailed(f"cannot reach {self._host}: {error}") from None
        if response.status != 200:
            raise ChatFailed(_reason(response.read(), response.status))
        return response


def _pieces(response: http.client.HTTPResponse) -> Iterator[Piece]:
    try:
        for line in response:
            if not line.startswith(b"data: "):
                continue
            data = line.removeprefix(b"data: ").strip()
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if "error" in event:
                raise ChatFailed(_reason(data, 200))
            for choice in event["choices"]:
                yield Piece(choice["delta"].get("content") or "", choice["finish_reason"])
    except (OSError, http.client.HTTPException) as error:
        raise ChatFailed(f"the answer broke off: {error}") from None


def _reason(data: bytes, status: int) -> str:
    try:
        return str(json.loads(data)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered with the status {status}"


def is_cut(finish_reason: str | None) -> bool:
    """Whether an answer ended before the model had ended it."""
    return finish_reason not in (None, FinishReason.STOP)

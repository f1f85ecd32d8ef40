"""Which path answers what; the OpenAPI document describes the same list."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.convertors import PathConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from treeserve.server.openai import more_schemas as more
from treeserve.server.openai import schemas
from treeserve.server.openai.asked import check_model
from treeserve.server.openai.chats import read_chat
from treeserve.server.openai.completions import read_completion, read_fork_request
from treeserve.server.openai.document import Described, make_document
from treeserve.server.openai.door import Drawn, HttpDoor, Told
from treeserve.server.openai.exchange import Exchange
from treeserve.server.openai.responses import read_response
from treeserve.server.openai.tokens import detokenize, list_models, show_model, tokenize
from treeserve.server.openai.trees import read_tree_request

_DRAWN: dict[str, Drawn[Any]] = {
    "/v1/completions": Drawn("Completions", schemas.CompletionRequest, read_completion),
    "/v1/chat/completions": Drawn("ChatCompletions", schemas.ChatRequest, read_chat),
    "/v1/responses": Drawn("Responses", more.ResponseRequest, read_response),
    "/v1/trees": Drawn("Trees", more.TreeRequest, read_tree_request),
    "/v1/forks": Drawn("Forks", more.ForkRequest, read_fork_request),
}
_TOLD: dict[str, Told[Any]] = {
    "/tokenize": Told("HttpTokenize", more.TokenizeRequest, tokenize),
    "/detokenize": Told("HttpDetokenize", more.DetokenizeRequest, detokenize),
}


class _AnyName(PathConvertor):
    """Line breaks too: who asks for such a model is told as for any other that is not served."""

    regex = "(?s:.*)"


register_url_convertor("any_name", _AnyName())


class _Endpoint:
    """An ASGI application of one path."""

    def __init__(self, answer: Callable[[Exchange], Awaitable[None]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(Exchange(scope, receive, send))


def openai_routes(door: HttpDoor, *, is_described: bool) -> list[BaseRoute]:
    """All paths of the API.

    Args:
        door: Answers.
        is_described: Whether /openapi.json is there.
    """
    routes: list[BaseRoute] = []
    for path, drawn in _DRAWN.items():
        routes.append(_post(path, lambda exchange, method=drawn: door.draw(method, exchange)))
    for path, told in _TOLD.items():
        routes.append(_post(path, lambda exchange, method=told: door.tell(method, exchange)))
    routes.append(_get("/v1/models", lambda x: door.show("Models", list_models, x)))
    routes.append(_get("/v1/models/{model:any_name}", lambda x: _show_model(door, x)))
    if is_described:
        routes.append(Route("/openapi.json", _document))
    return routes


def described() -> dict[str, Described]:
    """What is drawn or told by each path, for the document."""
    drawn = {path: Described(m.name, m.schema, True) for path, m in _DRAWN.items()}
    told = {path: Described(m.name, m.schema, False) for path, m in _TOLD.items()}
    return drawn | told


async def _show_model(door: HttpDoor, exchange: Exchange) -> None:
    name = exchange.request.path_params["model"]

    def answer(served: Any) -> dict[str, Any]:
        check_model(name, served)
        return show_model(served)

    await door.show("Model", answer, exchange)


async def _document(request: Request) -> Response:
    return JSONResponse(make_document(described()))


def _post(path: str, answer: Callable[..., Awaitable[None]]) -> Route:
    return Route(path, _Endpoint(answer), methods=["POST"])


def _get(path: str, answer: Callable[..., Awaitable[None]]) -> Route:
    return Route(path, _Endpoint(answer), methods=["GET"])

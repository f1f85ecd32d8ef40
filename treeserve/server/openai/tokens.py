"""Texts to token ids and back, and what is told of the model."""

from treeserve.errors import InvalidRequest
from treeserve.server.contract import ServedModel, TextService
from treeserve.server.openai.answers import Json
from treeserve.server.openai.asked import check_model
from treeserve.server.openai.chats import read_messages
from treeserve.server.openai.more_schemas import DetokenizeRequest, TokenizeRequest
from treeserve.types import Chat


def tokenize(body: TokenizeRequest, service: TextService, served: ServedModel) -> Json:
    """Token ids of a text or a chat."""
    check_model(body.model, served)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("prompt", "must be given, or messages, and not both")
    prompt = body.prompt or ""
    special_tokens = body.add_special_tokens is not False
    if body.messages is None:
        token_ids = service.tokenize(prompt, special_tokens=special_tokens)
    else:
        token_ids = service.tokenize(Chat(read_messages(body.messages)), special_tokens=True)
    return {"count": len(token_ids), "max_model_len": served.max_positions, "tokens": token_ids}


def detokenize(body: DetokenizeRequest, service: TextService, served: ServedModel) -> Json:
    """Text of token ids."""
    check_model(body.model, served)
    try:
        text = service.detokenize(body.tokens, special_tokens=bool(body.special_tokens))
    except InvalidRequest as error:
        field = error.field.replace("token_ids", "tokens", 1)
        raise InvalidRequest(field, error.description) from None
    return {"prompt": text}


def list_models(served: ServedModel) -> Json:
    """The one that is served."""
    return {"object": "list", "data": [show_model(served)]}


def show_model(served: ServedModel) -> Json:
    """What is known of the model."""
    return {
        "id": served.name,
        "object": "model",
        "created": 0,
        "owned_by": "treeserve",
        "max_model_len": served.max_positions,
    }

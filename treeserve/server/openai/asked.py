"""What a request asks for, in the words of the service layer, and how it is to be answered."""

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from treeserve.errors import InvalidRequest, NotFound
from treeserve.server.contract import ServedModel
from treeserve.server.generating import AskedCall
from treeserve.server.openai.answers import Answer, Head
from treeserve.server.openai.schemas import Delivery
from treeserve.types import Prompt, RequestOptions


class UnknownModel(NotFound):
    """A model that this server does not serve."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One call, in the words of the service layer."""

    call: AskedCall
    answer: Answer
    is_streamed: bool
    param_of: Callable[[str], str] = lambda field: field
    """The name in the request of a field of the service layer."""
    retained: Prompt | None = None
    """To be worth more to the cache for a day."""


@dataclass(frozen=True, slots=True)
class Naming:
    """Names fields of the service layer as a request does."""

    guided_by: str = ""
    """The field that says what the text has to be."""
    renamed: dict[str, str] = field(default_factory=dict)
    """By the beginnings of names."""

    def __call__(self, name: str) -> str:
        bare = name.removeprefix("options.")
        if bare.startswith("guidance.") and self.guided_by:
            return self.guided_by
        for start, new in self.renamed.items():
            if bare == start or re.match(re.escape(start) + r"\W", bare):
                return new + bare[len(start) :]
        return bare


_IN_LIST = re.compile(r"tree\.branches\[(\d+)\]\.(\w+)(.*)")


@dataclass(frozen=True, slots=True)
class NamingOfList:
    """Names fields where prompts of a list became branches of a tree."""

    inner: Naming

    def __call__(self, name: str) -> str:
        found = _IN_LIST.fullmatch(name)
        if found is None:
            return "prompt" if name == "tree" else self.inner(name)
        if found[2] == "prompt":
            return f"prompt[{found[1]}]{found[3]}"
        return self.inner(found[2] + found[3])


def check_model(asked: str | None, served: ServedModel) -> None:
    """Raises UnknownModel unless it is the one that is served, or none is named."""
    if asked is not None and asked != served.name:
        raise UnknownModel(f"the model {asked[:100]!r} is not served here; {served.name!r} is")


def read_options(body: Delivery, prefix: str) -> RequestOptions:
    """How a request is known and queued; an id that is not given begins with the prefix."""
    return RequestOptions(
        request_id=body.request_id or f"{prefix}-{secrets.token_hex(12)}",
        priority=body.priority or 0,
        group=body.group or "",
    )


def head_of(body: Delivery, options: RequestOptions, served: ServedModel) -> Head:
    """What all of an answer has in common."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options", "must not be given without stream")
    return Head(
        answer_id=options.request_id or "",
        model=served.name,
        created=int(time.time()),
        tells_usage=bool(body.stream_options and body.stream_options.include_usage),
        tells_token_ids=bool(body.return_token_ids),
    )

"""The Python way: decorated functions whose source compiles to schemas."""

import inspect
import types
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

from treeserve.pml.check import check_schema
from treeserve.pml.place import Place, PmlError
from treeserve.pml.python_body import Choice, Flag, Room, Subroutine, compile_body
from treeserve.pml.python_source import PythonSource
from treeserve.pml.tags import ScaffoldTag, Schema

Use: TypeAlias = Flag | Choice | Room


@dataclass(frozen=True, slots=True)
class MaxTokens:
    """In an annotation, Annotated[str, MaxTokens(20)]: the length of a parameter."""

    length: int


@dataclass(frozen=True, slots=True)
class Turn:
    """`with system():`, `with user():` and `with assistant():` are turns of a chat."""

    role: str

    def __call__(self) -> AbstractContextManager[None]:
        """Raise TypeError: it is compiled, never run."""
        raise TypeError(f"{self.role}() says what a @schema function compiles to; it is never run")


system = Turn("system")
user = Turn("user")
assistant = Turn("assistant")


@dataclass(frozen=True, slots=True, eq=False)
class PythonSchema:
    """A decorated function: a schema, and a module of other schemas that call it."""

    name: str
    subroutine: Subroutine
    scaffolds: Mapping[str, tuple[str, ...]]

    def build(self) -> Schema:
        """The schema.

        Raises:
            PmlError: Says in which line something is wrong.
        """
        place = self.subroutine.place
        scaffolds = [ScaffoldTag(name, tuple(m), place) for name, m in self.scaffolds.items()]
        schema = Schema(self.name, (*self.subroutine.content, *scaffolds), place)
        check_schema(schema)
        return schema

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Raise TypeError: what the function says is compiled, it is never run."""
        raise TypeError(
            f"{self.name} is a schema and cannot be run; {self.name}.build() is what it says"
        )


def schema(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    cache: bool = True,
    scaffolds: Mapping[str, tuple[str, ...]] | None = None,
) -> Any:
    """Compile a function to a schema, by its source.

    In its body a string or an f-string is text; `{x}` in it, or `x` alone, is the parameter of that
    name, or a string from around the function. `if x:` is a module called x that a prompt may
    import, and with `else` a union with the module not-x. `match x:` is a union of modules called
    as its cases. A call of another decorated function is a module of that name. `with user():` is a
    turn. The scheme is Prompt Cache's prompt programs (MLSys 2024).

    Parameters are annotated: `Annotated[str, MaxTokens(20)]` for text, `bool` for an `if`,
    `Literal["a", "b"]` for a `match`.

    Args:
        function: To compile.
        name: Of the schema or module; the function's by default.
        cache: As the attribute of <module>, where another function calls this one.
        scaffolds: Names of modules that are encoded together too, by the scaffold's name.

    Returns:
        A PythonSchema, or a decorator where the function is left out.

    Raises:
        PmlError: Names file and line of what cannot be compiled.
    """

    def decorate(function: Callable[..., Any]) -> PythonSchema:
        if not isinstance(function, types.FunctionType):
            raise TypeError("@schema is for functions that are defined with def")
        source = PythonSource.of(function)
        own_name = function.__name__ if name is None else name
        content = compile_body(source, _uses(function, source.place), _names_around(function))
        subroutine = Subroutine(own_name, content, cache, source.place)
        return PythonSchema(own_name, subroutine, dict(scaffolds or {}))

    return decorate if function is None else decorate(function)


def _uses(function: types.FunctionType, place: Place) -> dict[str, Use]:
    """What each parameter of the function is for, by its annotation."""
    try:
        annotations = inspect.get_annotations(function, eval_str=True)
    except (NameError, SyntaxError, TypeError, AttributeError) as error:
        raise PmlError(place, f"an annotation cannot be evaluated: {error}") from None
    parameters = inspect.signature(function).parameters.values()
    return {p.name: _use(p, annotations.get(p.name), place) for p in parameters}


def _use(parameter: inspect.Parameter, annotation: object, place: Place) -> Use:
    is_plain = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    if is_plain and parameter.default is parameter.empty:
        if annotation is bool:
            return Flag()
        values = get_args(annotation)
        if get_origin(annotation) is Literal and all(isinstance(v, str) for v in values):
            return Choice(values)
        if get_origin(annotation) is Annotated and values[0] is str:
            lengths = [value.length for value in values[1:] if isinstance(value, MaxTokens)]
            if len(lengths) == 1:
                return Room(lengths[0])
    raise PmlError(
        place,
        f"parameter {parameter.name!r} of the function; expected one without a default, annotated "
        'as Annotated[str, MaxTokens(20)], bool or Literal["a", "b"]',
    )


def _names_around(function: types.FunctionType) -> dict[str, object]:
    """What the names in its body stand for: strings, other schemas, turns."""
    around = dict(inspect.getclosurevars(function).globals)
    around.update(inspect.getclosurevars(function).nonlocals)
    meant: dict[str, object] = {}
    for name, value in around.items():
        if isinstance(value, PythonSchema):
            meant[name] = value.subroutine
        elif isinstance(value, Turn):
            meant[name] = value.role
        elif isinstance(value, str):
            meant[name] = (value,)
    return meant

"""Compiles the body of a Python function to the content of a schema or a module."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from treeserve.pml.place import Place, PmlError
from treeserve.pml.python_source import PythonSource
from treeserve.pml.tags import (
    ModuleTag,
    Node,
    ParameterTag,
    ScaffoldTag,
    SchemaNode,
    Text,
    TurnTag,
    UnionTag,
    join_texts,
)
from treeserve.pml.whitespace import text_between

_EXPECTED = (
    "expected a string, an f-string, a parameter, a call of another @schema function, if, match, "
    "or with system(), user() or assistant()"
)


@dataclass(frozen=True, slots=True)
class Flag:
    """A parameter that an `if` asks for."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A parameter that a `match` asks for."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Room:
    """A parameter that stands in text."""

    length: int


@dataclass(frozen=True, slots=True)
class Subroutine:
    """What another function's call stands for."""

    name: str
    content: tuple[SchemaNode, ...]
    cache: bool
    place: Place


Use: TypeAlias = Flag | Choice | Room


def compile_body(
    source: PythonSource, uses: Mapping[str, Use], around: Mapping[str, object]
) -> tuple[SchemaNode, ...]:
    """What a function's body says.

    Args:
        source: Of the function.
        uses: Its parameters, by name.
        around: Names from outside: a Subroutine, a turn's role, or a string, alone in a tuple.

    Raises:
        PmlError: Names the line of what cannot be compiled, or of a parameter that is never used.
    """
    compiler = _BodyCompiler(source, uses, around)
    content = compiler.statements(source.function.body, is_top=True)
    unused = next((name for name in uses if name not in compiler.used), None)
    if unused is not None:
        raise PmlError(source.place, f"parameter {unused!r} is never used; expected it in the body")
    return content


class _BodyCompiler:
    def __init__(
        self, source: PythonSource, uses: Mapping[str, Use], around: Mapping[str, object]
    ) -> None:
        self._source = source
        self._uses = uses
        self._around = around
        self.used: set[str] = set()

    def statements(
        self, body: Sequence[ast.stmt], *, is_top: bool = False
    ) -> tuple[SchemaNode, ...]:
        content: list[SchemaNode] = []
        for statement in body:
            if isinstance(statement, ast.With) and is_top:
                content.append(self._turn(statement))
            else:
                content += self._statement(statement)
        return join_texts(content)

    def _statement(self, statement: ast.stmt) -> list[Node]:
        match statement:
            case ast.Expr(value=ast.Constant(value=str()) | ast.JoinedStr() as string):
                return self._string(string)
            case ast.Expr(value=ast.Name() as name):
                return [self._name(name)]
            case ast.Expr(value=ast.Call() as call):
                return [self._call(call)]
            case ast.If():
                return [self._if(statement)]
            case ast.Match():
                return [self._match(statement)]
            case ast.Pass():
                return []
        raise self._error(statement, f"{_called(statement)} cannot be compiled; {_EXPECTED}")

    def _inside(self, body: Sequence[ast.stmt]) -> tuple[Node, ...]:
        content = self.statements(body)
        return tuple(node for node in content if not isinstance(node, TurnTag | ScaffoldTag))

    def _string(self, node: ast.expr) -> list[Node]:
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        is_block = self._source.is_triple_quoted(node)
        place = self._source.place_of(node)
        nodes: list[Node] = []
        for index, part in enumerate(parts):
            if isinstance(part, ast.Constant):
                text = str(part.value)
                if is_block:
                    text = text_between(
                        text, follows_inline=index > 0, precedes_inline=index < len(parts) - 1
                    )
                nodes.append(Text(text, place))
            else:
                nodes.append(self._formatted(part, node))
        return nodes

    def _formatted(self, part: ast.expr, string: ast.expr) -> Node:
        match part:
            case ast.FormattedValue(value=ast.Name() as name, conversion=-1, format_spec=None):
                return self._name(name, string)
        raise self._error(string, "an f-string with more than names in braces; expected {name}")

    def _name(self, name: ast.Name, at: ast.expr | None = None) -> Node:
        at = at or name
        place = self._source.place_of(at)
        use = self._uses.get(name.id)
        if isinstance(use, Room):
            self.used.add(name.id)
            return ParameterTag(name.id, use.length, place)
        match self._around.get(name.id):
            case (str() as text,):
                return Text(text.replace("\r\n", "\n").replace("\r", "\n"), place)
        raise self._error(
            at, f"{name.id!r} is no text; expected a parameter with MaxTokens or a string constant"
        )

    def _call(self, call: ast.Call) -> ModuleTag:
        name = call.func.id if isinstance(call.func, ast.Name) else None
        callee = self._around.get(name) if name else None
        if not isinstance(callee, Subroutine):
            raise self._error(
                call,
                f"{ast.unparse(call.func)} is not known here as a @schema function; expected one "
                "that is defined above (none can call itself)",
            )
        if call.args or call.keywords:
            raise self._error(
                call,
                f"{name}(…) with arguments; expected {name}(), as a prompt gives the arguments "
                "where it imports the module",
            )
        for node in callee.content:
            if isinstance(node, TurnTag):
                raise self._error(
                    call, f"{name}() has turns; expected a function that is no chat by itself"
                )
        content = tuple(n for n in callee.content if not isinstance(n, TurnTag | ScaffoldTag))
        place = self._source.place_of(call)
        return ModuleTag(callee.name, content, callee.cache, place=place)

    def _if(self, statement: ast.If) -> ModuleTag | UnionTag:
        names: list[str] = []
        members: list[ModuleTag] = []
        rest: list[ast.stmt] = [statement]
        while len(rest) == 1 and isinstance(rest[0], ast.If):
            branch = rest[0]
            names.append(self._flag(branch.test))
            members.append(self._module(names[-1], branch.body, branch))
            rest = branch.orelse
        if rest:
            members.append(self._module("-".join(["not", *names]), rest, rest[0]))
        return (
            members[0]
            if len(members) == 1
            else UnionTag(tuple(members), self._source.place_of(statement))
        )

    def _flag(self, test: ast.expr) -> str:
        if not isinstance(test, ast.Name) or not isinstance(self._uses.get(test.id), Flag):
            raise self._error(
                test, f"if {ast.unparse(test)}; expected a parameter alone, annotated as bool"
            )
        self.used.add(test.id)
        return test.id

    def _match(self, statement: ast.Match) -> UnionTag:
        subject = statement.subject
        use = self._uses.get(subject.id) if isinstance(subject, ast.Name) else None
        if not isinstance(subject, ast.Name) or not isinstance(use, Choice):
            raise self._error(
                subject,
                f"match {ast.unparse(subject)}; expected a parameter alone, annotated as Literal",
            )
        self.used.add(subject.id)
        members = [self._case(case, subject.id, use.values) for case in statement.cases]
        return UnionTag(tuple(members), self._source.place_of(statement))

    def _case(self, case: ast.match_case, subject: str, values: tuple[str, ...]) -> ModuleTag:
        match case:
            case ast.match_case(
                pattern=ast.MatchValue(value=ast.Constant(value=str() as value)), guard=None
            ) if value in values:
                return self._module(value, case.body, case.pattern)
            case ast.match_case(pattern=ast.MatchAs(pattern=None, name=None), guard=None):
                return self._module(f"other-{subject}", case.body, case.pattern)
        listed = ", ".join(map(repr, values))
        raise self._error(
            case.pattern, f"case {ast.unparse(case.pattern)}; expected one of {listed}, or _"
        )

    def _module(self, name: str, body: Sequence[ast.stmt], at: ast.AST) -> ModuleTag:
        return ModuleTag(name, self._inside(body), place=self._source.place_of(at))

    def _turn(self, statement: ast.With) -> TurnTag:
        match statement.items:
            case [
                ast.withitem(
                    context_expr=ast.Call(func=ast.Name(id=name), args=[], keywords=[]),
                    optional_vars=None,
                )
            ] if isinstance(role := self._around.get(name), str):
                content = self._inside(statement.body)
                return TurnTag(role, content, self._source.place_of(statement))
        raise self._error(
            statement, "with …; expected with system():, with user(): or with assistant():"
        )

    def _error(self, node: ast.AST, description: str) -> PmlError:
        return PmlError(self._source.place_of(node), description)


def _called(statement: ast.stmt) -> str:
    if isinstance(statement, ast.Expr):
        return f"{ast.unparse(statement.value)[:40]!r}"
    return f"a statement of Python ({type(statement).__name__})"

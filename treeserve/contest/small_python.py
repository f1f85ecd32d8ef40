"""The small Python that candidate programs must keep to: statements, builtins and methods by name,
nothing else.
"""

import ast

MAX_CHARACTERS = 4000

BUILTINS = frozenset(
    [
    "abs", "all", "any", "bool", "chr", "dict", "divmod", "enumerate", "filter", "float", "input",
    "int", "len", "list", "map", "max", "min", "ord", "pow", "print", "range", "reversed", "round",
    "set", "sorted", "str", "sum", "tuple", "zip",
    ]
)  # fmt: skip

METHODS = frozenset(
    [
    "add", "append", "capitalize", "clear", "copy", "count", "difference", "discard", "endswith",
    "extend", "find", "get", "index", "insert", "intersection", "isalpha", "isdigit", "islower",
    "isupper", "items", "join", "keys", "lower", "lstrip", "pop", "remove", "replace", "reverse",
    "rstrip", "sort", "split", "splitlines", "startswith", "strip", "swapcase", "title", "union",
    "update", "upper", "values",
    ]
)  # fmt: skip

_STATEMENTS: tuple[type[ast.AST], ...] = (
    ast.Module, ast.Assign, ast.AugAssign, ast.Expr, ast.For, ast.While, ast.If, ast.Break,
    ast.Continue, ast.Pass, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Lambda,
)  # fmt: skip
_EXPRESSIONS: tuple[type[ast.AST], ...] = (
    ast.Name, ast.Constant, ast.Attribute, ast.Call, ast.keyword, ast.Starred, ast.Subscript,
    ast.Slice, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp, ast.SetComp, ast.DictComp,
    ast.GeneratorExp, ast.comprehension, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare,
    ast.IfExp, ast.JoinedStr, ast.FormattedValue,
    ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_ALLOWED = _STATEMENTS + _EXPRESSIONS


def refusal(program: str) -> str | None:
    """Why a program is not run; None where it may be.

    Names with two underscores in a row, attributes other than whitelisted methods, imports,
    classes, exceptions, decorators, and everything that was not thought of are refused. What a
    program computes is not looked at: the limits of the child process are for that.
    """
    if len(program) > MAX_CHARACTERS:
        return f"longer than {MAX_CHARACTERS} characters"
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"not Python: {error}"
    assigned = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assigned |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    assigned |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        reason = _node_refusal(node, assigned)
        if reason is not None:
            return f"line {getattr(node, 'lineno', 1)}: {reason}"
    return None


def _node_refusal(node: ast.AST, assigned: set[str]) -> str | None:
    if not isinstance(node, _ALLOWED):
        return f"{type(node).__name__} is not allowed"
    if isinstance(node, ast.Attribute) and node.attr not in METHODS:
        return f"attribute {node.attr!r} is not allowed"
    if isinstance(node, ast.FunctionDef) and node.decorator_list:
        return "decorators are not allowed"
    name = _name_of(node)
    if name is not None and "__" in name:
        return f"name {name!r} is not allowed"
    if isinstance(node, ast.Name) and name not in BUILTINS and name not in assigned:
        return f"name {name!r} is not known"
    return None


def _name_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.FunctionDef):
        return node.name
    return node.arg if isinstance(node, ast.arg | ast.keyword) else None

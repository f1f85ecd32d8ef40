"""The source of a Python function: its syntax tree, and the place of everything in it."""

import ast
import inspect
import textwrap
import types
from dataclasses import dataclass

from treeserve.pml.place import Place, PmlError


@dataclass(frozen=True, slots=True)
class PythonSource:
    """A function's source without the indentation that it stands in."""

    file: str
    text: str
    function: ast.FunctionDef
    first_line: int
    indentation: int

    @classmethod
    def of(cls, function: types.FunctionType) -> "PythonSource":
        """Read it from the function's file.

        Raises:
            PmlError: There is no source, or it is not that of a plain function.
        """
        file = function.__code__.co_filename
        try:
            lines, first_line = inspect.getsourcelines(function)
        except (OSError, TypeError):
            raise PmlError(
                Place(file, function.__code__.co_firstlineno),
                f"the source of {function.__name__} cannot be read; expected a function in a file",
            ) from None
        text = textwrap.dedent("".join(lines))
        indentation = len(lines[0]) - len(lines[0].lstrip(" \t"))
        [node] = ast.parse(text).body
        if not isinstance(node, ast.FunctionDef):
            raise PmlError(Place(file, first_line), "expected a function defined with def")
        return cls(file, text, node, first_line, indentation)

    @property
    def place(self) -> Place:
        """Of the function's name."""
        return self.place_of(self.function)

    def place_of(self, node: ast.AST) -> Place:
        """Where a part of it is written."""
        line: int = getattr(node, "lineno", 1)
        num_bytes: int = getattr(node, "col_offset", 0)
        before = self.text.splitlines()[line - 1].encode()[:num_bytes].decode(errors="replace")
        column = len(before) + 1 + self.indentation
        return Place(self.file, self.first_line + line - 1, column)

    def is_triple_quoted(self, node: ast.expr) -> bool:
        """Whether a string is written over lines, with an indentation that means nothing."""
        segment = ast.get_source_segment(self.text, node) or ""
        return segment.lstrip("rRfFuUbB").startswith(('"""', "'''"))

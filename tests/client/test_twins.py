"""The client for asyncio and the blocking one are the same client: what one can do, both can."""

import ast
import inspect
import re
from importlib import import_module
from itertools import zip_longest
from pathlib import Path

import pytest

import treeserve.client

TWINS = [
    ("asynchronous", "blocking"),
    ("async_stream", "blocking_stream"),
    ("async_modules", "blocking_modules"),
    ("async_side", "blocking_side"),
    ("async_admin", "blocking_admin"),
]
RENAMED = [
    (r"\bAsync(?=[A-Z])", ""),
    (r"\bBlocking(?=[A-Z])", ""),
    (r"\b__a(?=(enter|exit|iter|next)__)", "__"),
    (r"\baclose\b", "close"),
    (r"\b(async|await) ", ""),
    (r"(Generator\[\w+, None), None\]", r"\1]"),
]
"""What asyncio has to call otherwise, by what it becomes here."""
CARRIERS = {"Connection"}
"""Classes that no caller sees: each is written in the words of its gRPC."""


def in_common_words(text: str) -> str:
    for name, plain in RENAMED:
        text = re.sub(name, plain, text)
    return text


def public_classes(source: str) -> dict[str, ast.ClassDef]:
    parts = ast.parse(source).body
    classes = {in_common_words(p.name): p for p in parts if isinstance(p, ast.ClassDef)}
    return {n: p for n, p in classes.items() if not n.startswith("_") and n not in CARRIERS}


def outline(method: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """What its callers see: decorators, parameters in order, types, defaults, what it says."""
    decorators = [f"@{ast.unparse(decorator)}" for decorator in method.decorator_list]
    returns = "" if method.returns is None else ast.unparse(method.returns).strip("'")
    head = f"{method.name}({ast.unparse(method.args)}) -> {returns}"
    said = ast.get_docstring(method) or ""
    return "\n".join([*decorators, in_common_words(head), in_common_words(said)])


def outlines(part: ast.ClassDef) -> dict[str, str]:
    methods = (m for m in part.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef))
    return {
        in_common_words(method.name): outline(method)
        for method in methods
        if not method.name.startswith("_") or method.name.startswith("__")
    }


def source_of(module: str) -> str:
    return inspect.getsource(import_module(f"treeserve.client.{module}"))


def differences(asynchronous_source: str, blocking_source: str) -> list[str]:
    """A sentence for each class or method that only one has, or that callers see otherwise."""
    mine, other = public_classes(asynchronous_source), public_classes(blocking_source)
    found = [f"only one has the class {name}" for name in sorted(mine.keys() ^ other.keys())]
    for name in mine.keys() & other.keys():
        methods, twins = outlines(mine[name]), outlines(other[name])
        # In the same order, too: whoever reads both finds the place.
        if list(methods) != list(twins):
            pairs = zip_longest(methods, twins)
            found.append(f"{name}: " + "; ".join(f"{a} / {b}" for a, b in pairs if a != b))
        found += [
            f"{name}.{method}:\n{methods[method]}\n--\n{twins[method]}"
            for method in methods.keys() & twins.keys()
            if methods[method] != twins[method]
        ]
    return found


@pytest.mark.parametrize(("asyncio_module", "blocking_module"), TWINS)
def test_both_clients_have_the_same_methods_parameters_defaults_and_words(
    asyncio_module, blocking_module
):
    """Or a program that is moved from one to the other breaks, or does something else."""
    assert differences(source_of(asyncio_module), source_of(blocking_module)) == []


def test_no_module_of_either_client_is_left_out():
    folder = Path(treeserve.client.__file__).parent
    clients = {file.stem for file in folder.glob("*.py") if re.match("async|blocking", file.stem)}
    assert clients == {module for pair in TWINS for module in pair}


def test_who_imports_the_package_finds_both_of_each():
    exported = treeserve.client.__all__
    for name in exported:
        if name.startswith("Async"):
            assert name.removeprefix("Async") in exported


ONE = '''
class AsyncThing:
    """Asks."""

    async def ask(self, text: str, *, n: int = 1) -> "AsyncThing":
        """Ask once; AsyncThing.end() ends it."""

    @property
    def size(self) -> int:
        """How many."""
'''
TWIN = '''
class Thing:
    """Asks and waits."""

    def ask(self, text: str, *, n: int = 1) -> "Thing":
        """Ask once; Thing.end() ends it."""

    @property
    def size(self) -> int:
        """How many."""
'''


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        ("class Thing", "class Other"),
        ("def size", "def sizes"),
        ("text: str", "text: bytes"),
        ("text: str, *,", "text: str,"),
        ("n: int = 1", "n: int = 2"),
        (", *, n: int = 1", ""),
        ("Ask once", "Ask twice"),
        ("    @property\n", ""),
    ],
)
def test_a_client_that_parts_from_its_twin_is_noticed(words, instead):
    assert differences(ONE, TWIN) == []
    assert words in TWIN
    assert differences(ONE, TWIN.replace(words, instead)) != []

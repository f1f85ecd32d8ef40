"""Runs inside the sandbox, started by file name: calls a sample's functions, from tests that the
sample never sees.

This process reads the task (arguments, or tests) and reports on stdout, with the task's nonce. The
sample lives in a child that has neither, and they exchange literals; what is not a literal stays in
the child, and tests hold a reference to it. So a sample cannot read what is expected, nor report,
nor return something that equals everything.
"""

import builtins
import ctypes
import json
import math
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_NOT_DUMPABLE = 4
_MODULES = {"cmath", "collections", "datetime", "heapq", "itertools", "math", "re", "sys"}
_PRELUDE = """
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
"""
"""What LeetCode's starter code takes for granted."""


def main() -> None:
    # Nobody of the same user may read this process's memory or its descriptors.
    ctypes.CDLL(None).prctl(_NOT_DUMPABLE, 0, 0, 0, 0)
    mine, theirs = socket.socketpair()
    report = os.fdopen(os.dup(1), "w")
    if os.fork() == 0:
        os.dup2(theirs.detach(), 3)
        os.closerange(4, 1024)
        serve(socket.socket(socket.AF_UNIX, fileno=3))
        os._exit(0)
    theirs.close()
    task = json.load(sys.stdin)
    # Others hold this file open too, so it must be empty before the sample begins.
    os.ftruncate(0, 0)
    link = Link(mine)
    link.start()
    report.write(json.dumps({"nonce": task["nonce"], **answer(link, task)}))
    report.flush()
    os._exit(0)


def answer(link: "Link", task: dict[str, Any]) -> dict[str, Any]:
    """What came of the task: `value`, or `passed`, or `error` with how it failed."""
    try:
        if "arguments" in task:
            value = link.call(link.ask("name", task["function"]), task["arguments"], {})
            return {"value": link.plain(value)}
        run_tests(link, task)
        return {"passed": True}
    except SampleFailed as error:
        return {"error": "sample", "detail": str(error)}
    except AssertionError as error:
        return {"error": "assertion", "detail": str(error)[:200]}
    except Exception as error:
        return {"error": "test", "detail": f"{type(error).__name__}: {str(error)[:200]}"}


def run_tests(link: "Link", task: dict[str, Any]) -> None:
    """Run the setup and the tests; the names that they use and do not define are the sample's.

    Never the names of builtins or of standard modules: with an `all` of its own a sample would pass
    any test.
    """
    used = set(re.findall(r"\w+", task["setup"] + " " + task["code"]))
    names: dict[str, Any] = {"__name__": "tests"}
    for name in used & set(link.ask("names")):
        if not hasattr(builtins, name) and name not in sys.stdlib_module_names:
            names[name] = link.ask("name", name)
    for name in used & _MODULES:
        names[name] = __import__(name)
    exec(compile(task["setup"], "setup", "exec"), names)
    if task["function"] is not None:  # the prompt's own has no body
        names[task["function"]] = link.ask("name", task["function"])
    exec(compile(task["code"], "tests", "exec"), names)


class SampleFailed(Exception):
    """The sample raised, ended, or did not answer with sense."""


class Reference:
    """Something that stays with the sample: it can be called, asked, changed and handed back."""

    __slots__ = ("_i", "_link")

    def __init__(self, link: "Link", i: int) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_i", i)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._link.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._link.ask("item", self, key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._link.ask("list", self))

    def __len__(self) -> int:
        return len(self._link.ask("list", self))


class Link:
    """The tests' end: a request, an answer."""

    def __init__(self, channel: socket.socket) -> None:
        self._file = channel.makefile("rw", encoding="utf-8", newline="\n")

    def start(self) -> None:
        """Let the sample begin."""
        self._file.write("\n")
        self._file.flush()

    def ask(self, *request: Any) -> Any:
        try:
            self._file.write(json.dumps(packed(request)) + "\n")
            self._file.flush()
            line = self._file.readline(1 << 26)
            reply = json.loads(line) if line else None
        except (OSError, ValueError):
            reply = None
        if not isinstance(reply, list) or len(reply) != 2:
            raise SampleFailed("the program ended before it answered")
        if reply[0] != "ok":
            raise SampleFailed(str(reply[1])[:300])
        try:
            return unpacked(reply[1], lambda i: Reference(self, i))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise SampleFailed("the program's answer made no sense") from None

    def call(self, function: Any, args: Iterable[Any], kwargs: dict[str, Any]) -> Any:
        return self.ask("call", function, list(args), dict(kwargs))

    def plain(self, value: Any) -> Any:
        """As JSON has it; tuples become lists."""
        if isinstance(value, Reference):
            value = list(value)
        return json.loads(json.dumps(value, default=sorted))


def serve(channel: socket.socket) -> None:
    """The sample's end. Its stdin is empty and its prints go nowhere."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.setrecursionlimit(20000)
    file = channel.makefile("rw", encoding="utf-8", newline="\n")
    kept: list[Any] = []
    file.readline()
    try:
        with open(sys.argv[1], "rb") as source:
            code = compile(source.read(), "main.py", "exec")
        names = {"__name__": "__main__", "__builtins__": builtins}
        if sys.argv[2:] == ["prelude"]:
            exec(_PRELUDE, names)
        failure = None
        exec(code, names)
    except BaseException as error:
        failure = said(error)
    for line in file:
        try:
            if failure is not None:
                raise RuntimeError(failure)
            request = unpacked(json.loads(line), kept.__getitem__)
            reply = ["ok", packed(perform(names, *request), kept)]
        except BaseException as error:
            reply = ["error", failure or said(error)]
        file.write(json.dumps(reply) + "\n")
        file.flush()


def perform(names: dict[str, Any], kind: str, *rest: Any) -> Any:
    if kind == "names":
        return [name for name in names if isinstance(name, str)]
    if kind == "name":
        return named(names, rest[0])
    if kind == "call":
        return rest[0](*rest[1], **rest[2])
    if kind == "get":
        return getattr(rest[0], rest[1])
    if kind == "set":
        return setattr(rest[0], rest[1], rest[2])
    if kind == "item":
        return rest[0][rest[1]]
    return list(rest[0])


def named(names: dict[str, Any], name: str) -> Any:
    """A function of the sample, or a method of its class Solution."""
    if name in names:
        return names[name]
    solution = names.get("Solution")
    if solution is not None and hasattr(solution, name):
        return getattr(solution(), name)
    raise NameError(f"name {name!r} is not defined")


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def packed(value: Any, kept: list[Any] | None = None) -> Any:
    """Literals as JSON; other things by their number in `kept`."""
    if isinstance(value, Reference):
        return {"r": value._i}
    for kind, pack in _PACKERS:
        if isinstance(value, kind):
            return pack(value, kept)
    if kept is None:
        raise SampleFailed(f"a {type(value).__name__} cannot be handed to the program")
    kept.append(value)
    return {"r": len(kept) - 1}


def packed_all(values: Iterable[Any], kept: list[Any] | None) -> list[Any]:
    return [packed(value, kept) for value in values]


_PACKERS: tuple[tuple[Any, Callable[[Any, Any], Any]], ...] = (
    ((type(None), bool), lambda value, kept: value),
    (str, lambda value, kept: str(value)),
    (int, lambda value, kept: int(value) if abs(value) < 1 << 53 else {"int": hex(value)}),
    (float, lambda value, kept: float(value) if math.isfinite(value) else {"float": repr(value)}),
    (complex, lambda value, kept: {"complex": repr(value)}),
    (bytes, lambda value, kept: {"bytes": value.hex()}),
    (list, lambda value, kept: packed_all(value, kept)),
    (tuple, lambda value, kept: {"tuple": packed_all(value, kept)}),
    (set, lambda value, kept: {"set": packed_all(value, kept)}),
    (frozenset, lambda value, kept: {"frozenset": packed_all(value, kept)}),
    (dict, lambda value, kept: {"dict": [packed_all(pair, kept) for pair in value.items()]}),
)
_SCALARS: dict[str, Callable[[Any], Any]] = {
    "int": lambda held: int(held, 16),
    "float": float,
    "complex": complex,
    "bytes": bytes.fromhex,
}
_CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
}


def unpacked(value: Any, reference: Callable[[int], Any]) -> Any:
    if isinstance(value, list):
        return [unpacked(entry, reference) for entry in value]
    if not isinstance(value, dict):
        return value
    [(kind, held)] = value.items()
    if kind == "r":
        return reference(held)
    if kind in _SCALARS:
        return _SCALARS[kind](held)
    return _CONTAINERS[kind](unpacked(entry, reference) for entry in held)


if __name__ == "__main__":
    main()

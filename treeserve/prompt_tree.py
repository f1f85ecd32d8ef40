"""Reads a tree of prompts from a JSON file, with errors that name the file and the place in it.

A node is an object: {"text": "…", "n": 4, "params": {"temperature": 0.7}, "branches": […]}. Only
"text" is required. "params" takes the fields of SamplingParams except n, logit_bias, guidance and
prompt_logprobs.
Ranges are checked by `treeserve.request_checks`, like those of every other request.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from treeserve.errors import InvalidRequest, TreeserveError
from treeserve.types import MAX_TREE_DEPTH, PromptTree, SamplingParams

"""Levels of branches above the trunk."""

_NODE_KEYS = ("text", "n", "params", "branches")


class TreeFileError(TreeserveError, ValueError):
    """A tree file that cannot be used; names the file, the JSON path and what would be right."""

    def __init__(self, file: Path, json_path: str, description: str) -> None:
        where = f"{file}: {json_path}" if json_path else str(file)
        super().__init__(f"{where}: {description}")


def read_tree_file(file: Path, defaults: SamplingParams | None = None) -> PromptTree:
    """Read a tree of prompts; `defaults` stand for what a node's params leave out.

    Raises TreeFileError where the file is missing, is not JSON, or has another shape.
    """
    return _TreeReader(file, defaults or SamplingParams()).read()


def tree_file_error(file: Path, error: InvalidRequest) -> TreeFileError:
    """The error of a tree that came from a file, in terms of the file."""
    node, _, name = error.field.rpartition(".")
    bare = name.partition("[")[0]
    if node and bare == "prompt":
        name = "text"
    elif bare in _PARAMS:
        name = f"params.{name}"
    path = f"{node}.{name}" if node else name
    return TreeFileError(file, path.removeprefix("tree").removeprefix("."), error.description)


class _TreeReader:
    """Knows the file's name for errors and the values of parameters that are left out."""

    def __init__(self, file: Path, defaults: SamplingParams) -> None:
        self._file = file
        self._defaults = defaults

    def read(self) -> PromptTree:
        root = self._node(self._load(), "", 0)
        return root if root.params is not None else replace(root, params=self._defaults)

    def _load(self) -> object:
        try:
            text = self._file.read_text(encoding="utf-8")
            return json.loads(
                text, object_pairs_hook=self._unique_keys, parse_constant=self._no_constant
            )
        except OSError as error:
            self._fail("", f"cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            self._fail("", f"not valid UTF-8 at byte {error.start}")
        except json.JSONDecodeError as error:
            self._fail("", f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
        except RecursionError:
            self._fail("", f"is deeper than {MAX_TREE_DEPTH} levels")

    def _unique_keys(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        record = dict(pairs)
        if len(record) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self._fail("", f"key {twice!r} occurs twice in one object")
        return record

    def _no_constant(self, name: str) -> NoReturn:
        self._fail("", f"{name} is not a JSON number")

    def _node(self, record: object, path: str, depth: int) -> PromptTree:
        if depth > MAX_TREE_DEPTH:
            self._fail(path, f"is deeper than {MAX_TREE_DEPTH} levels")
        if not isinstance(record, dict):
            self._fail(path, f"must be an object with a text, got {_kind(record)}")
        self._check_keys(record, _NODE_KEYS, path)
        if "text" not in record:
            self._fail(path, 'must have a "text"')
        return PromptTree(
            text=self._value(record, "text", path, _is_text, "a string"),
            branches=self._branches(record, path, depth),
            n=self._value(record, "n", path, _is_int, "an integer"),
            params=self._params(record["params"], _join(path, "params"))
            if "params" in record
            else None,
        )

    def _branches(self, record: Mapping[str, Any], path: str, depth: int) -> tuple[PromptTree, ...]:
        branches = self._value(record, "branches", path, _is_list, "a list of nodes") or []
        where = _join(path, "branches")
        return tuple(
            self._node(branch, f"{where}[{index}]", depth + 1)
            for index, branch in enumerate(branches)
        )

    def _params(self, record: object, path: str) -> SamplingParams:
        if not isinstance(record, dict):
            self._fail(path, f"must be an object, got {_kind(record)}")
        self._check_keys(record, tuple(_PARAMS), path)
        given = {name: self._value(record, name, path, *_PARAMS[name]) for name in record}
        for name in ("stop", "stop_token_ids"):
            if name in given:
                given[name] = tuple(given[name])
        return replace(self._defaults, **given)

    def _value(
        self,
        record: Mapping[str, Any],
        name: str,
        path: str,
        is_right: Callable[[object], bool],
        right: str,
    ) -> Any:
        if name not in record:
            return None
        value = record[name]
        if not is_right(value):
            self._fail(_join(path, name), f"must be {right}, got {_kind(value)}")
        return value

    def _check_keys(self, record: Mapping[str, Any], known: tuple[str, ...], path: str) -> None:
        for name in record:
            if name not in known:
                self._fail(path, f"unknown key {name!r}; known: {', '.join(known)}")

    def _fail(self, path: str, description: str) -> NoReturn:
        raise TreeFileError(self._file, path, description) from None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(_is_text(entry) for entry in value)


def _is_int_list(value: object) -> bool:
    return isinstance(value, list) and all(_is_int(entry) for entry in value)


_PARAMS: dict[str, tuple[Callable[[object], bool], str]] = {
    "temperature": (_is_number, "a number"),
    "top_k": (_is_int, "an integer"),
    "top_p": (_is_number, "a number"),
    "min_p": (_is_number, "a number"),
    "seed": (_is_int, "an integer"),
    "max_tokens": (_is_int, "an integer"),
    "stop": (_is_text_list, "a list of strings"),
    "stop_token_ids": (_is_int_list, "a list of integers"),
    "ignore_eos": (_is_bool, "true or false"),
    "logprobs": (_is_int, "an integer"),
    "repetition_penalty": (_is_number, "a number"),
    "presence_penalty": (_is_number, "a number"),
    "frequency_penalty": (_is_number, "a number"),
    "include_stop": (_is_bool, "true or false"),
    "min_tokens": (_is_int, "an integer"),
    "time_limit_seconds": (_is_number, "a number"),
}

"""Content hashes of schemas and modules: equal in every process, for equal content alone."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from treeserve.pml.layout import LaidOutNode
from treeserve.pml.tags import ModuleTag, ParameterTag, ScaffoldTag, Text, UnionTag
from treeserve.pml.turns import TemplateText
from treeserve.scheduler.step import Int32Array

FORMAT = 1
"""Of what is hashed; another number makes other hashes."""


def schema_id(
    name: str,
    roles: Sequence[str],
    content: Sequence[LaidOutNode],
    scaffolds: Sequence[ScaffoldTag],
    fingerprints: Sequence[str],
) -> str:
    """SHA-256 in hexadecimal over what a schema says, as its model's template renders it.

    Args:
        name: Of the schema.
        roles: Of its turns.
        content: With its turns rendered.
        scaffolds: Of the schema.
        fingerprints: Of the tokenizer and of the model.
    """
    record = [
        "schema",
        FORMAT,
        *fingerprints,
        name,
        list(roles),
        [_record(node) for node in content],
        [[scaffold.name, *scaffold.modules] for scaffold in scaffolds],
    ]
    return _digest(record)


def module_key(token_ids: Int32Array, positions: Int32Array, fingerprints: Sequence[str]) -> str:
    """SHA-256 in hexadecimal over a module's tokens and positions.

    Args:
        token_ids: [num_tokens]
        positions: [num_tokens]
        fingerprints: Of the tokenizer and of the model.
    """
    digest = hashlib.sha256(json.dumps(["module", FORMAT, *fingerprints]).encode())
    for array in (token_ids, positions):
        digest.update(np.int64(len(array)).astype("<i8").tobytes())
        digest.update(array.astype("<i4").tobytes())
    return digest.hexdigest()


def _record(node: LaidOutNode) -> list[Any]:
    match node:
        case Text():
            return ["text", node.text]
        case TemplateText():
            return ["template", node.text]
        case ParameterTag():
            return ["parameter", node.name, node.length]
        case ModuleTag():
            inside = [_record(child) for child in node.content]
            return ["module", node.name, node.cache, node.max_tokens, inside]
        case UnionTag():
            return ["union", [_record(member) for member in node.members]]


def _digest(record: list[Any]) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()

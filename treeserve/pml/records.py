"""A compiled schema and its prompts as JSON, for people and other programs."""

import json
from collections.abc import Sequence
from typing import Any

from treeserve.pml.compiled import CompiledSchema, ModulePrompt
from treeserve.pml.layout import PlacedModule, PlacedParameter, PlacedUnion, Run, walk_modules
from treeserve.pml.tags import Schema
from treeserve.pml.write import write_schema
from treeserve.scheduler.modules import Module


def to_json(schema: Schema, compiled: CompiledSchema, prompts: Sequence[ModulePrompt]) -> str:
    """All of it as one JSON object, "prompts" where there are any."""
    record: dict[str, Any] = {
        "schema": compiled.name,
        "schema_id": compiled.schema_id,
        "base_position": compiled.base_position,
        "layout": _layout(compiled.root),
        "modules": [
            {"name": module.name, "cache": module.cache, **_tokens(compiled, module)}
            for module in walk_modules(compiled.root)
        ],
        "scaffolds": [
            {"name": scaffold.name, "modules": list(scaffold.members), **_module(scaffold.module)}
            for scaffold in compiled.scaffolds
        ],
        "pml": write_schema(schema),
    }
    if prompts:
        record["prompts"] = [_prompt(prompt) for prompt in prompts]
    return json.dumps(record, ensure_ascii=False, indent=1)


def _tokens(compiled: CompiledSchema, module: PlacedModule) -> dict[str, Any]:
    """A module's own; what is not cached has tokens and no key."""
    if module.name in compiled.modules:
        return _module(compiled.modules[module.name])
    runs = module.runs
    return {
        "key": None,
        "token_ids": [token for run in runs for token in run.token_ids],
        "positions": [position for run in runs for position in range(run.start, run.end)],
    }


def _module(module: Module | None) -> dict[str, Any]:
    if module is None:
        return {"key": None, "token_ids": [], "positions": []}
    return {
        "key": module.key,
        "token_ids": module.token_ids.tolist(),
        "positions": module.positions.tolist(),
    }


def _layout(module: PlacedModule) -> dict[str, Any]:
    record = {"module": module.name, "start": module.start, "end": module.end}
    return {**record, "content": [_node(node) for node in module.content]}


def _node(node: Run | PlacedParameter | PlacedModule | PlacedUnion) -> dict[str, Any]:
    match node:
        case Run():
            return {"text": node.text, "start": node.start, "end": node.end}
        case PlacedParameter():
            return {"parameter": node.name, "start": node.start, "end": node.end}
        case PlacedModule():
            return _layout(node)
        case PlacedUnion():
            members = [_layout(member) for member in node.members]
            return {"union": members, "start": node.start, "end": node.end}


def _prompt(prompt: ModulePrompt) -> dict[str, Any]:
    modules = prompt.module_set
    return {
        "imported": list(prompt.imported),
        "keys": [module.key for module in modules.modules],
        "own_token_ids": prompt.own_token_ids,
        "argument_positions": modules.argument_positions.tolist(),
        "base_position": modules.base_position,
        "exact_token_ids": prompt.exact_token_ids,
        "max_tokens": prompt.max_tokens,
    }

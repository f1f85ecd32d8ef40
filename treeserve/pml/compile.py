"""Compiles a schema for one tokenizer and one model: renders, tokenises, lays out, hashes."""

from collections.abc import Iterable, Sequence

import numpy as np

from treeserve.pml.check import check_schema
from treeserve.pml.compiled import CompiledScaffold, CompiledSchema, positions_of
from treeserve.pml.content_hash import module_key, schema_id
from treeserve.pml.encoding import TextEncoder
from treeserve.pml.layout import LaidOutNode, PlacedModule, Run, lay_out, walk_modules
from treeserve.pml.place import PmlError
from treeserve.pml.tags import ScaffoldTag, Schema, TurnTag
from treeserve.pml.turns import frame_turns
from treeserve.scheduler.modules import Module
from treeserve.tokenizer import Tokenizer


def compile_schema(
    schema: Schema, tokenizer: Tokenizer, *, model_fingerprint: str, max_positions: int
) -> CompiledSchema:
    """Tokenise a schema and give everything in it a position.

    Every text between tags is tokenised by itself, so that no module's tokens depend on its
    neighbours. The scheme of modules at positions of their own is Prompt Cache's (MLSys 2024).

    Args:
        schema: From a file, a builder or Python functions.
        tokenizer: The model's.
        model_fingerprint: Tells the model from others; part of every hash.
        max_positions: Of the model; schema, own text and what is drawn have to fit.

    Raises:
        PmlError: The schema is not sound, has no room in the model, or has turns that the model's
            template does not write.
    """
    check_schema(schema)
    encoder = TextEncoder(tokenizer)
    turns = tuple(node for node in schema.content if isinstance(node, TurnTag))
    scaffolds = [node for node in schema.content if isinstance(node, ScaffoldTag)]
    content = _rendered(schema, turns, tokenizer)
    # A template writes what its prompts begin with.
    beginning = [] if turns else tokenizer.beginning()
    root = lay_out(content, beginning, encoder.encode, schema.place)
    if root.end > max_positions - 2:
        raise PmlError(
            schema.place,
            f"the schema takes {root.end} positions; expected at most {max_positions - 2}, for the "
            f"model has {max_positions}, and two are for a prompt's own text and what is drawn",
        )
    fingerprints = (tokenizer.fingerprint(), model_fingerprint)
    cached = {module.name: module for module in walk_modules(root) if module.cache}
    modules = {name: _module([placed], fingerprints) for name, placed in cached.items()}
    return CompiledSchema(
        name=schema.name,
        schema_id=schema_id(
            schema.name, [turn.role for turn in turns], content, scaffolds, fingerprints
        ),
        root=root,
        modules={name: module for name, module in modules.items() if module is not None},
        scaffolds=tuple(_scaffold(tag, cached, fingerprints) for tag in scaffolds),
        turns=turns,
        max_positions=max_positions,
        encoder=encoder,
    )


def _rendered(schema: Schema, turns: Sequence[TurnTag], tokenizer: Tokenizer) -> list[LaidOutNode]:
    """The schema's content in one row, with what its template writes around the turns."""
    if not turns:
        return [n for n in schema.content if not isinstance(n, TurnTag | ScaffoldTag)]
    pieces = frame_turns(tokenizer, turns, schema.place)
    content: list[LaidOutNode] = [pieces[0]]
    for turn, piece in zip(turns, pieces[1:], strict=True):
        content += [*turn.content, piece]
    return content


def _scaffold(
    tag: ScaffoldTag, cached: dict[str, PlacedModule], fingerprints: Sequence[str]
) -> CompiledScaffold:
    module = _module([cached[name] for name in tag.modules], fingerprints)
    return CompiledScaffold(tag.name, tag.modules, module)


def _module(placed: Iterable[PlacedModule], fingerprints: Sequence[str]) -> Module | None:
    """All their own tokens, as one module; None where they have none."""
    runs: list[Run] = sorted((run for p in placed for run in p.runs), key=lambda run: run.start)
    if not runs:
        return None
    token_ids = np.array([token for run in runs for token in run.token_ids], dtype=np.int32)
    positions = positions_of(runs)
    return Module(module_key(token_ids, positions, fingerprints), token_ids, positions)

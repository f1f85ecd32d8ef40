"""A compiled schema: its modules in tokens and positions, and the prompts that import them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from treeserve.pml.encoding import TextEncoder
from treeserve.pml.imports import Resolved, resolve_imports
from treeserve.pml.layout import PlacedModule, Run
from treeserve.pml.place import Place, PmlError
from treeserve.pml.tags import PromptTag, Text, TurnTag, is_space
from treeserve.pml.turns import TemplateText, frame_prompt_turns
from treeserve.scheduler.modules import Module, ModuleSet
from treeserve.scheduler.step import Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class ModulePrompt:
    """A prompt with imported modules, in tokens."""

    module_set: ModuleSet
    own_token_ids: list[int]
    """Those of arguments and of modules that are not cached, then those of its own text."""
    exact_token_ids: list[int]
    """All tokens in the order of their positions: the same prompt without approximation."""
    schema_id: str
    imported: tuple[str, ...]
    """Names of the modules, in the order of the schema."""
    max_tokens: int | None = None
    """To draw, at most, as the prompt says."""


@dataclass(frozen=True, slots=True, eq=False)
class CompiledScaffold:
    """Modules that are encoded together too."""

    name: str
    members: tuple[str, ...]
    module: Module | None
    """None where its members have no text."""


@dataclass(frozen=True, slots=True, eq=False)
class CompiledSchema:
    """A schema for one tokenizer and one model; made by `compile_schema`."""

    name: str
    schema_id: str
    """SHA-256 of what the schema says, the tokenizer and the model."""
    root: PlacedModule
    """The layout."""
    modules: Mapping[str, Module]
    """By name, in schema order, "" first: those that are cached and have text of their own."""
    scaffolds: tuple[CompiledScaffold, ...]
    turns: tuple[TurnTag, ...]
    max_positions: int
    encoder: TextEncoder

    @property
    def base_position(self) -> int:
        """Where every prompt's own text begins: the end of the schema."""
        return self.root.end

    def prompt(self, prompt: PromptTag) -> ModulePrompt:
        """A prompt's modules and tokens.

        Raises:
            PmlError: It is for another schema, imports what cannot be imported, lacks an argument
                or has one that is too long, has no text of its own, or needs more positions than
                the model has.
        """
        if prompt.schema != self.name:
            raise PmlError(
                prompt.place, f"a prompt for schema {prompt.schema!r}; expected {self.name!r}"
            )
        resolved = resolve_imports(self.root, prompt)
        inserted = [*self._argument_runs(resolved), *self._uncached_runs(resolved)]
        inserted.sort(key=lambda run: run.start)
        own_text = self._own_text(prompt)
        self._check_positions(len(own_text), prompt.place)
        tokens = [token for run in inserted for token in run.token_ids]
        return ModulePrompt(
            module_set=ModuleSet(
                modules=self._modules(resolved, prompt.place),
                argument_positions=positions_of(inserted),
                base_position=self.base_position,
            ),
            own_token_ids=tokens + own_text,
            exact_token_ids=self._exact(resolved, inserted) + own_text,
            schema_id=self.schema_id,
            imported=tuple(module.name for module in resolved.modules if module.name),
            max_tokens=prompt.max_tokens,
        )

    def _argument_runs(self, resolved: Resolved) -> list[Run]:
        runs = []
        for argument in resolved.arguments:
            token_ids = self.encoder.encode(Text(argument.text, argument.place))
            if len(token_ids) > argument.parameter.length:
                raise PmlError(
                    argument.place,
                    f"argument {argument.parameter.name!r} has {len(token_ids)} tokens; "
                    f"expected at most {argument.parameter.length}",
                )
            runs.append(Run(argument.parameter.start, tuple(token_ids), argument.text))
        return [run for run in runs if run.token_ids]

    def _uncached_runs(self, resolved: Resolved) -> list[Run]:
        return [run for module in resolved.modules if not module.cache for run in module.runs]

    def _modules(self, resolved: Resolved, place: Place) -> tuple[Module, ...]:
        """Those imported, scaffolds in place of all their members."""
        names = {module.name: index for index, module in enumerate(resolved.modules)}
        replaced: dict[str, Module | None] = {}
        for scaffold in self.scaffolds:
            fits = all(name in names and name not in replaced for name in scaffold.members)
            if fits:
                first = min(scaffold.members, key=names.__getitem__)
                replaced.update(dict.fromkeys(scaffold.members))
                replaced[first] = scaffold.module
        found = [replaced[n] if n in replaced else self.modules.get(n) for n in names]
        modules = tuple(module for module in found if module is not None)
        if not modules:
            raise PmlError(place, "the prompt imports no cached text; expected at least one module")
        return modules

    def _own_text(self, prompt: PromptTag) -> list[int]:
        texts = [node for node in prompt.content if isinstance(node, Text)]
        turns = [node for node in prompt.content if isinstance(node, TurnTag)]
        if self.turns:
            return self._rendered(texts, turns, prompt.place)
        if turns:
            raise PmlError(
                turns[0].place,
                f"<{turns[0].role}>, but schema {self.name!r} has no turns; expected text alone",
            )
        own = [token for text in texts for token in self.encoder.encode(text)]
        if not own:
            raise PmlError(
                prompt.place, "the prompt has no text of its own; expected some after its imports"
            )
        return own

    def _rendered(self, texts: Sequence[Text], turns: Sequence[TurnTag], place: Place) -> list[int]:
        outside = next((text for text in texts if not is_space(text)), None)
        if outside is not None:
            raise PmlError(
                outside.place,
                f"text outside a turn; expected it in <user>, as schema {self.name!r} has turns",
            )
        pieces = frame_prompt_turns(self.encoder.tokenizer, self.turns, turns, place)
        own: list[Text | TemplateText] = [pieces[0]]
        for turn, piece in zip(turns, pieces[1:], strict=True):
            own += [*texts_of(turn), piece]
        token_ids = [token for text in own for token in self.encoder.encode(text)]
        if not token_ids:
            raise PmlError(place, "the prompt adds nothing to its schema; expected a turn")
        return token_ids

    def _check_positions(self, num_own: int, place: Place) -> None:
        end = self.base_position + num_own
        if end >= self.max_positions:
            raise PmlError(
                place,
                f"the prompt's {num_own} own tokens end at position {end}, as schema "
                f"{self.name!r} takes {self.base_position}; expected at most "
                f"{self.max_positions - 1}, and one to draw",
            )

    def _exact(self, resolved: Resolved, inserted: Sequence[Run]) -> list[int]:
        runs = [run for module in resolved.modules if module.cache for run in module.runs]
        ordered = sorted([*runs, *inserted], key=lambda run: run.start)
        return [token for run in ordered for token in run.token_ids]


def texts_of(turn: TurnTag) -> list[Text]:
    """A prompt's turn holds text alone; raises PmlError for anything else."""
    texts = []
    for node in turn.content:
        if not isinstance(node, Text):
            raise PmlError(
                node.place, f"a tag in a prompt's <{turn.role}>; expected text alone in a turn"
            )
        texts.append(node)
    return texts


def positions_of(runs: Sequence[Run]) -> Int32Array:
    """[num_tokens], of all of them."""
    ranges = [np.arange(run.start, run.end, dtype=np.int32) for run in runs]
    return np.concatenate(ranges) if ranges else np.empty(0, dtype=np.int32)

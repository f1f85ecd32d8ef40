"""Resolves a prompt's imports and arguments against the layout of its schema."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from treeserve.pml.layout import (
    PlacedModule,
    PlacedParameter,
    PlacedUnion,
    modules_within,
    walk_modules,
)
from treeserve.pml.place import Place, PmlError
from treeserve.pml.tags import ImportTag, PromptTag


@dataclass(frozen=True, slots=True)
class Argument:
    """Text for a parameter."""

    parameter: PlacedParameter
    text: str
    place: Place


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a prompt imports."""

    modules: tuple[PlacedModule, ...]
    """In schema order; the root first."""
    arguments: tuple[Argument, ...]


def resolve_imports(root: PlacedModule, prompt: PromptTag) -> Resolved:
    """The modules that a prompt imports, and its arguments.

    Raises:
        PmlError: An import is unknown, lies in another module, comes twice, or excludes another;
            an argument is missing or unknown.
    """
    return _Resolver(root).resolve(prompt)


class _Resolver:
    def __init__(self, root: PlacedModule) -> None:
        self._root = root
        self._arguments: list[Argument] = []
        self._chosen: set[str] = set()

    def resolve(self, prompt: PromptTag) -> Resolved:
        self._take_arguments(self._root, prompt.arguments, prompt.place)
        self._take(self._root, prompt.imports)
        modules = [m for m in walk_modules(self._root) if not m.name or m.name in self._chosen]
        return Resolved(tuple(modules), tuple(self._arguments))

    def _take(self, parent: PlacedModule, imports: Sequence[ImportTag]) -> None:
        within = {module.name: module for module in modules_within(parent)}
        unions = _union_numbers(parent)
        taken: dict[int, str] = {}
        for tag in imports:
            module = within.get(tag.name)
            if module is None:
                raise self._not_here(tag, parent)
            if tag.name in self._chosen:
                raise PmlError(tag.place, f"module {tag.name!r} is imported twice; expected once")
            self._chosen.add(tag.name)
            if tag.name in unions:
                _check_alone(taken.setdefault(unions[tag.name], tag.name), tag)
            self._take_arguments(module, tag.arguments, tag.place)
            self._take(module, tag.imports)

    def _not_here(self, tag: ImportTag, parent: PlacedModule) -> PmlError:
        for other in walk_modules(self._root):
            if tag.name in {module.name for module in modules_within(other)}:
                where = f"inside <{other.name}>" if other.name else "at the top of the prompt"
                return PmlError(
                    tag.place, f"module {tag.name!r} is out of place; expected its import {where}"
                )
        known = ", ".join(module.name for module in modules_within(parent)) or "none"
        scope = f"module {parent.name!r}" if parent.name else "the schema"
        return PmlError(tag.place, f"unknown module {tag.name!r}; {scope} has {known}")

    def _take_arguments(self, module: PlacedModule, given: Mapping[str, str], place: Place) -> None:
        parameters = {parameter.name: parameter for parameter in module.parameters}
        scope = f"module {module.name!r}" if module.name else "the schema"
        for name in given:
            if name not in parameters:
                known = ", ".join(parameters) or "none"
                raise PmlError(place, f"unknown argument {name!r}; {scope} has parameters: {known}")
        for name, parameter in parameters.items():
            if name not in given:
                raise PmlError(
                    place,
                    f'missing argument {name!r} of {scope}; expected {name}="…" of at most '
                    f"{parameter.length} tokens",
                )
            self._arguments.append(Argument(parameter, given[name], place))


def _union_numbers(parent: PlacedModule) -> dict[str, int]:
    """For each member of a union that lies right in it, which union that is."""
    return {
        member.name: number
        for number, node in enumerate(parent.content)
        if isinstance(node, PlacedUnion)
        for member in node.members
    }


def _check_alone(first: str, tag: ImportTag) -> None:
    if first != tag.name:
        raise PmlError(
            tag.place,
            f"modules {first!r} and {tag.name!r} are of one union; expected one of them at most",
        )

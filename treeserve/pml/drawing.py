"""Draws the layout of a schema and what a prompt takes of it, for a terminal."""

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text as Line

from treeserve.pml.compiled import CompiledSchema, ModulePrompt
from treeserve.pml.layout import PlacedModule, PlacedNode, PlacedParameter, PlacedUnion, Run
from treeserve.scheduler.modules import Module

_PREVIEW_LENGTH = 60
_MEMBERS_ABREAST = 4


def draw_schema(compiled: CompiledSchema) -> RenderableType:
    """Positions from top to bottom, the members of unions side by side."""
    title = f"[bold]{compiled.name}[/] · {_positions(compiled.root.start, compiled.root.end)}"
    subtitle = f"own text from {compiled.base_position} · {compiled.max_positions} positions"
    parts = [_node(node) for node in compiled.root.content]
    parts += [_scaffold_line(s.name, s.members, _num_tokens(s.module)) for s in compiled.scaffolds]
    return Panel(Group(*parts), title=title, title_align="left", subtitle=subtitle)


def draw_prompt(compiled: CompiledSchema, prompt: ModulePrompt) -> RenderableType:
    """What a prompt reads of modules, and what it brings itself."""
    modules = prompt.module_set.modules
    num_reused = sum(len(module.token_ids) for module in modules)
    num_inserted = len(prompt.module_set.argument_positions)
    num_own = len(prompt.own_token_ids) - num_inserted
    table = Table.grid(padding=(0, 2))
    table.add_row("imports", ", ".join(prompt.imported) or "the schema's own text alone")
    table.add_row("modules", f"{len(modules)} of {num_reused} tokens")
    table.add_row("arguments, and what is not cached", f"{num_inserted} tokens")
    own = (
        f"{num_own} tokens · {_positions(compiled.base_position, compiled.base_position + num_own)}"
    )
    table.add_row("own text", own)
    return Panel(table, title=f"a prompt of {compiled.name}", title_align="left")


def _node(node: PlacedNode) -> RenderableType:
    match node:
        case Run():
            return _run(node)
        case PlacedParameter():
            text = Line(f"{_positions(node.start, node.end)} ", style="dim")
            return text.append(f"⟨{node.name}⟩ up to {node.length} tokens", style="not dim yellow")
        case PlacedModule():
            return _module(node)
        case PlacedUnion():
            return _union(node)


def _run(run: Run) -> Line:
    text = " ".join(run.text.split()) or "the beginning of every prompt"
    if len(text) > _PREVIEW_LENGTH:
        text = text[: _PREVIEW_LENGTH - 1] + "…"
    line = Line(
        f"{_positions(run.start, run.end)} ", style="dim", overflow="ellipsis", no_wrap=True
    )
    return line.append(text, style="not dim")


def _module(module: PlacedModule) -> Panel:
    what = (
        f"{module.num_tokens} tokens" if module.cache else f"{module.num_tokens} tokens, not cached"
    )
    title = f"[bold]{module.name}[/] · {_positions(module.start, module.end)} · {what}"
    parts = [_node(node) for node in module.content]
    style = "green" if module.cache else "red"
    return Panel(Group(*parts), title=title, title_align="left", border_style=style)


def _union(union: PlacedUnion) -> Panel:
    """Side by side, since they stand at the same positions."""
    rows = []
    for start in range(0, len(union.members), _MEMBERS_ABREAST):
        members = union.members[start : start + _MEMBERS_ABREAST]
        row = Table.grid(expand=True)
        for _ in members:
            row.add_column(ratio=1)
        row.add_row(*[_module(member) for member in members])
        rows.append(row)
    title = f"one of {len(union.members)} · {_positions(union.start, union.end)}"
    return Panel(Group(*rows), title=title, title_align="left", border_style="blue")


def _scaffold_line(name: str, members: tuple[str, ...], num_tokens: int) -> Line:
    line = Line("scaffold ", style="magenta").append(name, style="bold")
    return line.append(f": {' + '.join(members)}, encoded together, {num_tokens} tokens")


def _num_tokens(module: Module | None) -> int:
    return 0 if module is None else len(module.token_ids)


def _positions(start: int, end: int) -> str:
    """The first and the last."""
    return f"{start}–{end - 1}" if end > start else f"{start}, empty"

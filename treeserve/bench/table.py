"""Tables of results, for a terminal of 120 columns and as Markdown."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

TableStyle: TypeAlias = Literal["text", "markdown"]
MICROSECOND = 1e-6
ABSENT = "–"
_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Column:
    """Numbers stand to the right, the first column to the left."""

    title: str
    width: int


def render_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], style: TableStyle
) -> list[str]:
    """Lines of a table; a cell that is too wide pushes the others."""
    titles = [column.title for column in columns]
    if style == "markdown":
        ruler = ["---", *["---:"] * (len(columns) - 1)]
        return [_bars(cells) for cells in (titles, ruler, *rows)]
    return [_aligned(columns, cells) for cells in (titles, *rows)]


def fit(lines: Iterable[str], style: TableStyle) -> list[str]:
    """Text lines broken where they are too long; Markdown as it is."""
    if style == "markdown":
        return list(lines)
    return [
        piece
        for line in lines
        for piece in (textwrap.wrap(line, _WIDTH, subsequent_indent="  ") or [""])
    ]


def machine_line(result: Mapping[str, Any]) -> str:
    """Device, versions and date."""
    device = result["device"]
    name = device["name"] + (f", {device['threads']} threads" if "threads" in device else "")
    versions = ", ".join(f"{package} {found}" for package, found in result["versions"].items())
    return f"{name}; {versions}; {result['date']}"


def number(value: float | None, digits: int = 1) -> str:
    """With so many digits after the point; three significant ones are enough for large ones."""
    if value is None:
        return ABSENT
    return f"{value:,.{digits if abs(value) < 1000 else 0}f}"


def percent(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.0%}"


def _bars(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _aligned(columns: Sequence[Column], cells: Sequence[str]) -> str:
    first, *others = zip(columns, cells, strict=True)
    line = f"{first[1]:{first[0].width}}"
    return (line + "".join(f"{cell:>{column.width}}" for column, cell in others)).rstrip()

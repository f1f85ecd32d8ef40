"""The report's plots, as SVG."""

import math
from collections.abc import Sequence
from html import escape

from treeserve.contest.reporting.pass_at_k import Estimate

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 12, 40


def pass_curve(estimates: Sequence[Estimate]) -> str:
    """pass@k against k, on a logarithmic axis, with its interval as a band."""
    xs = [_x(estimate.k, estimates[-1].k) for estimate in estimates]
    middle = _points(xs, [estimate.value for estimate in estimates])
    band = _points(xs, [estimate.low for estimate in estimates]) + " "
    band += _points(xs[::-1], [estimate.high for estimate in estimates][::-1])
    parts = [*_grid(), f'<polygon class="band" points="{band}"/>']
    parts.append(f'<polyline class="curve" points="{middle}"/>')
    for x, estimate in zip(xs, estimates, strict=True):
        y = _y(estimate.value)
        said = f"pass@{estimate.k}: {estimate.value:.1%} ({estimate.low:.1%} – {estimate.high:.1%})"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{said}</title></circle>')
        parts.append(_text(x, _HEIGHT - _BOTTOM + 18, str(estimate.k), "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "k", "middle"))
    return _svg(_WIDTH, _HEIGHT, parts, "pass@k against k")


def stacked_bar(counts: Sequence[tuple[str, int]]) -> str:
    """One row of verdicts, each as wide as its share."""
    total = sum(count for _, count in counts) or 1
    x, parts = 0.0, []
    for code, count in counts:
        width = 240 * count / total
        parts.append(
            f'<rect class="v-{escape(code)}" x="{x:.1f}" y="0" width="{width:.1f}" height="14">'
            f"<title>{count} {escape(code)}</title></rect>"
        )
        x += width
    said = ", ".join(f"{count} {code}" for code, count in counts)
    return _svg(240, 14, parts, said, ' preserveAspectRatio="none"')


def swatch(code: str) -> str:
    """The colour of a verdict."""
    square = f'<rect class="v-{escape(code)}" width="14" height="14"/>'
    return f'<svg viewBox="0 0 14 14" width="14" aria-hidden="true">{square}</svg>'


def paired_bars(rows: Sequence[tuple[str, float, float]]) -> str:
    """For each row what was done, above what it would have been without sharing."""
    parts = []
    for index, (name, done, flat) in enumerate(rows):
        top = index * 62
        parts.append(_text(0, top + 12, f"{name}: {done:,.0f} of {flat:,.0f}", "start"))
        for offset, value, kind in ((18, done, "done"), (36, flat, "flat")):
            width = max(1.0, _WIDTH * value / max(done, flat, 1.0))
            parts.append(
                f'<rect class="{kind}" x="0" y="{top + offset}" width="{width:.1f}" height="14"/>'
            )
    return _svg(_WIDTH, 62 * len(rows), parts, "what was done against what it would be alone")


def _grid() -> list[str]:
    parts = []
    for tenth in range(0, 11, 2):
        y = _y(tenth / 10)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(_LEFT - 8, y + 4, f"{tenth * 10}%", "end"))
    return parts


def _x(k: int, largest: int) -> float:
    if largest == 1:
        return (_LEFT + _WIDTH - _RIGHT) / 2
    return _LEFT + (_WIDTH - _RIGHT - _LEFT) * math.log2(k) / math.log2(largest)


def _y(value: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - value)


def _points(xs: Sequence[float], values: Sequence[float]) -> str:
    return " ".join(f"{x:.1f},{_y(value):.1f}" for x, value in zip(xs, values, strict=True))


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: int, parts: Sequence[str], label: str, attributes: str = "") -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{escape(label)}"{attributes}>{"".join(parts)}</svg>'
    )

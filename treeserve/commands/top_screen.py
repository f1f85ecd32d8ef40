"""The screen of `treeserve top`: rates, the tree, and the calls that run."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from treeserve.client.activity_calls import RunningCall, ServerActivity, ServerTotals
from treeserve.client.tree_calls import PlannedStep
from treeserve.commands.tree_outline import make_outline, outline_lines, plain
from treeserve.inspection import TreeView

_BARS = " ▁▂▃▄▅▆▇█"
_TREND_LENGTH = 40
_MOST_CALLS = 8


@dataclass(frozen=True, slots=True)
class Seen:
    """What one round of asking a server brought."""

    view: TreeView
    plan: PlannedStep
    activity: ServerActivity | None
    """None: the server is older than that, and does not tell."""
    is_all: bool
    """Everybody's, not the caller's own namespace alone."""


class Screen:
    """Remembers as much as rates need.

    Args:
        address: Of the server, to be shown.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._before: ServerTotals | None = None
        self._now: ServerTotals | None = None
        self._seen: Seen | None = None
        self._trend: deque[float] = deque(maxlen=_TREND_LENGTH)
        self.notice = ""
        """Shown above all else."""

    def see(self, seen: Seen) -> None:
        """Take in a round."""
        self._seen = seen
        if seen.activity is None:
            return
        self._before, self._now = self._now, seen.activity.totals
        if self._before is not None and self._now.at_seconds < self._before.at_seconds:
            # Another process answers now, whose counters begin anew.
            self._before = None
        drawn = self._rate("drawn_tokens")
        if drawn is not None:
            self._trend.append(drawn)

    def draw(self, width: int, height: int, hint: str = "") -> RenderableType:
        """What fits so many columns and lines."""
        parts: list[RenderableType] = [Text(f"treeserve top  {self._address}  {hint}", "bold")]
        if self.notice:
            parts.append(Text(plain(self.notice), "bold red"))
        seen = self._seen
        if seen is None:
            return Group(*parts, Text("asking …"))
        rates = self._rates()
        calls = self._calls(seen.activity)
        num_calls = 0 if seen.activity is None else min(_MOST_CALLS, len(seen.activity.calls)) + 2
        room = max(3, height - len(parts) - len(rates) - num_calls - 4)
        parts += [*rates, Text(""), Text(self._tree_title(seen), "bold")]
        lines = outline_lines(make_outline(seen.view, max(1, room)))
        shown = lines if len(lines) <= room else [*lines[: room - 1], "…"]
        parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in shown]
        return Group(*parts, Text(""), *calls)

    def _rates(self) -> list[RenderableType]:
        now = self._now
        if now is None:
            return [Text("this server tells no rates")]
        drawn, rows = self._rate("drawn_tokens"), self._rate("prompt_rows")
        steps, seconds = self._grown("steps"), self._grown("step_seconds")
        read, flat = self._grown("kv_tokens_read"), self._grown("kv_tokens_read_flat")
        found = self._grown("cached_tokens") + self._grown("shared_in_flight_tokens")
        computed = self._grown("computed_tokens")
        used = now.used_pages / now.total_pages if now.total_pages else 0.0
        cached = now.cached_pages / now.total_pages if now.total_pages else 0.0
        return [
            Text(
                f"running {now.running_samples:,}   waiting {now.waiting_requests:,}   "
                f"drawn {_number(drawn)}/s   prompts computed {_number(rows)}/s   "
                f"step {_milliseconds(seconds, steps)}"
            ),
            Text(
                f"KV reads saved {_part(flat - read, flat)}   "
                f"prompt tokens found {_part(found, found + computed)}   "
                f"pool {used:.0%}, of it cache {cached:.0%}"
            ),
            Text(f"tokens/s {self._draw_trend()}", "cyan"),
        ]

    def _calls(self, activity: ServerActivity | None) -> list[RenderableType]:
        if activity is None:
            return []
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("call", "tenant", "method"):
            table.add_column(name, no_wrap=True)
        for name in ("age", "first token", "tokens"):
            table.add_column(name, justify="right", no_wrap=True)
        for call in activity.calls[:_MOST_CALLS]:
            table.add_row(*_cells(call))
        hidden = len(activity.calls) + activity.num_left_out_calls - _MOST_CALLS
        more = [Text(f"{hidden:,} more calls")] if hidden > 0 else []
        return [table, *more] if activity.calls else [Text("no call runs")]

    def _tree_title(self, seen: Seen) -> str:
        whose = "everybody's" if seen.is_all else "your own"
        num_nodes = len(seen.view.nodes) + seen.view.num_left_out_nodes
        shared = sum(1 for node in seen.plan.nodes if node.is_shared)
        return (
            f"tree ({whose}): {num_nodes:,} nodes of {seen.view.num_tokens:,} tokens; "
            f"last step: {shared:,} of {len(seen.plan.nodes) + seen.plan.num_left_out_nodes:,} "
            "nodes read once for all rows"
        )

    def _grown(self, name: str) -> float:
        """Since the round before; in all, where there was none."""
        now = float(getattr(self._now, name))
        return now - (0.0 if self._before is None else float(getattr(self._before, name)))

    def _rate(self, name: str) -> float | None:
        if self._before is None or self._now is None:
            return None
        seconds = self._now.at_seconds - self._before.at_seconds
        return self._grown(name) / seconds if seconds > 0 else None

    def _draw_trend(self) -> str:
        return draw_bars(list(self._trend))


def draw_bars(values: Sequence[float]) -> str:
    """One character a value, as high as it is beside the largest."""
    most = max(values, default=0.0) or 1.0
    return "".join(_BARS[round(value / most * (len(_BARS) - 1))] for value in values)


def _cells(call: RunningCall) -> tuple[Text, ...]:
    first = "" if call.first_token_seconds is None else f"{call.first_token_seconds:.2f} s"
    words = (plain(call.call_id)[:16], plain(call.namespace)[:20] or "–", plain(call.method)[:16])
    numbers = (f"{call.age_seconds:.1f} s", first or "waits", f"{call.drawn_tokens:,}")
    # As Text: what callers name things is no markup.
    return tuple(Text(word) for word in (*words, *numbers))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _part(value: float, whole: float) -> str:
    return f"{value / whole:.0%}" if whole > 0 else "–"


def _milliseconds(seconds: float, count: float) -> str:
    return f"{1000 * seconds / count:.3g} ms" if count > 0 else "–"

"""The report as text for a terminal."""

from collections.abc import Iterable, Iterator

from treeserve.contest.reporting.pass_at_k import Estimate
from treeserve.contest.reporting.summary import Savings, Summary


def table(summary: Summary) -> str:
    """Several lines: verdicts, pass@k, difficulties, what sharing saved."""
    return "\n".join(_lines(summary)) + "\n"


def _lines(summary: Summary) -> Iterator[str]:
    yield from solved_lines(summary)
    yield ""
    yield from _rows([("all", summary.estimates), *summary.by_difficulty.items()])
    if summary.savings is not None:
        yield ""
        yield from savings_lines(summary.savings)


def _rows(groups: Iterable[tuple[str, Iterable[Estimate]]]) -> Iterator[str]:
    yield f"{'difficulty':16} {'k':>6} {'pass@k':>8}   95% interval   problems"
    for name, estimates in groups:
        for estimate in estimates:
            yield (
                f"{name[:16]:16} {estimate.k:>6} {estimate.value:>8.1%}  "
                f"{interval(estimate):>15}  {estimate.num_problems:>8}"
            )
            name = ""


def solved_lines(summary: Summary) -> Iterator[str]:
    """How much was solved, and what came of all samples."""
    judged = len(summary.problems) - summary.num_unjudged
    solved = sum(result.num_passing > 0 for result in summary.problems)
    yield f"{solved} of {judged} problems solved by at least one sample"
    if summary.num_unjudged:
        yield f"unjudged problems, in none of the figures: {summary.num_unjudged}"
    shown = ", ".join(f"{count:,} {code}" for code, count in summary.counts.items())
    yield f"{sum(summary.counts.values()):,} samples: {shown}"
    for round_, number in enumerate(summary.solved_by_round[1:], start=1):
        repairs = "one repair" if round_ == 1 else f"up to {round_} repairs"
        yield f"with {repairs} of each sample that fails: {number} of {judged} problems solved"


def interval(estimate: Estimate) -> str:
    """From low to high; one problem says nothing of others."""
    if estimate.num_problems == 1:
        return "–"
    return f"{estimate.low:.1%} – {estimate.high:.1%}"


def savings_lines(savings: Savings) -> Iterator[str]:
    """What sharing saved, a line for each thing that is known."""
    if savings.prompt_tokens and savings.computed_tokens:
        ratio = savings.prompt_tokens / savings.computed_tokens
        yield (
            f"prompt tokens: {savings.computed_tokens:,.0f} computed of "
            f"{savings.prompt_tokens:,.0f} sent ({ratio:.1f}x fewer)"
        )
    for unit, read, flat in (
        ("tokens", savings.kv_tokens_read, savings.kv_tokens_read_flat),
        ("bytes", savings.kv_bytes_read, savings.kv_bytes_read_flat),
    ):
        if read and flat:
            yield f"KV {unit} read: {read:,.0f} of {flat:,.0f} flat ({flat / read:.1f}x fewer)"
    if savings.seconds:
        rate = (savings.completion_tokens or 0) / savings.seconds
        yield f"sampling took {savings.seconds:,.1f} s, {rate:,.0f} completion tokens a second"
        if savings.seconds_sharing_off:
            ratio = savings.seconds_sharing_off / savings.seconds
            yield f"with --sharing off {savings.seconds_sharing_off:,.1f} s ({ratio:.1f}x as long)"

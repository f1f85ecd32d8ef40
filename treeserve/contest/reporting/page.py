"""The report as one page of HTML that needs nothing else: no script, no network."""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from treeserve.contest.judging.samples import Sample
from treeserve.contest.judging.verdict import MEANINGS, Verdict
from treeserve.contest.reporting import plots
from treeserve.contest.reporting.pass_at_k import Estimate
from treeserve.contest.reporting.summary import ProblemResult, Summary
from treeserve.contest.reporting.table import interval, savings_lines, solved_lines

_STYLE = """
:root { color-scheme: light dark; --soft: #8884; --ok: #1c7a45; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ok: #56c98d; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; }
td.n, th.n {
  text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums;
}
tbody + tbody td { padding-top: .2rem; } tbody + tbody tr:first-child td { padding-top: .8rem; }
svg { max-width: 100%; height: auto; overflow: visible; }
svg text { font-size: 12px; fill: currentColor; }
.grid { stroke: var(--soft); } .band { fill: #4a7fd644; } circle { fill: #4a7fd6; }
.curve { fill: none; stroke: #4a7fd6; stroke-width: 2; }
.done { fill: #2a9d5c; } .flat { fill: #8888; }
.v-AC { fill: #2a9d5c; } .v-WA { fill: #d64545; } .v-TLE { fill: #e0a030; }
.v-MLE { fill: #b06fd0; } .v-RE { fill: #d67f45; } .v-CE { fill: #888; } .v-OLE { fill: #4aa6b5; }
.v-unjudged { fill: #bbb; }
pre { background: var(--soft); padding: .6rem; overflow: auto; max-height: 30rem; margin: .3rem 0; }
details { margin-left: 1.2rem; } details.problem { margin: .3rem 0; }
pre.text { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; overflow-wrap: anywhere; } summary svg { vertical-align: middle; }
.code { color: var(--bad); font-weight: 600; } .AC { color: var(--ok); }
.unjudged { color: inherit; } .legend svg { vertical-align: middle; margin-right: .3rem; }
.legend span { margin-right: 1rem; white-space: nowrap; }
@media (max-width: 40rem) {
  summary svg { width: 6rem; height: 14px; } details { margin-left: .6rem; }
  table { font-size: .85rem; } td, th { padding-right: .5rem; } svg text { font-size: 17px; }
}
"""


@dataclass(frozen=True)
class Shown:
    """A sample in the tree of its problem: what it is and what became of it."""

    sample: Sample
    verdict: Verdict


def page(
    summary: Summary,
    title: str,
    statements: Mapping[str, str],
    samples: Mapping[str, Sequence[Shown]],
) -> str:
    """The whole page. Everything that a model or a data set wrote is escaped, and the page's own
    policy forbids scripts and loading anything.

    Args:
        statements: By problem id; may lack some.
        samples: By problem id; empty where the samples file was not given.
    """
    return "".join(_parts(summary, title, statements, samples))


def _parts(
    summary: Summary,
    title: str,
    statements: Mapping[str, str],
    samples: Mapping[str, Sequence[Shown]],
) -> Iterator[str]:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    yield '<meta name="viewport" content="width=device-width">\n'
    yield f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
    yield f"<h1>{escape(title)}</h1>\n"
    yield "".join(f"<p>{_sentence(line)}</p>\n" for line in solved_lines(summary))
    if summary.estimates:
        yield f"<h2>pass@k</h2>\n{plots.pass_curve(summary.estimates)}\n"
        yield from _estimates(summary)
    yield from _savings(summary)
    yield "<h2>Problems</h2>\n"
    yield from _legend(summary)
    for result in summary.problems:
        problem_id = result.problem.problem_id
        yield from _problem(result, statements.get(problem_id, ""), samples.get(problem_id, ()))
    yield "</body></html>\n"


def _sentence(line: str) -> str:
    return f"{escape(line[0].upper() + line[1:])}."


def _estimates(summary: Summary) -> Iterator[str]:
    yield '<table><tr><th>difficulty<th class="n">k<th class="n">pass@k'
    yield '<th class="n">95% interval<th class="n">problems</tr>\n'
    groups: list[tuple[str, Sequence[Estimate]]] = [("all", summary.estimates)]
    for name, estimates in [*groups, *summary.by_difficulty.items()]:
        yield "<tbody>"
        for estimate in estimates:
            yield (
                f'<tr><td>{escape(name)}<td class="n">{estimate.k}'
                f'<td class="n">{estimate.value:.1%}'
                f'<td class="n">{interval(estimate)}'
                f'<td class="n">{estimate.num_problems}</tr>\n'
            )
            name = ""
        yield "</tbody>"
    yield "</table>\n"


def _legend(summary: Summary) -> Iterator[str]:
    """What the colours mean, of verdicts that occur."""
    yield '<p class="legend">'
    for code in summary.counts:
        yield f"<span>{plots.swatch(code)}{escape(code)} {MEANINGS[code]}</span> "
    yield "</p>\n"


def _savings(summary: Summary) -> Iterator[str]:
    savings = summary.savings
    if savings is None:
        return
    pairs = (
        ("prompt tokens computed, of those sent", savings.computed_tokens, savings.prompt_tokens),
        ("KV tokens read, of a flat batch's", savings.kv_tokens_read, savings.kv_tokens_read_flat),
        ("seconds, of those with --sharing off", savings.seconds, savings.seconds_sharing_off),
    )
    rows = [(name, done, flat) for name, done, flat in pairs if done is not None and flat]
    yield "<h2>What sharing saved</h2>\n"
    for line in savings_lines(savings):
        yield f"<p>{_sentence(line)}</p>\n"
    if rows:
        yield plots.paired_bars(rows)


def _problem(result: ProblemResult, statement: str, samples: Sequence[Shown]) -> Iterator[str]:
    problem = result.problem
    yield '<details class="problem"><summary>'
    yield plots.stacked_bar(list(result.counts.items()))
    yield f" {result.num_passing} of {result.num_samples} pass: "
    yield escape(problem.title or problem.problem_id)
    difficulty = f", difficulty {problem.difficulty}" if problem.difficulty else ""
    yield f" <small>{escape(problem.problem_id + difficulty)}</small></summary>\n"
    if statement:
        yield f'<details><summary>statement</summary><pre class="text">{escape(statement)}</pre>'
        yield "</details>\n"
    children: dict[int | None, list[Shown]] = {}
    known = {shown.sample.sample_index for shown in samples}
    for shown in samples:
        parent = shown.sample.parent
        # A sample that names itself, a later one or none that is there hangs from the problem.
        real = parent is not None and parent in known and parent < shown.sample.sample_index
        children.setdefault(parent if real else None, []).append(shown)
    yield from _tree(children)
    yield "</details>\n"


def _tree(children: Mapping[int | None, Sequence[Shown]]) -> Iterator[str]:
    """Depth first, without recursion: a chain of repairs may be long."""
    waiting: list[Shown | str] = list(reversed(children.get(None, ())))
    while waiting:
        shown = waiting.pop()
        if isinstance(shown, str):
            yield shown
            continue
        yield from _sample(shown)
        waiting.append("</details>\n")
        waiting += reversed(children.get(shown.sample.sample_index, ()))


def _sample(shown: Shown) -> Iterator[str]:
    sample, verdict = shown.sample, shown.verdict
    repaired = f", repair {sample.round}" if sample.round else ""
    yield f'<details><summary><span class="code {verdict.code}">{verdict.code}</span> '
    yield f"sample {sample.sample_index}{repaired}"
    if verdict.first_failing_case is not None:
        yield f", fails case {verdict.first_failing_case + 1} of {verdict.num_cases}"
    yield f" <small>{verdict.cpu_seconds:.2f} s, {verdict.memory_bytes / (1 << 20):.0f} MiB"
    yield (
        f"</small></summary>\n<p>{escape(verdict.detail)}</p>"
        if verdict.detail
        else ("</small></summary>\n")
    )
    yield f"<pre>{escape(sample.program if sample.program is not None else sample.text)}</pre>\n"

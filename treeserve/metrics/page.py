"""The page that lists every metric: `python -m treeserve.metrics.page > docs/metrics.md`."""

from collections.abc import Iterator

from treeserve.metrics.declaration import Declaration, Section
from treeserve.metrics.declarations import ALL, MAX_TENANTS, NO_TENANT, OTHER_TENANTS

_TITLES: dict[Section, str] = {
    "server": "The server",
    "requests": "Requests: one for each prompt",
    "samples": "Samples: n for each prompt",
    "steps": "Steps",
    "sharing": "What sharing saves, and why not more",
    "memory": "Memory",
    "scheduling": "Scheduling",
}
_HEAD = f"""\
# Metrics

What `treeserve serve` shows at `/metrics`. This page is made from the declarations in
`treeserve/metrics/declarations.py`; a test fails where they disagree. Dashboards, rules and alerts
over these metrics are in [deploy/](../deploy), described in [deploy.md](deploy.md).

- Seconds and bytes, never multiples of them. Counters end with `_total`. A histogram has `_bucket`,
  `_sum` and `_count`.
- A **request** is one prompt with all its samples; a tree of prompts is one call of several
  requests. What concerns a caller is counted per request, what is drawn per sample: n = 8 is one
  request and eight samples.
- Labels never hold prompts, ids or keys. `tenant` is that of the API key or the client certificate,
  `{NO_TENANT}` without one; the first {MAX_TENANTS} have series of their own, all later ones share
  `{OTHER_TENANTS}`. `method` and `code` are gRPC's. A server has one model, whose name is a label
  of `treeserve_info`, to be joined on `instance`.
- Counters whose labels are known beforehand begin at 0; others appear with their first event.
- Steps are added up 64 at a time, and whenever somebody asks: what is shown is never behind.
"""


def render_page() -> str:
    """As Markdown."""
    lines = [_HEAD]
    for section, title in _TITLES.items():
        lines += [f"## {title}", "", "| metric | type | unit | labels | what it is | answers |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [_row(declared) for declared in ALL if declared.section == section]
        lines += [""]
    lines += ["## Buckets", "", *_buckets()]
    return "\n".join(lines) + "\n"


def _row(declared: Declaration) -> str:
    labels = ", ".join(f"`{label}`" for label in declared.labels)
    if declared.values:
        labels += ": " + ", ".join(declared.values)
    return (
        f"| `{declared.series}` | {declared.kind} | {declared.unit} | {labels} "
        f"| {declared.text} | {declared.question} |"
    )


def _buckets() -> Iterator[str]:
    for declared in ALL:
        if declared.buckets:
            bounds = ", ".join(f"{bound:g}" for bound in declared.buckets)
            yield f"- `{declared.series}`: {bounds}"


if __name__ == "__main__":
    print(render_page(), end="")

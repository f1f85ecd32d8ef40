"""The modules benchmark's result, from its JSON form to a page for people."""

from collections.abc import Mapping
from typing import Any

from treeserve.bench.table import Column, TableStyle, fit, machine_line, number, render_table


def render_modules(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    """Lines for a terminal, or Markdown."""
    options = result["options"]
    lines = [
        machine_line(result),
        f"{result['model']}, {result['dtype']}, attention {result['backend']}; "
        f"{options['own_tokens']} own tokens, medians of {options['rounds']} rounds; "
        f"{result['bytes_per_token']:,} bytes per cached token",
        "",
    ]
    if result["lengths"]:
        lines += _lengths(result, style)
    if result["mix"] is not None:
        lines += ["", *_mix(result, style)]
    if result["answers"] is not None:
        lines += ["", *_answers(result["answers"], style)]
    return fit(lines, style)


def _lengths(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    columns = [
        Column("tokens in modules", 17),
        Column("in full, s", 11),
        Column("after a cached prefix, s", 25),
        Column("first import, s", 16),
        Column("of modules, s", 14),
        Column("full / modules", 15),
    ]
    rows = [
        [
            f"{entry['length']:,}",
            number(entry["seconds"]["full"], 2),
            number(entry["seconds"]["prefix"], 3),
            number(entry["first_import_seconds"], 2),
            number(entry["seconds"]["modules"], 3),
            number(entry["speedup"], 1) + "×",
        ]
        for entry in result["lengths"]
    ]
    return render_table(columns, rows, style)


def _mix(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    options, mix = result["options"], result["mix"]
    columns = [
        Column(f"{options['num_prompts']} prompts at once", 21),
        Column("median first token, s", 22),
        Column("last, s", 9),
        Column("computed tokens", 16),
        Column("tokens held", 12),
        Column("bytes per prompt token", 23),
    ]
    rows = [
        [
            "prefix caching" if name == "prefix" else name,
            number(side["median_seconds"], 2),
            number(side["last_seconds"], 2),
            f"{side['computed_tokens']:,}",
            f"{side['held_tokens']:,}",
            f"{side['bytes_per_prompt_token']:,.0f}",
        ]
        for name, side in mix["sides"].items()
    ]
    said = (
        f"Each imports {options['imports']} of {options['num_modules']} modules of "
        f"{options['module_tokens']} tokens, {mix['prompt_tokens']:,} prompt tokens in all:"
    )
    return [said, "", *render_table(columns, rows, style)]


def _answers(answers: Mapping[str, Any], style: TableStyle) -> list[str]:
    columns = [
        Column("answers", 12),
        Column("mean logprob", 13),
        Column("mean |difference|", 18),
        Column("greatest", 9),
    ]
    rows = [
        [
            side,
            f"{found['mean_logprob']:.4f}",
            f"{found['mean_difference']:.4f}",
            f"{found['max_difference']:.3f}",
        ]
        for side, found in answers["sides"].items()
    ]
    said = (
        f"{answers['model']}: the reference programs of {answers['problems']} problems after "
        f"{answers['examples']} solved examples, a module each; {answers['scored_tokens']:,} "
        "tokens, differences from exact in natural-log units:"
    )
    return [said, "", *render_table(columns, rows, style)]

"""Runs the sides one after the other, and says where their difference comes from."""

import os
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from treeserve.bench.contest.sides import (
    SIDES,
    TREE,
    TREE_SAME_BATCH,
    TRUNK,
    Contest,
    measure_side,
)
from treeserve.bench.contest.so_far import ResultSoFar
from treeserve.bench.machine import describe_machine
from treeserve.bench.so_far import Watch
from treeserve.bench.table import Column, TableStyle, fit, machine_line, number, render_table
from treeserve.calibration.choice import PlanningCosts
from treeserve.config import SchedulerConfig
from treeserve.model import LoadedModel


def measure_contest(
    contest: Contest,
    sides: Sequence[str],
    model: LoadedModel,
    backend: str,
    costs: PlanningCosts,
    config: SchedulerConfig,
    watch: Watch,
    time_limit: float | None = None,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Plain data of all sides.

    Args:
        watch: Is given the result so far after each side.
        time_limit: Seconds after which no further side is begun.
        before: An earlier result of the same settings; its sides are not measured again.

    Raises:
        ConfigError: The earlier result is of other settings.
        ContestFailed: A step failed, or a side drew other samples than the first one.
    """
    settings = _settings(contest, model, backend, costs, config)
    so_far = ResultSoFar(settings, contest.temperature == 0, before)
    started = perf_counter()
    left_out: list[str] = []
    for name in SIDES:
        if name not in sides or name in so_far:
            continue
        if time_limit is not None and so_far and perf_counter() - started > time_limit:
            left_out.append(name)
            continue
        watch.tell(f"{name}: {SIDES[name]}")
        load = os.getloadavg()[0]
        most = so_far.peak_batch(TRUNK) if name == TREE_SAME_BATCH else None
        measured = measure_side(
            name, contest, model, backend, costs.model, config, most, tell=watch.step
        )
        watch.tell(f"{name}: {measured.seconds:.1f} s")
        so_far.add(name, measured, load)
        watch.keep(so_far.as_json())
    return so_far.as_json(left_out)


def _settings(
    contest: Contest,
    model: LoadedModel,
    backend: str,
    costs: PlanningCosts,
    config: SchedulerConfig,
) -> dict[str, Any]:
    return {
        "benchmark": "contest",
        **describe_machine(model.device),
        "model": model.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "backend": backend,
        "costs": costs.source,
        "problems": len(contest.prompts),
        "samples": contest.num_samples,
        "max_tokens": contest.max_tokens,
        "temperature": contest.temperature,
        "trunk_tokens": contest.num_trunk_tokens,
        "problem_tokens": sum(map(len, contest.prompts)) / len(contest.prompts)
        - contest.num_trunk_tokens,
        "pages": config.num_pages,
        "page_size": config.page_size,
    }


def contest_lines(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    """A table of the sides, and where the difference came from."""
    head = [
        machine_line(result),
        f"{result['model']}, {result['dtype']}: {result['problems']} problems × "
        f"{result['samples']} samples × {result['max_tokens']} tokens; a trunk of "
        f"{result['trunk_tokens']} tokens, problems of {result['problem_tokens']:.0f}; a pool of "
        f"{result['pages']:,} pages of {result['page_size']}",
        "",
    ]
    columns = [
        Column("side", 16),
        *(
            Column(title, width)
            for title, width in (
                ("s", 7),
                ("s with prompts", 15),
                ("ms a token", 11),
                ("steps", 6),
                ("mean batch", 11),
                ("peak pages", 11),
                ("prompt tokens", 14),
                ("KV tokens read", 15),
                ("parted", 7),
                ("load", 6),
            )
        ),
    ]
    rows = [_row(name, side) for name, side in result["sides"].items()]
    return [*fit(head, style), *render_table(columns, rows, style), "", *_explained(result, style)]


def _row(name: str, side: Mapping[str, Any]) -> list[str]:
    return [
        name,
        number(side["seconds"]),
        number(side["prompt_seconds"]),
        number(_token_milliseconds(side), 2),
        number(side["num_steps"], 0),
        number(side["mean_batch"]),
        number(side["peak_pages"], 0),
        number(side["prompt_tokens_computed"], 0),
        number(side["kv_tokens_read"], 0),
        str(side["parted"]),
        number(side["load"]),
    ]


def _explained(result: Mapping[str, Any], style: TableStyle) -> list[str]:
    sides = result["sides"]
    lines = [f"{name}: {SIDES[name]}" for name in sides]
    if result["left_out"]:
        lines.append(f"left out for the time limit: {', '.join(result['left_out'])}")
    if TRUNK in sides and TREE in sides:
        trunk, tree = sides[TRUNK], sides[TREE]
        lines += ["", f"trunk to tree: {_change(trunk, tree, 'seconds')} of the time"]
        if TREE_SAME_BATCH in sides:
            same = sides[TREE_SAME_BATCH]
            lines.append(
                f"of which {_change(trunk, same, 'seconds')} at the same batch, by what need not "
                f"be computed and read again (steps with prompt tokens: "
                f"{trunk['prompt_seconds']:.1f} to {same['prompt_seconds']:.1f} s; others: "
                f"{number(_token_milliseconds(trunk), 2)} to "
                f"{number(_token_milliseconds(same), 2)} ms for each token drawn), and then "
                f"{_change(same, tree, 'seconds')} by the larger batch"
            )
    return fit(lines, style) if style == "text" else [f"{line}  " if line else "" for line in lines]


def _token_milliseconds(side: Mapping[str, Any]) -> float | None:
    """Of the steps without prompt tokens, for each token drawn in them; None: nobody counted them.

    Their sum would be no measure: where more is computed, fewer such steps are left.
    """
    drawn = side.get("num_drawn_without")
    return (side["seconds"] - side["prompt_seconds"]) / drawn * 1e3 if drawn else None


def _change(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> str:
    return f"{after[name] / before[name] - 1:+.0%}"

"""A benchmark's result as it grows, part by part, and what goes on from an earlier one."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from treeserve.errors import ConfigError


@dataclass(frozen=True)
class Watch:
    """Who is told how far it is, of each part and within one, and given the result after each."""

    tell: Callable[[str], None]
    step: Callable[[str], None]
    keep: Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Beginning:
    """What a run begins with: settings that hold for all parts, and the parts there are already."""

    settings: dict[str, Any]
    parts: dict[str, Any]
    """Of the earlier result; empty where nothing is gone on from."""


def begin(
    settings: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    parts: Sequence[str],
    of_a_run: Sequence[str] = ("date",),
) -> Beginning:
    """Begin anew, or go on from an earlier result of the same machine, versions and options.

    Args:
        settings: What is measured, on which device, with how many threads and which versions.
        before: The earlier result, if there is one.
        parts: Names under which a result has what was measured.
        of_a_run: Names of settings that the earlier result may have otherwise; its own are kept.

    Raises:
        ConfigError: The earlier result is of other settings.
    """
    # As they are after a file.
    now: dict[str, Any] = json.loads(json.dumps(settings))
    if before is None:
        return Beginning(now, {})
    missing = [name for name in (*of_a_run, *parts) if name not in before]
    differing = missing or [
        name
        for key in now
        if key not in of_a_run
        for name in _differing(key, now[key], before.get(key))
    ]
    if differing:
        raise ConfigError(
            f"--go-on: the earlier result is of other {' and '.join(differing)}; "
            "give the same options on the same machine, or name another file"
        )
    kept = {name: before[name] for name in of_a_run}
    return Beginning(now | kept, {name: before[name] for name in parts})


class CasesSoFar:
    """Settings, and cases, each under what tells it apart.

    Args:
        settings: As for begin().
        keys: The fields of a case that tell it apart.
        before: An earlier result of the same settings, whose timed cases are not measured again.
        of_a_run: As for begin().

    Raises:
        ConfigError: The earlier result is of other settings.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        keys: Sequence[str],
        before: Mapping[str, Any] | None,
        of_a_run: Sequence[str] = ("date",),
    ) -> None:
        self._keys = tuple(keys)
        self._cases: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        begun = begin(settings, before, ["cases"], of_a_run)
        self._settings = begun.settings
        for case in begun.parts.get("cases", ()):
            if case["status"] == "timed":
                self.add(case)

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self._cases

    @property
    def cases(self) -> list[Mapping[str, Any]]:
        """In the order of what tells them apart."""
        return [self._cases[key] for key in sorted(self._cases)]

    def add(self, case: Mapping[str, Any]) -> None:
        """One that was measured, in its JSON form."""
        self._cases[tuple(case[key] for key in self._keys)] = case

    def setting(self, name: str) -> Any:
        """As it is now, or as it was in the earlier result."""
        return self._settings[name]

    def as_json(self, left_out: Sequence[str] = ()) -> dict[str, Any]:
        """The whole result, but for what is worked out of its cases.

        Args:
            left_out: Names of cases that were not measured, for want of time.
        """
        return {**self._settings, "cases": self.cases, "left_out": list(left_out)}


def _differing(name: str, now: Any, before: Any) -> Iterator[str]:
    """Names of what differs; of what is in a record, with the record's name before it."""
    if not (isinstance(now, dict) and isinstance(before, dict)):
        if now != before:
            yield name
        return
    for key in dict.fromkeys((*now, *before)):
        yield from _differing(f"{name}.{key}", now.get(key), before.get(key))

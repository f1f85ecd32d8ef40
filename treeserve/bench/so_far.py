"""A benchmark's result as it grows, case by case, and what goes on from an earlier one."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from treeserve.errors import ConfigError


@dataclass(frozen=True)
class CaseWatch:
    """Who is told what is being done, and the result after each case."""

    report: Callable[[str], None]
    keep: Callable[[Mapping[str, Any]], None]


class CasesSoFar:
    """Plain data: settings that hold for all cases, and the cases, each under what tells it apart.

    Args:
        settings: What is measured, on which device, with which versions.
        keys: The fields of a case that tell it apart.
        before: An earlier result of the same settings, whose timed cases are not measured again.
        of_a_run: Names of settings that an earlier result may have otherwise; its own are kept.

    Raises:
        ConfigError: The earlier result is of other settings.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        keys: Sequence[str],
        before: Mapping[str, Any] | None,
        of_a_run: Sequence[str],
    ) -> None:
        self._keys = tuple(keys)
        # As they are after a file.
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._cases: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        if before is not None:
            self._require_same_settings(before, of_a_run)
            self._settings |= {name: before[name] for name in of_a_run}
            for case in before["cases"]:
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

    def _require_same_settings(self, before: Mapping[str, Any], of_a_run: Sequence[str]) -> None:
        differing = [
            name
            for name, value in self._settings.items()
            if name not in before or (name not in of_a_run and before[name] != value)
        ]
        if differing or "cases" not in before:
            raise ConfigError(
                f"--go-on: the earlier result is of other {' and '.join(differing) or 'kind'}; "
                "give the same options, or name another file"
            )

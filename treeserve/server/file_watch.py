"""Notices that files have changed."""

from collections.abc import Iterable
from pathlib import Path

_Stamp = tuple[int, int, int] | None


class FileWatch:
    """Compares files by their inode, size and time of change, without reading them.

    Args:
        paths: One that is not there is watched too.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._stamps = self._look()

    def has_changed(self) -> bool:
        """Whether any has since it was last asked."""
        before, self._stamps = self._stamps, self._look()
        return self._stamps != before

    def _look(self) -> list[_Stamp]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns

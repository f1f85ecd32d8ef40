"""The files that a schema's src attributes name: in its own folder, within bounds, no cycles."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from treeserve.pml.place import Place, PmlError
from treeserve.pml.tags import Text
from treeserve.pml.xml_reader import MAX_BYTES, Element, check_size, decoded, read_xml

PML_SUFFIX = ".pml"


class Sources:
    """Files of one schema.

    Args:
        folder: Of the schema; None where it comes from no file.
        file: The schema's own, which no src may name.
        num_bytes: Of the schema itself.
    """

    def __init__(self, folder: Path | None, file: Path | None, num_bytes: int) -> None:
        self._folder = None if folder is None else folder.resolve()
        self._open: list[Path] = [] if file is None else [file.resolve()]
        self._num_bytes = num_bytes

    @contextmanager
    def opened(self, src: str, place: Place) -> Iterator[Element | Text]:
        """What a src names: the root of a PML file, or another file's text.

        While a PML file is open, no src may name it again.

        Raises:
            PmlError: At the place, or in that file.
        """
        path = self._path(src, place)
        if path in self._open:
            names = " → ".join(self._name(file) for file in [*self._open, path])
            raise PmlError(place, f"cyclic src: {names}")
        data = self._read(path, src, place)
        if path.suffix != PML_SUFFIX:
            text = decoded(data, str(path)).replace("\r\n", "\n").replace("\r", "\n")
            yield Text(text, Place(str(path), 1, 1))
            return
        self._open.append(path)
        try:
            yield read_xml(data, str(path))
        finally:
            self._open.pop()

    def _path(self, src: str, place: Place) -> Path:
        if self._folder is None:
            raise PmlError(place, f"src={src!r}, but this schema is in no folder; expected text")
        if not src or "\0" in src or Path(src).is_absolute():
            raise PmlError(place, f"src={src!r}; expected a path relative to the schema's folder")
        path = (self._folder / src).resolve()
        if not path.is_relative_to(self._folder):
            raise PmlError(
                place, f"src={src!r} leaves the schema's folder; expected a file inside it"
            )
        return path

    def _read(self, path: Path, src: str, place: Place) -> bytes:
        if not path.is_file():
            raise PmlError(place, f"src={src!r} is no file; expected one in the schema's folder")
        left = MAX_BYTES - self._num_bytes
        try:
            with path.open("rb") as file:
                data = file.read(left + 1)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise PmlError(place, f"src={src!r} cannot be read: {reason}") from None
        if len(data) > left:
            raise PmlError(
                place,
                f"src={src!r}: schema and src files have more than {MAX_BYTES} bytes "
                "(MAX_BYTES), the most",
            )
        check_size(len(data), str(path))
        self._num_bytes += len(data)
        return data

    def _name(self, path: Path) -> str:
        assert self._folder is not None
        return path.relative_to(self._folder).as_posix()

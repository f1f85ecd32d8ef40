"""The languages that samples may be written in: a table of command lines."""

from dataclasses import dataclass, replace
from typing import Literal

from treeserve.contest.sandbox.limits import MEBIBYTE, Limits

LanguageName = Literal["python", "cpp"]


@dataclass(frozen=True)
class Language:
    """How a program of one language is prepared and run.

    In command lines `{box}` is the folder with the program's files and `{python}` the interpreter.

    Attributes:
        source: The file that the program is written to.
        build: Run once for a program; it fails where the program is no program. Where `built` is
            given it writes that file to stdout.
        built: The file that is run, in place of the source; None: the source is.
        run: Runs it.
        fences: What Markdown calls the language, after three backticks.
    """

    source: str
    build: tuple[str, ...]
    built: str | None
    run: tuple[str, ...]
    fences: tuple[str, ...]
    build_limits: Limits
    stack_bytes: int | None = None

    def limits(self, limits: Limits) -> Limits:
        """The limits of a run, with this language's own."""
        return replace(limits, stack_bytes=self.stack_bytes)


_CHECK = "import sys; compile(open(sys.argv[1], 'rb').read(), 'main.py', 'exec')"
_GPLUSPLUS = "g++ -O2 -std=c++17 -pipe -o /tmp/built {box}/main.cpp >&2 && cat /tmp/built"

LANGUAGES: dict[str, Language] = {
    "python": Language(
        source="main.py",
        build=("{python}", "-I", "-S", "-c", _CHECK, "{box}/main.py"),
        built=None,
        run=("{python}", "-I", "{box}/main.py"),
        fences=("python", "py", "python3"),
        build_limits=Limits(10.0, 20.0, 512 * MEBIBYTE, MEBIBYTE, MEBIBYTE, 4),
    ),
    "cpp": Language(
        source="main.cpp",
        build=("/bin/sh", "-c", _GPLUSPLUS),
        built="main",
        run=("{box}/main",),
        fences=("cpp", "c++", "cc", "cxx"),
        build_limits=Limits(20.0, 40.0, 1024 * MEBIBYTE, 64 * MEBIBYTE, 64 * MEBIBYTE, 8),
        stack_bytes=256 * MEBIBYTE,
    ),
}

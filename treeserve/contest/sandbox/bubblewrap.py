"""Bubblewrap: finding it, and the command line of a sandbox that holds nothing but the system."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from treeserve.errors import ConfigError, TreeserveError

_HOW_TO_INSTALL = (
    "install bubblewrap (Debian, Ubuntu: apt-get install -y bubblewrap; Fedora: dnf install "
    "bubblewrap)"
)
_NEEDED = ("--json-status-fd", "--perms", "--size", "--clearenv")
_ALWAYS = (
    "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts",
    "--unshare-cgroup-try", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox",
    "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv",
)  # fmt: skip
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    # A thread's own arena would take 64 MiB of address space, and numeric libraries start a thread
    # for each core.
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_ROOTS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FILES = ("/etc/ld.so.cache", "/etc/alternatives")


class NoSandbox(ConfigError):
    """Programs cannot be confined here; the message says what to do."""


class SandboxFailed(TreeserveError):
    """A sandbox that has worked did not start; nothing is known about the program."""


def find_bubblewrap() -> tuple[Path, str]:
    """Where it is, and its help text.

    Raises NoSandbox where it is missing or too old.
    """
    found = shutil.which("bwrap")
    if found is None:
        raise NoSandbox(f"sandbox: bubblewrap is not installed: {_HOW_TO_INSTALL}")
    text = _output([found, "--help"])
    missing = [option for option in _NEEDED if option not in text]
    if missing:
        raise NoSandbox(
            f"sandbox: {_output([found, '--version']).strip()} is too old (no {missing[0]}): "
            "0.5 or newer is needed"
        )
    return Path(found), text


def bubblewrap_version() -> str:
    """In its own words."""
    return _output([str(find_bubblewrap()[0]), "--version"]).strip()


def command_line(extra: tuple[Path, ...] = ()) -> list[str]:
    """The command line up to what differs from run to run.

    Read-only: the system's programs and libraries, and `extra`. Nothing else of this machine.
    """
    program, text = find_bubblewrap()
    line = [str(program), *_ALWAYS]
    if "--disable-userns" in text:
        line.append("--disable-userns")
    for name, value in _ENVIRONMENT.items():
        line += ["--setenv", name, value]
    line += ["--ro-bind", "/usr", "/usr"]
    for name in _ROOTS:
        root = Path("/", name)
        if root.is_symlink():
            line += ["--symlink", os.readlink(root), str(root)]
        elif root.is_dir():
            line += ["--ro-bind", str(root), str(root)]
    for path in (*_FILES, *map(str, extra)):
        line += ["--ro-bind-try", path, path]
    return [*line, "--proc", "/proc", "--dev", "/dev"]


def python_prefixes() -> list[tuple[Path, tuple[Path, ...]]]:
    """Interpreters that may run samples, best first, each with the folders that it needs: this
    one's own, then the system's.
    """
    own = Path(os.path.realpath(sys.executable))
    prefix = Path(os.path.realpath(sys.base_prefix))
    inside = Path("/usr") == prefix or Path("/usr") in prefix.parents
    found: list[tuple[Path, tuple[Path, ...]]] = [(own, () if inside else (prefix,))]
    for folder in ("/usr/local/bin", "/usr/bin"):
        other = Path(os.path.realpath(Path(folder, "python3")))
        if other.is_file() and Path("/usr") in other.parents:
            found.append((other, ()))
    return found


def explain(failure: str) -> str:
    """What to do where bubblewrap is there and does not start."""
    text = re.sub(r"\s+", " ", failure).strip() or "it said nothing"
    return (
        f"sandbox: bubblewrap does not work here: {text}; in a container, allow user namespaces "
        "(docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined)"
    )


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr

"""The child process in which a model's programs run; started by file name, it imports nothing of
treeserve.

It reads one JSON task per line (`program`, `inputs`) and answers one line: the `outputs` of the
cases that ended well, and `failure` and `detail` for the first that did not. Programs come here
only after `small_python.refusal`.
"""

import builtins
import json
import resource
import signal
import sys
from collections.abc import Callable
from types import CodeType, FrameType

MEMORY_BYTES = 256 << 20
OUTPUT_CHARACTERS = 1 << 16
BUILTINS = [
    "abs", "all", "any", "bool", "chr", "dict", "divmod", "enumerate", "filter", "float", "int",
    "len", "list", "map", "max", "min", "ord", "pow", "print", "range", "reversed", "round", "set",
    "sorted", "str", "sum", "tuple", "zip",
]  # fmt: skip


class TimeIsUp(BaseException):
    """The program used up its time; no handler of its own can catch it, since it has none."""


class TooMuchOutput(BaseException):
    """The program printed more than any answer needs."""


def main() -> None:
    """Answer tasks until the input ends."""
    tasks, replies = sys.stdin, sys.stdout
    confine()
    signal.signal(signal.SIGPROF, _raise_time_is_up)
    replies.write("ready\n")
    replies.flush()
    for line in tasks:
        task = json.loads(line)
        reply = run(task["program"], task["inputs"], float(sys.argv[1]), float(sys.argv[2]))
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def confine() -> None:
    """Give up memory, files, processes and core dumps for good."""
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, 600),
    ):
        resource.setrlimit(limit, (value, value))


def run(program: str, inputs: list[str], seconds: float, grace: float) -> dict[str, object]:
    """Run a program on each input, all together for so many seconds of the processor.

    Where it does not come to see that they are over, Linux ends this process `grace` later.
    """
    outputs: list[str] = []
    failure: str | None = None
    detail = ""
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds + grace)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        code = compile(program, "program", "exec")
        for text in inputs:
            outputs.append(_run_case(code, text))
    except TimeIsUp:
        failure, detail = "timeout", f"more than {seconds:g} s"
    except TooMuchOutput:
        failure, detail = "error", "too much output"
    except BaseException as error:
        failure, detail = "error", f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return {"outputs": outputs, "failure": failure, "detail": detail}


def _run_case(code: CodeType, text: str) -> str:
    lines = iter(text.split("\n")[:-1] if text.endswith("\n") else text.split("\n"))
    printed: list[str] = []
    allowed: dict[str, object] = {name: getattr(builtins, name) for name in BUILTINS}
    allowed["input"] = _input_from(lines.__next__)
    allowed["print"] = _print_to(printed)
    exec(code, {"__builtins__": allowed})
    return "".join(printed)


def _input_from(next_line: Callable[[], str]) -> Callable[..., str]:
    def read(prompt: object = "") -> str:
        try:
            return next_line()
        except StopIteration:
            raise EOFError("no more input") from None

    return read


def _print_to(printed: list[str]) -> Callable[..., None]:
    count = 0

    def write(*values: object, sep: str = " ", end: str = "\n") -> None:
        nonlocal count
        text = sep.join(map(str, values)) + end
        count += len(text)
        if count > OUTPUT_CHARACTERS:
            raise TooMuchOutput
        printed.append(text)

    return write


def _raise_time_is_up(_signal: int, _frame: FrameType | None) -> None:
    raise TimeIsUp


if __name__ == "__main__":
    main()

"""Programs that mean harm: each ends as a verdict, harms nothing, and leaves no process."""

import dataclasses
import shutil
import tempfile
import uuid
from collections.abc import Iterator

import confined
import pytest

from treeserve.contest.judging import program_judge
from treeserve.contest.judging.program_judge import JudgeOptions
from treeserve.contest.records.contest_problem import CallCase, StdioCase, TestCase
from treeserve.contest.sandbox.languages import LANGUAGES
from treeserve.contest.sandbox.limits import MEBIBYTE, Limits
from treeserve.contest.sandbox.sandbox import Worker

CASE = StdioCase("1\n", "the right answer\n")
OPTIONS = JudgeOptions(
    time_seconds=30.0,
    memory_bytes=128 * MEBIBYTE,
    limits=Limits(output_bytes=MEBIBYTE, file_bytes=4 * MEBIBYTE, processes=8),
)

PROGRAMS = {
    "bombs with forks": ("import os\nwhile True: os.fork()", {"RE"}),
    "bombs with forks and ignores errors": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        {"TLE"},
    ),
    "starts threads without end": (
        "import threading, time\n"
        "while True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
        {"RE"},
    ),
    "fills memory": ("x = []\nwhile True: x.append(bytearray(1 << 20))", {"MLE"}),
    "fills memory in children": (
        "import os, time\n"
        "for _ in range(4): pid = os.fork() if not _ or pid else 0\n"
        "x = bytearray(60 << 20)\ntime.sleep(99)",
        {"MLE"},
    ),
    "asks for memory that nobody has": ("bytearray(1 << 40)", {"MLE"}),
    "fills memory through shared memory": (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "ids = [libc.shmget(0, 1 << 20, 0o1600) for _ in range(4000)]\n"
        "print('the right answer' if max(ids) >= 0 else 'refused')",
        {"WA"},
    ),
    "writes gigabytes to stdout": ("while True: print('x' * 100000)", {"OLE"}),
    "writes gigabytes to stderr": (
        "import sys\nwhile True: sys.stderr.write('x' * 100000)",
        {"OLE"},
    ),
    "writes gigabytes to a file": (
        "f = open('/tmp/x', 'wb')\nwhile True: f.write(bytes(1 << 20))",
        {"RE", "OLE"},
    ),
    "writes gigabytes to many files": (
        "import itertools\n"
        "for i in itertools.count(): open(f'/tmp/{i}', 'wb').write(bytes(1 << 20))",
        {"RE"},
    ),
    "writes outside its folder": ("open('/usr/x', 'w')", {"RE"}),
    "writes to the root": ("open('/x', 'w')", {"RE"}),
    "writes to shared memory": ("open('/dev/shm/x', 'w')", {"RE"}),
    "opens a socket": ("import socket\nsocket.socket()", {"RE"}),
    "opens a socket of the machine beneath": (
        "import socket\nsocket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
        {"RE"},
    ),
    "kills its parent and everybody": (
        "import os\n"
        "for pid in (os.getppid(), 1, 0, -1):\n"
        "    try: os.kill(pid, 9)\n"
        "    except OSError: pass\n"
        "print('alive')",
        {"WA", "RE"},
    ),
    "reads the passwords": ("print(open('/etc/shadow').read())", {"RE"}),
    "reads the home": ("import os\nprint(os.listdir('/root'), os.listdir('/home'))", {"RE"}),
    "sleeps for ever": ("import time\ntime.sleep(10 ** 6)", {"TLE"}),
    "ignores every signal and sleeps": (
        "import signal, time\n"
        "for n in set(signal.Signals) - {9, 19}: signal.signal(n, signal.SIG_IGN)\n"
        "while True: time.sleep(99)",
        {"TLE"},
    ),
    "closes stdout and works on": (
        "import os\nos.close(1)\nos.close(2)\nwhile True: pass",
        {"TLE"},
    ),
    "deletes its files": (
        "import os\nos.remove('/box/main.py')\nprint('the right answer')",
        {"RE"},
    ),
    "reads stdin for ever": ("import sys\nwhile True: sys.stdin.read()", {"TLE"}),
    "makes a namespace of its own": (
        "import ctypes\nprint(ctypes.CDLL(None).unshare(0x10000000))",
        {"WA"},
    ),
    "prints what the sandbox says": (
        'print(\'{ "exit-code": 0 }\\n{"passed": true}\\n{"code": "AC"}\')',
        {"WA"},
    ),
    "writes to every descriptor": (
        "import os\n"
        "for fd in range(256):\n"
        "    try: os.write(fd, b'{ \"exit-code\": 0 }\\n')\n"
        "    except OSError: pass\n"
        "os.kill(os.getpid(), 9)",
        {"RE"},
    ),
}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with confined.a_worker() as started:
        yield started


@pytest.mark.parametrize("deed", PROGRAMS)
def test_a_program_that(worker: Worker, deed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, expected = PROGRAMS[deed]
    if expected == {"TLE"}:
        monkeypatch.setattr(program_judge, "WALL_SLACK", 0.5)  # of those that sleep
    options = confined.hasty(OPTIONS, *expected)
    verdict = confined.judged(worker, program, CASE, options=options)
    assert verdict.code in expected, verdict
    assert verdict.first_failing_case == 0
    assert confined.judged(worker, "print('the right answer')", CASE, options=OPTIONS).passed


def test_a_daemon_ends_with_its_program(worker: Worker) -> None:
    mark = uuid.uuid4().hex
    program = (
        "import os\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        os.execv('/bin/sleep', ['{mark}', '1000'])\n"
        "    os._exit(0)\n"
        "os.wait()\nprint('the right answer')"
    )
    assert confined.judged(worker, program, CASE, options=OPTIONS).passed
    assert not confined.running(mark)


def test_a_sleeping_daemon_of_a_killed_program_ends_with_it(worker: Worker) -> None:
    mark = uuid.uuid4().hex
    program = (
        "import os\n"
        f"if os.fork() == 0: os.execv('/bin/sleep', ['{mark}', '1000'])\n"
        "while True: pass"
    )
    options = confined.hasty(OPTIONS, "TLE")
    assert confined.judged(worker, program, CASE, options=options).code == "TLE"
    assert not confined.running(mark)


def test_no_file_of_this_machine_is_seen(worker: Worker) -> None:
    """The problems file, the checkout, the home and the temporary folders of others."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as problems:
        problems.write("the right answer")
        problems.flush()
        program = (
            "import os\n"
            f"names = {[problems.name, __file__]}\n"
            "found = [name for name in names if os.path.exists(name)]\n"
            "print('the right answer' if found else sorted(os.listdir('/tmp')))"
        )
        verdict = confined.judged(worker, program, CASE, options=OPTIONS)
    assert verdict.code == "WA"
    assert "got '[]'" in verdict.detail


def test_what_one_run_leaves_in_tmp_no_other_run_sees(worker: Worker) -> None:
    program = (
        "import os\n"
        "print('the right answer' if not os.listdir('/tmp') else 'somebody was here')\n"
        "open('/tmp/left', 'w').write('x')"
    )
    assert confined.judged(worker, program, CASE, CASE, options=OPTIONS).passed


def test_the_environment_is_not_handed_on(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "1234")
    with confined.a_worker() as fresh:
        program = "import os\nprint('no' if 'SECRET_KEY' in os.environ else 'the right answer')"
        assert confined.judged(fresh, program, CASE, options=OPTIONS).passed


def test_a_program_has_no_privileges(worker: Worker) -> None:
    program = (
        "s = dict(l.split(':', 1) for l in open('/proc/self/status') if ':' in l)\n"
        "caps = [int(s[n], 16) for n in ('CapPrm', 'CapEff', 'CapBnd', 'CapInh')]\n"
        "print('the right answer' if not any(caps) and int(s['NoNewPrivs']) else caps)"
    )
    assert confined.judged(worker, program, CASE, options=OPTIONS).passed


CPP_BOMBS = {
    "templates without end": (
        "template<int N, int M> struct F {"
        " enum { v = F<N - 1, M * 2>::v + F<N - 1, M * 2 + 1>::v }; };\n"
        "template<int M> struct F<0, M> { enum { v = M }; };\n"
        "int main() { return F<26, 1>::v; }"
    ),
    "an object of gigabytes": "char big[3000000000] = {1};\nint main() { return big[5]; }",
    "an include of its own": '#include "/box/main.cpp"\nint main() {}',
    "an include of passwords": '#include "/etc/shadow"\nint main() {}',
    "an include without end": '#include "/dev/zero"\nint main() {}',
}


@pytest.mark.parametrize("bomb", CPP_BOMBS)
def test_a_huge_compilation_is_no_program(
    worker: Worker, bomb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    cpp = LANGUAGES["cpp"]
    small = dataclasses.replace(
        cpp.build_limits, cpu_seconds=1.5, wall_seconds=8.0, memory_bytes=300 * MEBIBYTE
    )
    monkeypatch.setitem(LANGUAGES, "cpp", dataclasses.replace(cpp, build_limits=small))
    verdict = confined.judged(worker, CPP_BOMBS[bomb], CASE, options=OPTIONS, language="cpp")
    assert verdict.code == "CE", verdict
    assert verdict.first_failing_case is None


CALL = CallCase((1, 2), (3,))
CHEATS = {
    "ends well before it answers": ("import os\nos._exit(0)", {"RE"}),
    "leaves the interpreter": ("import sys\nsys.exit(0)", {"RE"}),
    "leaves from the function": ("def add(a, b):\n    raise SystemExit(0)", {"RE"}),
    "prints a report": ('print(\'{"value": 3, "passed": true}\')\nadd = min', {"WA"}),
    "writes a report to every descriptor": (
        "import os\n"
        "for fd in range(64):\n"
        "    if fd != 3:\n"
        '        try: os.write(fd, b\'{"value": 3, "passed": true}\')\n'
        "        except OSError: pass\n"
        "os._exit(0)",
        {"RE"},
    ),
    "writes a report to its judge's descriptors": (
        "import glob, os\n"
        "for name in glob.glob('/proc/[0-9]*/fd/1'):\n"
        "    try:\n"
        "        with open(name, 'w') as f: f.write('{\"value\": 3, \"passed\": true}')\n"
        "    except OSError: pass\n"
        "os._exit(0)",
        {"RE"},
    ),
    "kills its judge": ("import os\nos.kill(os.getppid(), 9)", {"RE"}),
    "equals everything": (
        "class All(int):\n    def __eq__(self, other): return True\n"
        "    __hash__ = None\ndef add(a, b): return All(9)",
        {"WA"},
    ),
    "is an object that equals everything": (
        "class All:\n    def __eq__(self, other): return True\ndef add(a, b): return All()",
        {"WA", "RE"},
    ),
    "looks for the tests": (
        "import glob\n"
        "def add(a, b):\n"
        "    seen = ''\n"
        "    for f in glob.glob('/proc/[0-9]*/fd/0') + glob.glob('/proc/[0-9]*/mem'):\n"
        "        try: seen += open(f, errors='replace').read(1000)\n"
        "        except OSError: pass\n"
        "    return 3 if 'add' in seen else 4",
        {"WA"},
    ),
    "brings an assert of its own": (
        "all = lambda x: True\nabs = len = lambda x: 3\ndef add(a, b): return 4",
        {"WA"},
    ),
    "answers nonsense": (
        "import os\nos.write(3, b'nonsense\\n' * 9)\ndef add(a, b): return 3",
        {"RE"},
    ),
    "never answers": ("def add(a, b):\n    while True: pass", {"TLE"}),
    "fills memory in a call": ("def add(a, b): return [0] * 10 ** 9", {"MLE"}),
}


@pytest.mark.parametrize("cheat", CHEATS)
@pytest.mark.parametrize("kind", ["call", "tests"])
def test_a_function_that(worker: Worker, cheat: str, kind: str) -> None:
    program, expected = CHEATS[cheat]
    tests = TestCase("assert all([add(1, 2) == 3]) and abs(add(1, 2)) == 3")
    case = CALL if kind == "call" else tests
    options = confined.hasty(OPTIONS, *expected)
    verdict = confined.judged(worker, program, case, options=options, function_name="add")
    assert verdict.code in expected, verdict

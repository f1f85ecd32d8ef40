"""How far sampling has come, in a real terminal and elsewhere."""

import os
import pty
import threading

from treeserve.commands import sample_progress
from treeserve.commands.sample_progress import BarDisplay, LineDisplay, described, display
from treeserve.contest.sampling.progress import Progress


def progress() -> Progress:
    return Progress(
        num_problems=8,
        num_samples=128,
        problems_done=2,
        samples_done=48,
        samples_before=16,
        tokens_drawn=4000,
        prompt_tokens=1000,
        computed_tokens=250,
        seconds=40.0,
    )


LINE = "2 of 8 problems, 48 of 128 samples, 100 tokens/s, 75% of prompt tokens saved, 1:40 left"


def test_progress_is_told_in_problems_samples_tokens_savings_and_time():
    assert described(progress()) == LINE


def test_before_the_first_sample_no_time_is_promised():
    text = described(Progress(num_problems=8, num_samples=128))
    assert text == "0 of 8 problems, 0 of 128 samples, 0 tokens/s"


def test_elsewhere_than_in_a_terminal_lines_come_now_and_then(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(sample_progress.time, "monotonic", lambda: now[0])
    with display() as shown:
        assert isinstance(shown, LineDisplay)
        shown.tell(progress())
        assert capsys.readouterr().err == ""
        now[0] += 11
        shown.tell(progress())
        shown.tell(progress())
    assert capsys.readouterr().err == LINE + "\n"


class Reader(threading.Thread):
    """Reads all that a terminal is shown, as fast as it comes; `has_come` says that `wanted` has.

    A terminal that nobody reads takes a few thousand bytes and then holds up who writes.
    """

    def __init__(self, terminal: int, wanted: bytes) -> None:
        super().__init__()
        self._terminal = terminal
        self._wanted = wanted
        self.has_come = threading.Event()
        self.seen = b""

    def run(self) -> None:
        while True:
            try:
                self.seen += os.read(self._terminal, 65536)
            except OSError:
                # Nobody has it open any more.
                return
            if self._wanted in self.seen:
                self.has_come.set()


def test_in_a_terminal_there_is_a_bar_and_nothing_is_left_of_it(monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    reader = Reader(ours, b"1:40 left")
    reader.start()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with display() as shown:
            assert isinstance(shown, BarDisplay)
            shown.tell(progress())
            assert reader.has_come.wait(60), reader.seen
    reader.join(60)
    os.close(ours)
    assert reader.seen.endswith(b"\x1b[2K")

"""How far sampling has come, in a real terminal and elsewhere."""

import os
import pty
import time

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


def test_in_a_terminal_there_is_a_bar_and_nothing_is_left_of_it(monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with display() as shown:
            assert isinstance(shown, BarDisplay)
            shown.tell(progress())
            started = time.monotonic()
            while b"1:40 left" not in (seen := os.read(ours, 65536)):
                assert time.monotonic() - started < 60, seen
        terminal.flush()
        last = os.read(ours, 65536)
    os.close(ours)
    assert last.endswith(b"\x1b[2K")

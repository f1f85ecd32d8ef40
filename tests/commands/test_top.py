"""`treeserve top` in a real terminal, at a real server."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from server.side_house import House, prefix, running_house

from treeserve.client.activity_calls import RunningCall, ServerActivity, ServerTotals
from treeserve.client.tree_calls import PlannedStep
from treeserve.commands.main import main
from treeserve.commands.top_screen import Screen, Seen, draw_bars
from treeserve.config import EngineOptions
from treeserve.inspection import NodeUse, TreeNode, TreeView
from treeserve.pb import generation_pb2, prefix_pb2

ROOT = Path(__file__).parents[2]
TMUX = shutil.which("tmux")


@pytest.fixture
def options(checkpoint_of) -> EngineOptions:
    return EngineOptions(
        model=str(checkpoint_of("llama")), num_pages=512, page_size=16, sharing="always"
    )


class Terminal:
    """A tmux of its own, in which one command runs.

    Args:
        folder: Of its socket, its configuration and the command's key.
    """

    def __init__(self, folder: Path) -> None:
        self._base = [str(TMUX), "-S", str(folder / "tmux"), "-f", "/dev/null"]

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._base, *arguments], check=True, capture_output=True, text=True, cwd=ROOT
        )
        return done.stdout

    def start(self, command: str) -> None:
        keep = "; echo ended with $?; exec sleep 600"
        self.tmux("new-session", "-d", "-s", "t", "-x", "100", "-y", "32", command + keep)

    async def until(self, *wanted: str) -> str:
        """The screen, once it shows all of that."""
        screen = ""
        try:
            async with asyncio.timeout(200):
                while not all(text in screen for text in wanted):
                    screen = await asyncio.to_thread(self.tmux, "capture-pane", "-p", "-t", "t")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"never shown: {wanted}\n{screen}") from None
        return screen


@pytest.fixture
def terminal(tmp_path):
    terminal = Terminal(tmp_path)
    yield terminal
    subprocess.run([*terminal._base, "kill-server"], check=False, capture_output=True)


async def draw_for_ever(house: House) -> None:
    params = generation_pb2.Parameters(
        stopping=generation_pb2.Stopping(max_tokens=60, ignore_eos=True)
    )
    while True:
        text = "A trunk that both samples share"
        request = generation_pb2.GenerateRequest(text=text, params=params, n=2)
        async for _ in house.generation.Generate(request):
            pass


@pytest.mark.slow
@pytest.mark.skipif(TMUX is None, reason="there is no tmux: apt-get install tmux")
async def test_top_shows_tree_rates_and_calls_in_a_terminal(options, terminal, tmp_path):
    async with running_house(options) as house:
        [(_, value)] = house.own_key
        key = tmp_path / "key"
        key.write_text(value.removeprefix("Bearer "))
        drawing = asyncio.create_task(draw_for_ever(house))
        try:
            command = f"{sys.executable} -m treeserve top --interval 0.2 "
            command += f"--server {house.server.grpc_address} --api-key-file {key}"
            await asyncio.to_thread(terminal.start, command)
            screen = await terminal.until("tree (everybody's)", "Generate", "tokens/s", "used by")
            assert "running" in screen
            assert "KV reads saved" in screen
            assert "home" in screen
            await asyncio.to_thread(terminal.tmux, "send-keys", "-t", "t", "p")
            await terminal.until("paused; p goes on")
            await asyncio.to_thread(terminal.tmux, "send-keys", "-t", "t", "p")
            await terminal.until("p pauses")
            house.key_file.write_text("")
            house.server.reload()
            await terminal.until("treeserve top: UNAUTHENTICATED", "ended with 1")
        finally:
            drawing.cancel()
            await asyncio.gather(drawing, return_exceptions=True)


async def run_top(house: House, key: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "treeserve", "top", "--once", *options]
    command += ["--server", str(house.server.grpc_address)]
    environment = {**os.environ, "TREESERVE_API_KEY": key}
    return await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, env=environment
    )


@pytest.mark.slow
async def test_a_tenant_sees_its_own_and_one_round_fits_a_pipe(options):
    async with running_house(options) as house:
        warm = prefix_pb2.WarmRequest(prefix=prefix("mine alone"))
        await house.prefix.Warm(warm, metadata=house.key_of("acme"))
        await house.prefix.Warm(prefix_pb2.WarmRequest(prefix=prefix("somebody else's")))
        [(_, value)] = house.new_key("acme", "inspect")
        done = await run_top(house, value.removeprefix("Bearer "))
        assert (done.returncode, done.stderr) == (0, "")
        assert "tree (your own): 1 nodes of 10 tokens" in done.stdout
        assert "no call runs" in done.stdout
        assert "\x1b" not in done.stdout


@pytest.mark.parametrize("interval", ["0", "0.1", "61", "nan"])
def test_an_interval_that_is_out_of_range_is_refused(interval, capsys):
    assert main(["top", "--interval", interval]) == 2
    assert "--interval: must be between 0.2 and 60" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_one_line(capsys):
    assert main(["top", "--once", "--server", "127.0.0.1:1", "--timeout", "60"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("treeserve top: UNAVAILABLE")
    assert error.count("\n") == 1


def totals(**given) -> ServerTotals:
    return ServerTotals(**dict.fromkeys(ServerTotals.__slots__, 0) | given)


def shown(screen: Screen, width: int = 100, height: int = 40) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(screen.draw(width, height))
    console.file.close()
    return console.export_text()


def seen(activity: ServerActivity | None, view: TreeView | None = None) -> Seen:
    return Seen(view or TreeView((), 0, 0, 0), PlannedStep((), 0, None), activity, True)


def test_rates_are_of_the_time_between_two_rounds():
    screen = Screen("there")
    screen.see(seen(ServerActivity((), 0, totals(at_seconds=10.0, drawn_tokens=1000))))
    now = totals(at_seconds=12.0, drawn_tokens=1500, kv_tokens_read=25, kv_tokens_read_flat=100,
                 steps=4, step_seconds=0.1, cached_tokens=3, computed_tokens=1)  # fmt: skip
    screen.see(seen(ServerActivity((), 0, now)))
    text = shown(screen)
    assert "drawn 250/s" in text
    assert "KV reads saved 75%" in text
    assert "step 25 ms" in text
    assert "prompt tokens found 75%" in text


def test_a_server_that_has_started_anew_makes_no_negative_rate():
    screen = Screen("there")
    screen.see(seen(ServerActivity((), 0, totals(at_seconds=10.0, drawn_tokens=1000))))
    screen.see(seen(ServerActivity((), 0, totals(at_seconds=1.0, drawn_tokens=5))))
    assert "drawn –/s" in shown(screen)


def test_a_server_that_tells_no_activity_still_shows_its_tree():
    screen = Screen("there")
    screen.see(seen(None))
    text = shown(screen)
    assert "this server tells no rates" in text
    assert "0 nodes of 0 tokens" in text


def test_what_callers_named_things_cannot_move_the_cursor_or_colour_the_screen():
    call = RunningCall("\x1b[2J\u202eid", "[red]tenant[/red]", "Generate", 1.0, None, 0)
    node = TreeNode(1, None, "\x1b]0;hi\x07", 0, 5, 5, 1, 0, NodeUse(1, 0, None, 0.0, 0.0), ())
    screen = Screen("there")
    view = TreeView((node,), 0, 0, 5)
    screen.see(seen(ServerActivity((call,), 0, totals()), view))
    text = shown(screen)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b]0;hi\\x07" in text
    assert "[red]tenant[/red]" in text


def test_bars_are_as_high_as_values_beside_the_largest():
    assert draw_bars([0, 1, 2, 4]) == " ▂▄█"
    assert draw_bars([]) == ""
    assert draw_bars([0.0, 0.0]) == "  "

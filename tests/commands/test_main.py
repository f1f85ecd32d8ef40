"""The command line's errors: one line, on stderr, that says what would be right."""

import os

import pytest

from treeserve.commands import generate
from treeserve.commands.main import main


def run(capsys, *argv: str) -> tuple[int, str]:
    """Status and stderr of a command that must write nothing to stdout."""
    try:
        status = main(argv)
    except SystemExit as exit_:
        status = exit_.code
    captured = capsys.readouterr()
    assert captured.out == ""
    return status, captured.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "required"),
        (["serv"], "invalid choice: 'serv'"),
        (["generate"], "prompt: give exactly one of"),
        (["generate", "a", "--tree", "t.json"], "prompt: give exactly one of"),
        (["generate", "a", "--max-token", "3"], "'--max-token'; did you mean --max-tokens?"),
        (["generate", "a", "--max-tokens", "many"], "--max-tokens: invalid int value: 'many'"),
        (["generate", "a", "--dtype", "int4"], "--dtype: invalid choice: 'int4'"),
        (["generate", "a", "--num-pages", "0"], "num_pages: must be at least 1, got 0"),
        (["generate", "a", "--page-size", "-1"], "page_size: must be at least 1, got -1"),
        (["generate", "a", "--server", "x:1", "--dtype", "float32"], "--dtype: not with --server"),
        (["generate", "--prompt-file", "/nowhere"], "--prompt-file: cannot read /nowhere"),
        (["generate", "--tree", "/nowhere"], "/nowhere: cannot be read: No such file"),
        (["generate", "--tree", "/nowhere", "-n", "2"], "-n: not with --tree"),
        (["serve", "--grpc-address", "50051"], "grpc_address: must be HOST:PORT"),
        (["serve", "--http-address", "localhost:x"], "http_address: must be HOST:PORT"),
        (["serve", "--drain-grace", "-1"], "drain_grace_seconds: must be at least 0"),
        (["serve", "--max-calls", "0"], "max_calls: must be at least 1"),
        (["serve", "--prot", "1"], "unknown argument '--prot'"),
        (["demo", "--samples", "0"], "--samples: must be at least 1, got 0"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(capsys, argv, words):
    status, err = run(capsys, *argv)
    assert status == 2
    assert words in err
    assert err.startswith("treeserve")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["generate", "a", "--server", "127.0.0.1:1"], "UNAVAILABLE"),
        (["generate", "a", "--model", "./no-such-folder"], "no folder ./no-such-folder"),
    ],
)
def test_failures_are_one_line_and_status_1(capsys, argv, words):
    status, err = run(capsys, *argv)
    assert status == 1
    assert words in err
    assert err.count("\n") == 1


def test_a_model_folder_without_a_config_is_named(capsys, tmp_path):
    status, err = run(capsys, "generate", "a", "--model", str(tmp_path))
    assert status == 1
    assert f"model: the folder {tmp_path} has no config.json" in err
    assert err.count("\n") == 1


def test_a_prompt_file_must_be_utf8(capsys, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"ab\xff")
    status, err = run(capsys, "generate", "--prompt-file", str(file))
    assert status == 2
    assert f"{file} is not valid UTF-8 at byte 2" in err


def test_an_interrupt_is_status_130(capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "_run_here", interrupt)
    assert run(capsys, "generate", "a") == (130, "")


@pytest.mark.parametrize("command", ["serve", "generate", "demo", "calibrate"])
def test_help_teaches_by_example(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"\n  treeserve {command}" in capsys.readouterr().out


def test_the_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("treeserve ")


def test_logs_have_no_progress_bars_of_others(capsys, monkeypatch):
    """transformers, when it is imported, looks for this; stderr is no terminal here."""
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    run(capsys, "generate")
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"


def test_who_wants_progress_bars_in_a_log_gets_them(capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    run(capsys, "generate")
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "0"

"""A model that cannot be found: one line that says where it was looked for."""

import logging

from treeserve.commands.main import main


def test_a_file_is_told_what_would_be_right(capsys, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert main(["generate", "a", "--model", str(file)]) == 1
    assert capsys.readouterr().err == (
        f"treeserve generate: model: {file} is a file; name the folder with its config.json\n"
    )


def test_what_is_neither_a_folder_nor_on_the_hub_is_one_line(capsys, monkeypatch):
    """A misspelt folder is asked of the hub, whose client warns of every attempt."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["generate", "a", "--model", "no-such-folder"]) == 1
    error = capsys.readouterr().err
    assert "there is no folder no-such-folder, and on the hub: " in error
    assert error.count("\n") == 1
    logging.getLogger("huggingface_hub.utils").warning("attempt 1 of 5")
    assert capsys.readouterr().err == ""

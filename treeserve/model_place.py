"""Where a model lies that an option names, said before anything heavy is imported."""

from pathlib import Path

from treeserve.embedded import MODEL_FOLDER
from treeserve.errors import ModelError


def resolve_model(model: str) -> str:
    """The folder or hub name that a model option stands for.

    Raises:
        ModelError: It is a folder without a config.json, or no folder and no hub name.
    """
    if model == "embedded":
        return str(MODEL_FOLDER)
    folder = Path(model)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"model: the folder {model} has no config.json")
    if folder.is_file():
        raise ModelError(f"model: {model} is a file; name the folder with its config.json")
    if not folder.is_dir() and (folder.is_absolute() or model.startswith(".")):
        raise ModelError(f"model: there is no folder {model}")
    return model

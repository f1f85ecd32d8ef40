"""Which models can read prompt modules: rotary positions, and every layer sees all of them."""

from treeserve.model import LoadedModel


def why_no_modules(model: LoadedModel) -> str | None:
    """Why prompts of this model cannot import modules; None if they can.

    A module's keys are right wherever a query stands because rotary positions count by distance
    alone, in every layer that has positions. A sliding window would count the gaps of a schema.
    """
    windows = [index for index, layer in enumerate(model.layers) if layer.window is not None]
    if windows:
        layers = ", ".join(map(str, windows))
        return f"{model.name} sees only a sliding window in layers {layers}; modules need all"
    names = {type(part).__name__ for part in model.module.modules()}
    if not any("RotaryEmbedding" in name for name in names):
        return f"{model.name} has no rotary positions, which modules need"
    return None

"""What a server is told of an engine once it is built: its backstage, and facts for the metrics."""

from dataclasses import asdict, replace

from treeserve.administration import Administration
from treeserve.building import BuiltEngine
from treeserve.config import EngineOptions
from treeserve.inspection import Inspection
from treeserve.kv_cache import KVCache
from treeserve.loop import EngineLoop
from treeserve.metrics import Metrics
from treeserve.prefixes.fingerprint import make_fingerprint
from treeserve.prefixes.folder import SCHEMAS, PrefixFolder
from treeserve.prefixes.keeper import PrefixKeeper
from treeserve.prefixes.schema_keeper import SchemaKeeper
from treeserve.schemas.store import SchemaStore
from treeserve.schemas.warming import SchemaWarmer
from treeserve.server.backstage import Backstage


def open_backstage(
    built: BuiltEngine,
    options: EngineOptions,
    loop: EngineLoop,
    *,
    version: str,
    shows_tokens: bool = False,
    folder: PrefixFolder | None = None,
) -> Backstage:
    """For an engine whose loop has started.

    Args:
        built: The engine.
        options: That it was built with.
        loop: Its loop.
        version: Of treeserve, to be shown.
        shows_tokens: Whether the tree is shown with its token ids.
        folder: Where prefixes are saved; None: nowhere.
    """
    fingerprint = make_fingerprint(built.model, built.prompter.tokenizer, built.kv_cache)
    shown = asdict(replace(options, num_pages=built.num_pages))
    schemas, warmer = (
        SchemaStore(built.prompter, fingerprint.model),
        SchemaWarmer(loop, built.prompter),
    )
    return Backstage(
        Inspection(loop, shows_tokens=shows_tokens),
        PrefixKeeper(loop, built.prompter, built.kv_cache, fingerprint, folder),
        Administration(loop, built.model, built.backend, shown, version),
        schemas,
        warmer,
        SchemaKeeper(
            loop,
            schemas,
            warmer,
            built.kv_cache,
            fingerprint,
            built.model.vocabulary_size,
            None if folder is None else folder.of(SCHEMAS),
        ),
    )


def describe_engine(
    metrics: Metrics, built: BuiltEngine, options: EngineOptions, version: str
) -> None:
    """Tell the metrics what never changes while an engine runs."""
    kv_cache = built.kv_cache
    metrics.set_info(
        engine_labels(built, version) | {"policy": options.policy, "sharing": options.sharing}
    )
    metrics.set_sizes(
        page_tokens=options.page_size,
        kv_token_bytes=KVCache.bytes_per_slot(kv_cache.layer_shapes, kv_cache.dtype),
    )


def engine_labels(built: BuiltEngine, version: str) -> dict[str, str]:
    """What runs, and where."""
    return {
        "version": version,
        "model": built.model.name,
        "dtype": str(built.model.dtype).removeprefix("torch."),
        "device": str(built.model.device),
        "backend": built.backend,
    }

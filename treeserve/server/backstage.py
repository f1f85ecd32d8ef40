"""What the services beside generation need of a loaded engine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from treeserve.administration import Administration
    from treeserve.inspection import Inspection
    from treeserve.prefixes.keeper import PrefixKeeper
    from treeserve.prefixes.schema_keeper import SchemaKeeper
    from treeserve.schemas.store import SchemaStore
    from treeserve.schemas.warming import SchemaWarmer


@dataclass(frozen=True, slots=True, eq=False)
class Backstage:
    """All of one engine; made when it is loaded."""

    inspection: "Inspection"
    keeper: "PrefixKeeper"
    administration: "Administration"
    schemas: "SchemaStore"
    warmer: "SchemaWarmer"
    schema_keeper: "SchemaKeeper"

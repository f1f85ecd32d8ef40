"""The schemas of every tenant, compiled for one model, within bounds."""

from dataclasses import dataclass
from threading import Lock

from treeserve.errors import AlreadyExists, InvalidRequest, NoRoom, NotFound, NotPossible
from treeserve.module_prompt import ImportingPrompt
from treeserve.pml import CompiledSchema, PmlError, compile_schema, parse_schema
from treeserve.prompt import Prompter
from treeserve.schemas.importing import ImportedPrompt, Importing, as_invalid, read_tag

MAX_SCHEMAS = 256
"""Of a tenant."""
MAX_TENANT_BYTES = 32 * 1024 * 1024
"""Of a tenant's schemas in PML, together."""


@dataclass(frozen=True, slots=True, eq=False)
class PutSchema:
    """A schema that is kept."""

    schema: CompiledSchema
    existed: bool
    """The tenant had this very schema before."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    schema: CompiledSchema
    pml: str
    num_bytes: int


class SchemaStore:
    """No tenant sees another's schemas; may be used from any thread.

    Args:
        prompter: Of the model.
        model_fingerprint: Tells the model from others.
        max_schemas: Of a tenant.
        max_bytes: Of a tenant, in PML.
    """

    def __init__(
        self,
        prompter: Prompter,
        model_fingerprint: str,
        *,
        max_schemas: int = MAX_SCHEMAS,
        max_bytes: int = MAX_TENANT_BYTES,
    ) -> None:
        self._prompter = prompter
        self._model_fingerprint = model_fingerprint
        self._max_schemas = max_schemas
        self._max_bytes = max_bytes
        self._kept: dict[str, dict[str, _Kept]] = {}
        self._lock = Lock()

    def put(self, tenant: str, pml: str, *, overwrite: bool) -> PutSchema:
        """Keep a schema; the very same once more is the same.

        Raises:
            InvalidRequest: Names "pml", line and column.
            NotPossible: The model cannot read modules.
            AlreadyExists: The tenant has another of that name, which is not to be replaced.
            NoRoom: The tenant has as much as it may.
        """
        compiled = self.compile(pml)
        with self._lock:
            return self._put(tenant, _Kept(compiled, pml, len(pml.encode())), overwrite=overwrite)

    def compile(self, pml: str) -> CompiledSchema:
        """A schema for the model; keeps nothing. Raises InvalidRequest and NotPossible as put()."""
        self._require_modules()
        if not pml:
            raise InvalidRequest("pml", "must be given, a <schema>")
        try:
            return compile_schema(
                parse_schema(pml),
                self._prompter.tokenizer,
                model_fingerprint=self._model_fingerprint,
                max_positions=self._prompter.model_limits.max_positions,
            )
        except PmlError as error:
            raise as_invalid(error, "pml") from None

    def schemas(self, tenant: str) -> list[CompiledSchema]:
        """The tenant's, by name."""
        with self._lock:
            kept = self._kept.get(tenant, {})
            return [kept[name].schema for name in sorted(kept)]

    def find(self, tenant: str, name: str) -> CompiledSchema:
        """Raises InvalidRequest without a name, NotFound where the tenant has none of it."""
        return self._find(tenant, name).schema

    def find_both(self, tenant: str, name: str) -> tuple[CompiledSchema, str]:
        """The same schema, and its PML as it was put; raises as find()."""
        kept = self._find(tenant, name)
        return kept.schema, kept.pml

    def delete(self, tenant: str, name: str) -> None:
        """Raises as find()."""
        self.find(tenant, name)
        with self._lock:
            kept = self._kept.get(tenant, {})
            kept.pop(name, None)
            if not kept:
                self._kept.pop(tenant, None)

    def importing(self, tenant: str, asked: ImportingPrompt) -> Importing:
        """A prompt and its schema.

        Raises:
            InvalidRequest: The PML is not sound.
            NotFound: The tenant has no such schema.
            NotPossible: The model cannot read modules.
        """
        self._require_modules()
        tag = read_tag(asked)
        if not tag.schema:
            raise InvalidRequest("modules", "must name a schema")
        return Importing(self.find(tenant, tag.schema), tag, asked.exact)

    def imported(self, tenant: str, asked: ImportingPrompt) -> ImportedPrompt:
        """A prompt in tokens; raises as importing(), and where it does not fit its schema."""
        return self.importing(tenant, asked).imported()

    def _require_modules(self) -> None:
        reason = self._prompter.why_no_modules
        if reason is not None:
            raise NotPossible(f"modules: {reason}")

    def _find(self, tenant: str, name: str) -> _Kept:
        if not name:
            raise InvalidRequest("name", "must be given")
        with self._lock:
            kept = self._kept.get(tenant, {}).get(name)
        if kept is None:
            raise NotFound(f"no schema has the name {name!r}; put it first")
        return kept

    def _put(self, tenant: str, new: _Kept, *, overwrite: bool) -> PutSchema:
        compiled, kept = new.schema, self._kept.get(tenant, {})
        same = kept.get(compiled.name)
        if same is not None and same.schema.schema_id == compiled.schema_id:
            return PutSchema(same.schema, existed=True)
        if same is not None and not overwrite:
            raise AlreadyExists(
                f"another schema has the name {compiled.name!r}: delete it, or put with overwrite"
            )
        others = [entry for name, entry in kept.items() if name != compiled.name]
        if len(others) >= self._max_schemas:
            raise NoRoom(f"{len(others)} schemas are kept, which is the most: delete one")
        num_left = self._max_bytes - sum(entry.num_bytes for entry in others)
        if new.num_bytes > num_left:
            raise NoRoom(
                f"the schema has {new.num_bytes} bytes, and {num_left} are left: delete some"
            )
        self._kept.setdefault(tenant, {})[compiled.name] = new
        return PutSchema(compiled, existed=False)

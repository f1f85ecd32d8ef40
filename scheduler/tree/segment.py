"""The segment: an immutable run of tokens whose KV is stored once, at fixed positions."""

from collections.abc import Hashable, Sequence
from typing import TypeAlias
from weakref import WeakSet

from treeserve.scheduler.modules import Module, ModuleSet
from treeserve.scheduler.step import Int32Array

ChildKey: TypeAlias = tuple[str, int]
"""(namespace, first token): what tells siblings apart, so that tenants never meet."""


class Segment:
    """A node of the radix tree.

    Its tokens sit at positions `[start_position, end_position)`, token j in slot `slots[j]`, and it
    holds one reference on each of its pages. KV is computed for the first `num_computed` tokens;
    while that is fewer than all of them the segment is pending. A segment with computed tokens has
    no pending ancestor. All its tokens belong to one namespace: its parent's, or, beneath a public
    parent, any one.
    """

    __slots__ = (
        "children",
        "hits",
        "inflation",
        "kept_index",
        "last_used",
        "last_used_at",
        "namespace",
        "num_computed",
        "pages",
        "parent",
        "pins",
        "rank",
        "retained_weight",
        "root",
        "serial",
        "slots",
        "start_position",
        "tokens",
    )

    def __init__(
        self,
        *,
        parent: "Segment | None",
        tokens: Int32Array,
        slots: Int32Array,
        pages: Int32Array,
        start_position: int,
        num_computed: int,
        serial: int,
        namespace: str = "",
    ) -> None:
        self.parent = parent
        self.root: Segment = self if parent is None else parent.root
        """Above it, also when it has left the tree."""
        self.tokens = tokens
        self.slots = slots
        self.pages = pages
        self.start_position = start_position
        self.num_computed = num_computed
        self.serial = serial
        self.namespace = namespace
        self.children: dict[ChildKey, Segment] = {}
        self.pins = 0
        self.hits = 0
        """Requests whose path it was on."""
        self.last_used = 0
        """In the eviction order's own ticks."""
        self.last_used_at = 0.0
        """Seconds, on the tree's clock."""
        self.inflation = 0.0
        """Of the eviction order, when it was last used."""
        self.retained_weight = 0.0
        self.rank: tuple[float, int, int] | None = None
        """In the eviction order; None while it is not there."""
        self.kept_index: int | None = None
        """Entry of the kept-logits table that holds the logits after the last token."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return (
            f"Segment([{self.start_position}, {self.end_position}), computed={self.num_computed}, "
            f"pins={self.pins}, children={len(self.children)})"
        )

    @property
    def end_position(self) -> int:
        return self.start_position + len(self.tokens)

    @property
    def is_pending(self) -> bool:
        return self.num_computed < len(self.tokens)

    @property
    def is_root(self) -> bool:
        return len(self.tokens) == 0

    @property
    def is_module(self) -> bool:
        """Whether it is a whole prompt module: never split, never cut short."""
        return False if self.is_root else isinstance(self.root.layout, Module)

    @property
    def layout(self) -> Module | ModuleSet | None:
        """Of the tokens beneath the root."""
        return None if self.root is self else self.root.layout

    @property
    def modules(self) -> tuple["Segment", ...]:
        """The modules that the tokens beneath the root see, in the order of the set."""
        return () if self.root is self else self.root.modules

    @property
    def key(self) -> ChildKey:
        """Among its siblings."""
        return (self.namespace, int(self.tokens[0]))

    def take_use_of(self, other: "Segment") -> None:
        """For the upper part of a split: as pinned, as often hit and as recently used."""
        self.pins, self.hits = other.pins, other.hits
        self.last_used, self.last_used_at = other.last_used, other.last_used_at
        self.inflation = other.inflation

    def keep_first(self, num_tokens: int, num_pages: int) -> None:
        """Loses its last tokens, and the pages after the first `num_pages`."""
        self.tokens = _first(self.tokens, num_tokens)
        self.slots = _first(self.slots, num_tokens)
        self.pages = _first(self.pages, num_pages)
        self.num_computed = min(self.num_computed, num_tokens)


class Root(Segment):
    """The empty segment above everything that one namespace shares, in one layout of positions.

    A root whose layout is a module has one child, the module. One whose layout is a set of modules
    knows where they are (`modules`) or does not (empty), and whatever of it is pinned pins them.
    """

    __slots__ = ("__weakref__", "_importers", "_layout", "_modules", "root_key")

    def __init__(
        self, namespace: str, empty: Int32Array, layout: Module | ModuleSet | None = None
    ) -> None:
        super().__init__(
            parent=None,
            tokens=empty,
            slots=empty,
            pages=empty,
            start_position=0,
            num_computed=0,
            serial=0,
            namespace=namespace,
        )
        self._layout = layout
        self._modules: tuple[Segment, ...] = ()
        self._importers: WeakSet[Root] | None = None
        self.root_key: Hashable = None if layout is None else layout.root_key

    @property
    def layout(self) -> Module | ModuleSet | None:
        return self._layout

    @property
    def modules(self) -> tuple[Segment, ...]:
        return self._modules

    def import_modules(self, modules: Sequence[Segment]) -> None:
        """These are the modules of its set; nothing beneath is pinned, or they were that before."""
        if tuple(modules) == self._modules:
            return
        self._modules = tuple(modules)
        for module in modules:
            assert isinstance(module.root, Root)
            if module.root._importers is None:
                module.root._importers = WeakSet()
            module.root._importers.add(self)

    def forget_module(self) -> None:
        """Its module left the tree: nobody knows where it is any more."""
        for importer in self._importers or ():
            importer._modules = ()
        self._importers = None


def _first(array: Int32Array, length: int) -> Int32Array:
    """A view, or a copy where a view would keep much more memory alive than it shows."""
    view = array[:length]
    return view.copy() if array.base is not None and array.base.size > 4 * length else view

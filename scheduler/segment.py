"""The segment: an immutable run of tokens whose KV is stored once, at fixed positions."""

from treeserve.scheduler.step import Int32Array


class Segment:
    """A node of the radix tree.

    Its tokens sit at positions `[start_position, end_position)`, token j in slot `slots[j]`, and it
    holds one reference on each of its pages. KV is computed for the first `num_computed` tokens;
    while that is fewer than all of them the segment is pending. A segment with computed tokens has
    no pending ancestor.
    """

    __slots__ = (
        "children",
        "kept_index",
        "last_used",
        "num_computed",
        "pages",
        "parent",
        "pins",
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
    ) -> None:
        self.parent = parent
        self.tokens = tokens
        self.slots = slots
        self.pages = pages
        self.start_position = start_position
        self.num_computed = num_computed
        self.serial = serial
        self.children: dict[int, Segment] = {}
        self.pins = 0
        self.last_used = 0
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


class Root(Segment):
    """The empty segment above everything that one namespace shares."""

    __slots__ = ("namespace",)

    def __init__(self, namespace: str, empty: Int32Array) -> None:
        super().__init__(
            parent=None,
            tokens=empty,
            slots=empty,
            pages=empty,
            start_position=0,
            num_computed=0,
            serial=0,
        )
        self.namespace = namespace

"""Random schemas, and random prompts that import of them what may be imported together."""

from hypothesis import strategies as st

from treeserve.pml.builder import ContentBuilder, SchemaBuilder
from treeserve.pml.layout import PlacedModule, PlacedUnion
from treeserve.pml.tags import ROLES, ImportTag, PromptTag, Schema, Text

TEXTS = st.text(
    st.one_of(
        st.sampled_from(" \n\t<>&]['\"a"),
        st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")),
    ),
    min_size=1,
    max_size=12,
)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """With texts, parameters, modules and unions to any depth, in turns or not."""
    builder = SchemaBuilder("s")
    author = _Author(draw)
    if draw(st.booleans()):
        author.fill(builder, 0)
    else:
        for role in draw(st.lists(st.sampled_from(ROLES[1:]), min_size=1, max_size=3)):
            author.fill(builder.turn(role), 0)
    free = author.free
    if len(free) > 1 and draw(st.booleans()):
        builder.scaffold("together", draw(st.lists(st.sampled_from(free), min_size=2, unique=True)))
    return builder.build()


class _Author:
    """Adds parts with names that are all different."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._num_names = 0
        self.free: list[str] = []
        """Modules that are cached and lie in no union."""

    def fill(self, content: ContentBuilder, depth: int, *, in_union: bool = False) -> None:
        parts = ["text", "parameter"] + ["module", "union"] * (depth < 3)
        for part in self._draw(st.lists(st.sampled_from(parts), min_size=1, max_size=3)):
            self._add(content, part, depth, in_union)

    def _add(self, content: ContentBuilder, part: str, depth: int, in_union: bool) -> None:
        if part == "text":
            content.text(self._draw(TEXTS))
        elif part == "parameter":
            content.parameter(self._name("p"), self._draw(st.integers(1, 9)))
        elif part == "module":
            name, cache = self._name("m"), self._draw(st.booleans())
            if cache and not in_union:
                self.free.append(name)
            self.fill(content.module(name, cache=cache), depth + 1, in_union=in_union)
        else:
            union = content.union()
            for _ in range(self._draw(st.integers(1, 3))):
                self.fill(union.module(self._name("m")), depth + 1, in_union=True)

    def _name(self, kind: str) -> str:
        self._num_names += 1
        return f"{kind}{self._num_names}"


@st.composite
def prompts_of(draw: st.DrawFn, root: PlacedModule, own: str) -> PromptTag:
    """Imports in a random order, with arguments that fit a tokenizer of bytes."""

    def arguments(module: PlacedModule) -> dict[str, str]:
        return {p.name: "x" * draw(st.integers(0, p.length)) for p in module.parameters}

    def imports(module: PlacedModule) -> tuple[ImportTag, ...]:
        found = []
        for node in module.content:
            if isinstance(node, PlacedModule) and draw(st.booleans()):
                found.append(node)
            elif isinstance(node, PlacedUnion):
                found += draw(st.lists(st.sampled_from(node.members), max_size=1))
        return tuple(
            ImportTag(m.name, arguments(m), imports(m)) for m in draw(st.permutations(found))
        )

    return PromptTag("s", imports(root), (Text(own),), arguments(root))

"""Which replica is thought to hold which prefix: one radix tree for all of them."""

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

TokenIds: TypeAlias = npt.NDArray[np.int32]

_TRUNK_CHILDREN = 4
"""A node with fewer is taken for one conversation or tree, which may fork now and then."""
_SLACK = 64
"""Stale entries that a replica's order may have beside as many again as it has good ones."""


class Node:
    """A run of tokens. Whoever holds it holds all above it too.

    `holders` has bit i for replica i, and `used_at` says when each of them was last sent here.
    """

    __slots__ = (
        "children",
        "holders",
        "num_held_children",
        "num_open",
        "parent",
        "tokens",
        "used_at",
        "wanted_work",
    )

    def __init__(self, parent: "Node | None", tokens: TokenIds) -> None:
        self.parent = parent
        self.tokens = tokens
        self.children: dict[int, Node] = {}
        self.holders = 0
        self.used_at: dict[int, float] = {}
        self.num_held_children: dict[int, int] = {}
        """For each replica, how many children it holds; without those that hold none."""
        self.wanted_work = 0.0
        """The router's: of a trunk, how much work speaks for one more replica that holds it."""
        self.num_open = 0
        """The router's: of a trunk, how many open requests were sent when it was one."""


class Root(Node):
    """Of one namespace; holds no tokens itself."""

    __slots__ = ("namespace",)

    def __init__(self, namespace: Hashable) -> None:
        super().__init__(None, np.zeros(0, dtype=np.int32))
        self.namespace = namespace


@dataclass(slots=True)
class _Shelf:
    """What one replica holds, least recently used first among the leaves it holds."""

    capacity_tokens: int
    num_tokens: int = 0
    num_nodes: int = 0
    order: list[tuple[float, int, Node]] = field(default_factory=list)
    """A heap; an entry is good if its node has this very time and the replica holds no child."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """The first tokens of a prompt, from which many different prompts go on."""

    num_tokens: int
    node: Node
    """The first of its nodes from which many go on after half of it: one for nearly all of them."""


@dataclass(frozen=True, slots=True)
class Found:
    """Of a prompt."""

    matched: npt.NDArray[np.int64]
    """[num_replicas or more]: how many of the first tokens each replica is thought to hold."""
    trunk: Trunk | None


class HeldPrefixes:
    """An approximation: inserted when routed, forgotten in the order in which replicas evict.

    Each replica's share is bounded by its capacity, so the whole is bounded too. A replica is a
    small number, its index. The approximation is a radix tree as SGLang's router keeps one, with
    tokens in place of characters and one tree for all replicas.
    """

    def __init__(self) -> None:
        self._roots: dict[Hashable, Root] = {}
        self._shelves: dict[int, _Shelf] = {}
        self._num_pushed = 0
        self._num_bits = 8
        self.num_nodes = 0
        self.num_tokens = 0
        """Of all nodes, each counted once, whoever holds it."""

    def add_replica(self, replica: int, capacity_tokens: int) -> None:
        """One that holds nothing yet."""
        self._shelves[replica] = _Shelf(capacity_tokens)
        self._num_bits = max(self._num_bits, (replica // 8 + 1) * 8)

    def remove_replica(self, replica: int) -> None:
        """It holds nothing any more; in proportion to what it held."""
        self.trim(replica, 0)
        del self._shelves[replica]

    def set_capacity(self, replica: int, num_tokens: int) -> None:
        """What it can hold at most from now on."""
        self._shelves[replica].capacity_tokens = num_tokens
        self.trim(replica, num_tokens)

    def num_held(self, replica: int) -> int:
        """Tokens that it is thought to hold."""
        return self._shelves[replica].num_tokens

    def match(self, namespace: Hashable, tokens: TokenIds) -> npt.NDArray[np.int64]:
        """[num_replicas or more]: how many of the first tokens each replica is thought to hold.

        Args:
            namespace: Prefixes of two namespaces never meet.
            tokens: [n] of the prompt.
        """
        return self.find(namespace, tokens).matched

    def find(self, namespace: Hashable, tokens: TokenIds) -> Found:
        """The same, and how much of the prompt is a trunk."""
        matched = np.zeros(self._num_bits, dtype=np.int64)
        node: Node | None = self._roots.get(namespace)
        position = 0
        trunks: list[tuple[int, Node]] = []
        while node is not None and position < len(tokens):
            child = node.children.get(int(tokens[position]))
            if child is None:
                break
            num_same = _num_same(child.tokens, tokens[position:])
            position += num_same
            matched[self._indices(child.holders)] = position
            if num_same < len(child.tokens):
                break
            if len(child.children) >= _TRUNK_CHILDREN:
                trunks.append((position, child))
            node = child
        return Found(matched, _trunk_of(trunks))

    def insert(self, namespace: Hashable, tokens: TokenIds, replica: int, now: float) -> int:
        """The replica holds this prefix from now on; returns how many tokens are new to it.

        What it used least recently is forgotten where its capacity is exceeded.
        """
        if not len(tokens):
            return 0
        if namespace not in self._roots:
            self._roots[namespace] = Root(namespace)
        node: Node = self._roots[namespace]
        position, num_new = 0, 0
        while position < len(tokens):
            child = self._child(node, tokens, position)
            if replica not in child.used_at:
                num_new += len(child.tokens)
                self._hold(child, replica)
            child.used_at[replica] = now
            node, position = child, position + len(child.tokens)
        self._push(replica, node)
        self.trim(replica, self._shelves[replica].capacity_tokens)
        return num_new

    def trim(self, replica: int, num_tokens: int) -> None:
        """Forgets what the replica used least recently, until it holds at most so many tokens."""
        shelf = self._shelves[replica]
        while shelf.num_tokens > num_tokens:
            used_at, _, node = heapq.heappop(shelf.order)
            if self._is_good(node, replica, used_at):
                self._forget(node, replica)

    def expire(self, replica: int, before: float) -> None:
        """Forgets what the replica was last sent to before that time."""
        shelf = self._shelves[replica]
        while shelf.order and shelf.order[0][0] < before:
            used_at, _, node = heapq.heappop(shelf.order)
            if self._is_good(node, replica, used_at):
                self._forget(node, replica)

    def check(self) -> None:
        """Raises AssertionError unless all counts are what the nodes say."""
        held: dict[int, list[Node]] = {replica: [] for replica in self._shelves}
        num_nodes = num_tokens = 0
        for root in self._roots.values():
            assert root.children, "an empty namespace is kept"
            for node in _below(root):
                num_nodes += 1
                num_tokens += len(node.tokens)
                self._check_node(node, is_first=node.parent is root)
                for replica in node.used_at:
                    held[replica].append(node)
        assert (num_nodes, num_tokens) == (self.num_nodes, self.num_tokens), "miscounted"
        for replica, nodes in held.items():
            shelf = self._shelves[replica]
            assert shelf.num_nodes == len(nodes)
            assert shelf.num_tokens == sum(len(node.tokens) for node in nodes)
            good = [n for t, _, n in shelf.order if self._is_good(n, replica, t)]
            leaves = [n for n in nodes if not n.num_held_children.get(replica)]
            assert set(map(id, leaves)) <= set(map(id, good)), "a leaf would never be forgotten"

    def _check_node(self, node: Node, *, is_first: bool) -> None:
        assert len(node.tokens)
        assert node.parent is not None
        assert node.parent.children[int(node.tokens[0])] is node
        assert node.holders == sum(1 << replica for replica in node.used_at) != 0
        counts: dict[int, int] = {}
        for child in node.children.values():
            for replica in child.used_at:
                counts[replica] = counts.get(replica, 0) + 1
        assert counts == node.num_held_children
        assert is_first or node.used_at.keys() <= node.parent.used_at.keys()

    def _child(self, node: Node, tokens: TokenIds, position: int) -> Node:
        """The child that starts like the tokens from there on, and does not go beyond them."""
        key = int(tokens[position])
        child = node.children.get(key)
        if child is None:
            child = node.children[key] = Node(node, tokens[position:].copy())
            self.num_nodes += 1
            self.num_tokens += len(child.tokens)
            return child
        num_same = _num_same(child.tokens, tokens[position:])
        return child if num_same == len(child.tokens) else self._split(child, num_same)

    def _split(self, node: Node, num_tokens: int) -> Node:
        """Puts the first tokens into a node above, which all its holders hold; returns that."""
        assert node.parent is not None
        upper = Node(node.parent, node.tokens[:num_tokens].copy())
        upper.holders, upper.used_at = node.holders, dict(node.used_at)
        upper.num_held_children = dict.fromkeys(node.used_at, 1)
        upper.children[int(node.tokens[num_tokens])] = node
        node.parent.children[int(node.tokens[0])] = upper
        node.parent, node.tokens = upper, node.tokens[num_tokens:].copy()
        self.num_nodes += 1
        for replica in upper.used_at:
            self._shelves[replica].num_nodes += 1
        return upper

    def _hold(self, node: Node, replica: int) -> None:
        node.holders |= 1 << replica
        shelf = self._shelves[replica]
        shelf.num_tokens += len(node.tokens)
        shelf.num_nodes += 1
        assert node.parent is not None
        counts = node.parent.num_held_children
        counts[replica] = counts.get(replica, 0) + 1

    def _forget(self, node: Node, replica: int) -> None:
        node.holders &= ~(1 << replica)
        del node.used_at[replica]
        shelf = self._shelves[replica]
        shelf.num_tokens -= len(node.tokens)
        shelf.num_nodes -= 1
        parent = node.parent
        assert parent is not None
        parent.num_held_children[replica] -= 1
        if not parent.num_held_children[replica]:
            del parent.num_held_children[replica]
            if replica in parent.used_at:
                self._push(replica, parent)
        if not node.used_at:
            self._drop(node)

    def _drop(self, node: Node) -> None:
        """A node that nobody holds; so nobody holds any below it, and there is none."""
        parent = node.parent
        assert parent is not None
        assert not node.children
        del parent.children[int(node.tokens[0])]
        if isinstance(parent, Root) and not parent.children:
            del self._roots[parent.namespace]
        self.num_nodes -= 1
        self.num_tokens -= len(node.tokens)

    def _push(self, replica: int, node: Node) -> None:
        shelf = self._shelves[replica]
        self._num_pushed += 1
        heapq.heappush(shelf.order, (node.used_at[replica], self._num_pushed, node))
        if len(shelf.order) > 2 * shelf.num_nodes + _SLACK:
            good = {id(n): e for e in shelf.order if self._is_good(n := e[2], replica, e[0])}
            shelf.order = list(good.values())
            heapq.heapify(shelf.order)

    def _is_good(self, node: Node, replica: int, used_at: float) -> bool:
        is_leaf = not node.num_held_children.get(replica)
        return is_leaf and node.used_at.get(replica) == used_at

    def _indices(self, holders: int) -> npt.NDArray[np.bool_]:
        """[num_bits]: whether each replica is one of them."""
        raw = np.frombuffer(holders.to_bytes(self._num_bits // 8, "little"), dtype=np.uint8)
        return np.unpackbits(raw, bitorder="little").view(np.bool_)


def _trunk_of(trunks: Sequence[tuple[int, Node]]) -> Trunk | None:
    """Of the nodes on a path from which many prompts go on, each with the position it ends at."""
    if not trunks:
        return None
    num_tokens = trunks[-1][0]
    return Trunk(num_tokens, next(node for end, node in trunks if 2 * end >= num_tokens))


def _num_same(left: TokenIds, right: TokenIds) -> int:
    """How many tokens both start with."""
    length = min(len(left), len(right))
    differs = left[:length] != right[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length


def _below(root: Node) -> Sequence[Node]:
    found: list[Node] = []
    stack = list(root.children.values())
    while stack:
        node = stack.pop()
        found.append(node)
        stack.extend(node.children.values())
    return found

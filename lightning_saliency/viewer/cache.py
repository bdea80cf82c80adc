"""Keep what was last asked for in memory, up to a limit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class ByteCache:
    """The answers that were asked for last.

    Args:
        limit: The most bytes to keep.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._items: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Look up an answer, or make it; two threads may make the same one at the same time."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        value = make()
        with self._lock:
            if key not in self._items and len(value) <= self._limit:
                self._items[key] = value
                self._held += len(value)
            while self._held > self._limit:
                _, oldest = self._items.popitem(last=False)
                self._held -= len(oldest)
        return value

"""Count the maps of an observation while they are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_saliency.attribution.passes import Chunk, Request


class Tally:
    """A reducer that counts what the other reducers of one of several requests take.

    Maps are counted rather than passes, because their number does not depend on how many images a
    chunk holds. If memory runs out, the count falls back to what the repeated chunk began with.

    Args:
        rules: The number of rules of its request.
        tallies: Those of all requests, in their order; it adds itself.
        note: Called after each pass with the number of maps that are done, and of all.
    """

    def __init__(self, rules: int, tallies: list[Tally], note: Callable[[int, int], None]) -> None:
        self._rules, self._tallies, self._note = rules, tallies, note
        self._index = len(tallies)
        tallies.append(self)
        # Only the first request may explain more than one class per image, and it is the first to
        # begin, so that the number of all maps is known when the first of them is done.
        self._done, self._per_image = 0, rules

    def begin(self, chunk: Chunk) -> None:
        """Count the maps of ``chunk`` next."""
        self._size, self._images = chunk.rows.stop - chunk.rows.start, chunk.count
        self._per_image = self._rules * chunk.classes.shape[1]
        for tally in self._tallies[self._index :]:
            tally._done = chunk.rows.start * tally._per_image

    def take(self, rule: str, column: int, attribution: Tensor) -> None:  # noqa: ARG002
        """Count one map for each image of the chunk."""
        self._done += self._size
        done = sum(tally._done for tally in self._tallies)
        total = self._images * sum(tally._per_image for tally in self._tallies)
        self._note(done, total)


def build_tallies(requests: Sequence[Request], note: Callable[[int, int], None]) -> list[Tally]:
    """Build one tally per request, which count together."""
    tallies: list[Tally] = []
    for request in requests:
        Tally(len(request.rules), tallies, note)
    return tallies

"""The memory that torch allocates on the CPU, counted allocation by allocation."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

from lightning_saliency.attribution.passes import Chunk, compute
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.observe.observer import Observer


class Nothing:
    """A reducer that keeps nothing, so that only the passes need memory."""

    def begin(self, chunk: Chunk) -> None: ...

    def take(self, rule: Rule, column: int, attribution: object) -> None: ...


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that tensors took at a time while ``work`` ran, on top of before.

    Every allocation and release counts, also those within an operation and in backward passes.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = work()  # What is returned is released only after the peak.
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    del kept
    return most


def bytes_above_passes(observer: Observer, model: object) -> int:
    """Return by how much the peak of an observation exceeds that of its passes alone."""
    images, extras, requests = observer._inputs(model)
    discard = [(Nothing(),)] * len(requests)
    passes = peak_bytes(lambda: compute(observer.options, model, images, requests, extras, discard))
    return peak_bytes(lambda: observer.observe(model, "", 0)) - passes


def stated_bound(observer: Observer) -> int:
    """The bound in the docstring of :mod:`lightning_saliency.observe.reducers`, on a CPU."""
    count, channels, height, width = observer.probe.images.shape
    classes = observer.probe.num_classes if observer.targets is None else observer.targets.shape[1]
    side = min(observer.size, max(height, width))
    kept = count * (2 * side * side * (len(observer.rules) * classes + 1) + 1024)
    one = 4 * min(count, observer.options.chunk_size or count) * channels * height * width
    return kept + one + 16 * (channels + 2) * max(2 * height * width, 2**16 // channels)

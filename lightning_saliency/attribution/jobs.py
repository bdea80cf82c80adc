"""What the passes are asked for, who takes the attributions, and what is returned of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lightning_saliency.attribution.graph import Coverage
from lightning_saliency.attribution.heads import Activation, is_multi_label
from lightning_saliency.attribution.methods import Method, name_rule
from lightning_saliency.attribution.rules import RULES
from lightning_saliency.attribution.targets import Targets, as_columns
from lightning_saliency.functional.maps import Reduce, reduce_channels


@dataclass(frozen=True, slots=True)
class Attributions:
    """Attributions of a batch of images; index it with a rule to get the tensor of that rule.

    Attributes:
        attributions: For each rule, by name, ``(N, K, C, H, W)``, signed; those of the gradient
            rules in logits per input unit. C is 1 if a method of another library returns one
            channel. Empty if reducers took them.
        targets: ``(N, K)`` int64, the class that each attribution explains.
        logits: ``(N, num_classes)``, the model's output for the images, or the logits under the
            softmax or sigmoid that it ends in.
        coverage: How the activations between the images and the logits were treated.
        activation: That ``"softmax"`` or ``"sigmoid"``; ``None`` if the model returns logits.
    """

    attributions: Mapping[str, Tensor]
    targets: Tensor
    logits: Tensor
    coverage: Coverage = field(default_factory=Coverage)
    activation: Activation | None = None

    def __getitem__(self, rule: str | Method) -> Tensor:
        rule = name_rule(rule)
        if rule not in self.attributions:
            raise KeyError(
                f"no attribution by {rule!r} here, only by {', '.join(self.attributions)}; "
                f"ask for it with explain(…, rules=({rule!r},))"
            )
        return self.attributions[rule]

    def multi_label(self, labelled: bool) -> bool:
        """Return whether each logit has a probability of its own.

        Args:
            labelled: Whether the labels say so. An output of several probabilities knows better.
        """
        return is_multi_label(self.activation, self.logits, labelled)

    def maps(self, rule: str | Method, reduce: Reduce = "abs_max") -> Tensor:
        """Reduce the attribution by ``rule`` to saliency maps ``(N, K, H, W)``.

        Those of volumes are ``(N, K, D, H, W)``. See :func:`maps.reduce_channels` for the values of
        ``reduce`` and for the errors.
        """
        signed = self[rule]
        # What is done per pixel takes a volume as one image, its slices under each other.
        flat = reduce_channels(signed.flatten(3, -2), reduce)
        return flat.view(*signed.shape[:2], *signed.shape[3:])


@dataclass(frozen=True, slots=True)
class Request:
    """Which classes to explain by which rules; several requests share one forward pass.

    Attributes:
        rules: The names of the rules; see :attr:`PassOptions.methods`.
        targets: The classes; see :func:`explain`.
    """

    rules: tuple[str, ...]
    targets: Targets = "all"

    def __post_init__(self) -> None:
        if not self.rules:
            raise ValueError(
                f"`rules` must name at least one rule, got none. Choose from {', '.join(RULES)}."
            )


@dataclass(frozen=True, slots=True)
class Chunk:
    """Images that pass through the model together.

    Attributes:
        rows: Which of all images they are.
        count: The number of all images.
        classes: ``(n, K)`` int64, the classes that are explained, one column per backward pass.
        logits: ``(n, num_classes)``.
    """

    rows: slice
    count: int
    classes: Tensor
    logits: Tensor


class Reducer(Protocol):
    """Keeps what is needed of each attribution, which is gone after the call."""

    def begin(self, chunk: Chunk) -> None:
        """Prepare for the attributions of ``chunk``.

        A chunk may begin again with fewer images, if memory ran out.
        """

    def take(self, rule: str, column: int, attribution: Tensor) -> None:
        """Take the attribution ``(n, C, H, W)`` of one column of the chunk's classes by ``rule``.

        It is contiguous and must not be written to, because other reducers get it too.
        """


class Everything:
    """Keeps all attributions in full."""

    def __init__(self) -> None:
        self.attributions: dict[str, Tensor] = {}

    def begin(self, chunk: Chunk) -> None:
        """See :class:`Reducer`."""
        self._chunk = chunk

    def take(self, rule: str, column: int, attribution: Tensor) -> None:
        """See :class:`Reducer`."""
        if rule not in self.attributions:
            shape = (self._chunk.count, self._chunk.classes.shape[1], *attribution.shape[1:])
            self.attributions[rule] = attribution.new_empty(shape)
        self.attributions[rule][self._chunk.rows, column] = attribution


@dataclass(slots=True)
class Job:
    """A request, and who takes the attributions.

    Attributes:
        request: What to explain.
        targets: ``(N, K)``, as :func:`as_columns` returns them.
        reducers: They take the attributions.
        everything: The reducer among them that keeps all attributions, if there is one.
        alone: Whether no other process takes part in the passes.
        finite: For each rule, a bool tensor: whether all values were finite.
        parts: What each chunk returned.
        failure: The first error of a reducer or of a method.
    """

    request: Request
    targets: Tensor | None
    reducers: Sequence[Reducer]
    everything: Everything | None
    alone: bool
    finite: dict[str, Tensor] = field(default_factory=dict)
    parts: list[Attributions] = field(default_factory=list)
    failure: Exception | None = None

    def begin(self, chunk: Chunk) -> None:
        """Announce ``chunk`` to the reducers."""
        for reducer in self.reducers:
            reducer.begin(chunk)

    def take(self, rule: str, column: int, attribution: Tensor) -> None:
        """Hand an attribution to the reducers, and note whether it is finite."""
        try:
            # The extremes show it without another tensor of the attribution's size.
            extremes = torch.stack((attribution.amax(), attribution.amin()))
            finite = torch.isfinite(extremes).all()
            self.finite[rule] = self.finite[rule] & finite if rule in self.finite else finite
            for reducer in self.reducers:
                reducer.take(rule, column, attribution)
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Raise ``error`` now, or when all passes are done if other processes take part in them.

        They would wait for the passes that are still to come.
        """
        self.failure = self.failure or error
        if self.alone:
            raise error

    def finish(self) -> Attributions:
        """Join what the chunks returned."""
        if self.failure is not None:
            raise self.failure
        parts = self.parts
        return Attributions(
            {} if self.everything is None else self.everything.attributions,
            torch.cat([p.targets for p in parts]),
            torch.cat([p.logits for p in parts]),
            parts[0].coverage,
            parts[0].activation,
        )


def plan(
    images: Tensor,
    requests: Sequence[Request],
    reducers: Sequence[Sequence[Reducer]] | None,
    *,
    alone: bool,
) -> list[Job]:
    """Pair each request with its reducers; without any, everything is kept."""
    jobs = []
    for index, request in enumerate(requests):
        everything = Everything() if reducers is None else None
        takers = (everything,) if everything is not None else (reducers or ())[index]
        targets = as_columns(request.targets, images)
        jobs.append(Job(request, targets, takers, everything, alone))
    return jobs

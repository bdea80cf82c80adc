"""Labels in the forms that people keep them in, and whether they fit a model.

A probe holds labels in one of two forms: ``(N,)`` int64, one class per image, with -1 for an image
without a label; or ``(N, num_classes)`` float32, if an image may have several.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_saliency.errors import SaliencyError
from lightning_saliency.functional.arguments import as_plain_tensor

UNLABELLED = -1
_IGNORED = -100  # torch's losses ignore this class by default
_SEVERAL = "For several labels per image, pass floats `(N, num_classes)`, 1 for each true class."


def read_labels(labels: Any, count: int, *, from_data: bool = False) -> Tensor:
    """Bring labels of any usual form to one of the two forms that a probe holds.

    Args:
        labels: A tensor, an array or a list with one entry per image:

            - integers ``(N,)`` or ``(N, 1)``: classes; -1 and -100 stand for no label;
            - bools ``(N,)``, or zeros and ones of any type, also ``(N, 1)``: class 0 or class 1;
            - integers or bools ``(N, C)`` that are 0 or 1: one class per image if every row holds
              a single 1, and otherwise several;
            - floats ``(N, C)``: several labels per image.
        count: The number of images, N.
        from_data: Whether the labels come from a dataset. Then floats ``(N, C)`` must lie between
            0 and 1, where -1 and NaN stand for an unknown label, and rows that add up to 1 (one-hot
            or mixed labels) are one class per image, the strongest.

    Returns:
        ``(N,)`` int64 or ``(N, C)`` float32, on the CPU, a copy.

    Raises:
        TypeError: The labels are not numbers.
        ValueError: They have another shape, or values that are not labels.

    Example:
        >>> read_labels([[False, True], [True, False]], 2)
        tensor([1, 0])
        >>> read_labels([[0, 1], [1, 1]], 2)
        tensor([[0., 1.],
                [1., 1.]])
    """
    values = _as_tensor(labels)
    kind = f"{values.dtype} {tuple(values.shape)}"
    if values.ndim == 0 or len(values) != count:
        raise ValueError(
            f"`labels` must have one entry for each of {count} image(s), got {kind}. Pass one "
            "label per image."
        )
    if values.ndim > 2 and values[0].numel() == 1:
        values = values.flatten(1)
    if values.ndim > 2:
        raise ValueError(
            f"`labels` must be classes (N,), or (N, num_classes) if an image may have several, got "
            f"{kind}. Maps of classes are no labels of an image."
        )
    # A column of fractions stays what it is: the one label of a model with several per image.
    if values.ndim == 2 and values.shape[1] == 1 and (_is_whole(values) or from_data):
        values = values[:, 0]
    if values.ndim == 1:
        return _read_classes(values)
    return _read_rows(values, from_data=from_data)


def _as_tensor(labels: Any) -> Tensor:
    try:
        values = as_plain_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        shown = dict(labels) if isinstance(labels, Mapping) else labels
        raise TypeError(
            f"`labels` must be class indices, got {shown!r}. Number the names in "
            "`class_names`; `class_index` finds ImageNet's."
        ) from error
    if values.dtype.is_complex:
        raise TypeError(f"`labels` must be class indices, got {values.dtype}. Pass integers.")
    return values.detach().to("cpu", copy=True)


def _is_whole(values: Tensor) -> bool:
    """Return whether values are integers or bools, or floats that are all 0 or 1."""
    return not values.is_floating_point() or bool(((values == 0) | (values == 1)).all())


def _read_classes(values: Tensor) -> Tensor:
    """Read one class per image, ``(N,)``."""
    if not _is_whole(values):
        raise ValueError(
            "`labels` must be classes, got floats that are not all 0 or 1: "
            f"{_first_values(values)}. Classes are integers: `labels.long()`. {_SEVERAL}"
        )
    classes = values.long()
    classes[classes == _IGNORED] = UNLABELLED
    if bool((classes < UNLABELLED).any()):
        raise ValueError(
            f"`labels` must be classes of at least 0, got {_first_values(classes)}. -1 stands for "
            "an image without a label."
        )
    return classes


def _read_rows(values: Tensor, *, from_data: bool) -> Tensor:
    """Read labels ``(N, C)``: one class per image if the rows say so, and otherwise several."""
    floats = values.is_floating_point()
    if floats and not from_data:
        return values.float()
    rows = values.float() if floats else values.double()
    # Datasets of medical images mark a label that nobody gave by -1 or NaN; it is not true.
    rows = rows.nan_to_num(nan=0.0).masked_fill((rows == UNLABELLED) | (rows == _IGNORED), 0.0)
    if bool(((rows < 0) | (rows > 1)).any()):
        raise ValueError(
            f"`labels` of shape {tuple(values.shape)} must be 0 or 1, got {_first_values(values)}. "
            f"Pass one class per image, (N,). {_SEVERAL}"
        )
    # Half precision rounds the parts of a mixed label.
    if bool(((rows.sum(dim=1) - 1).abs() < 5e-3).all()):
        return rows.argmax(dim=1)
    return rows.float()


def _first_values(values: Tensor) -> str:
    """Write the first eight values for an error message."""
    text = ", ".join(f"{value:g}" for value in values.flatten()[:8].tolist())
    return text + (", …" if values.numel() > 8 else "")


def find_first_labels(labels: Tensor) -> Tensor | None:
    """Find the first label of each image, ``(N,)``; ``None`` if any image has no label."""
    if labels.ndim == 1:
        return None if bool((labels == UNLABELLED).any()) else labels
    positive = labels > 0.5
    return positive.int().argmax(dim=1) if bool(positive.any(dim=1).all()) else None


def check_labels_fit(labels: Tensor | None, num_logits: int, found_in: str = "") -> None:
    """Check labels of a probe against the number of logits of a model.

    Args:
        labels: In one of the two forms that a probe holds; ``None`` for no labels.
        num_logits: The number of logits. A single one stands for class 1 against class 0.
        found_in: The field of a batch that the labels were read from; empty if they were passed.

    Raises:
        ValueError: Labels that were passed do not fit.
        SaliencyError: Labels that were found in the data do not fit.
    """
    if labels is None:
        return
    classes = max(num_logits, 2) if labels.ndim == 1 else num_logits
    fitting = int(labels.max()) < classes if labels.ndim == 1 else labels.shape[1] == classes
    if fitting:
        return
    if labels.ndim == 1:
        got = f"classes {_first_values(labels)}"
    else:
        got = f"{labels.shape[1]} columns, one per class"
    model = f"the model has {num_logits} logit(s), for classes from 0 to {classes - 1}"
    if not found_in:
        raise ValueError(
            f"the `labels` of the probe do not fit: {model}, but they have {got}. Pass the labels "
            "that the model is trained with: `ProbeBatch(images, labels)`."
        )
    raise SaliencyError(
        f"the labels that were found do not fit: {model}, but {found_in} has {got}. If the labels "
        "are elsewhere, list the class of each item in an attribute `targets` of the dataset, or "
        "pass `probe=ProbeBatch(images, labels)`; without `labels`, images need none."
    )

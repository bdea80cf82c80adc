"""Figures for notebooks and papers: the four panels of an explanation, drawn by matplotlib.

Only :class:`matplotlib.figure.Figure` is used, never pyplot: no window, no backend and no list of
open figures is touched, so nothing has to be closed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.maps import Reduce, reduce_channels, strongest_channel
from lightning_saliency.pictures import percent
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.snapshot import probabilities

if TYPE_CHECKING:  # `Explanation.plot` imports this module
    from lightning_saliency.attribution import Explanation

Panel: TypeAlias = NDArray[np.float32]  # (H, W), or (H, W, 3) in [0, 1]

SATURATION = 5.0  # root mean squares of an attribution at which its colours end, as in FlashTorch
COLOURS = "inferno"  # even in lightness, so also right in grey and for the colour-blind
_MOST_ROWS = 40
_INK, _FAINT = "#202124", "#5f6368"
_GAP = 0.06  # inches between panels
_LINE = 1.5  # height of a line of text and what is around it, in font sizes
_LETTER = 0.75  # width of a letter, rather more than less, likewise


def plot(
    explanation: Explanation,
    probe: ProbeBatch | Tensor,
    *,
    rule: str | None = None,
    image: int | None = None,
    targets: int | Sequence[int] | None = None,
    reduce: Reduce = "abs_max",
    width: float = 7.0,
) -> Figure:
    """Draw an explanation, four panels a row, as FlashTorch does.

    1. The image. Other than three channels are shown as their mean, in grey.
    2. The attribution by colour channel: mid grey is zero, and red lighter than that says that
       more red would raise the logit. All channels are on one scale, which ends at five times
       the root mean square. Where an image has not three channels: the strongest of them, in grey.
    3. Its maximum over the channels, from black (zero) to yellow, on the scale of panel 2.
    4. That over the dimmed image.

    Each row is on a scale of its own, so rows are not to be compared in strength.

    Args:
        explanation: What :func:`explain` returned.
        probe: The images that were explained. A ``ProbeBatch`` knows class names, and with its
            ``mean`` and ``std`` shows the images as a person knows them; a tensor ``(N, C, H, W)``
            is shown from its lowest to its highest value, and classes by number.
        rule: Which one to draw; the first that was explained by default.
        image: Which image; all by default.
        targets: The class or classes to draw, a row each. By default, of one image all that were
            explained; of several images one each, the label, else the strongest explained.
        reduce: How panels 3 and 4 reduce the channels: ``"max"`` is FlashTorch's signed maximum,
            drawn from zero on; see :func:`maps.reduce_channels`.
        width: Of the figure, in inches: 7 fills a page, 3.4 a column of two.

    Returns:
        A figure on white paper, whatever the style. A notebook shows it, with or without
        ``%matplotlib``, and ``savefig`` writes it in 300 dots an inch, with its words as text in a
        PDF.

    Raises:
        TypeError: ``probe`` is neither a ``ProbeBatch`` nor a tensor of floating-point images.
        KeyError: A rule that was not explained.
        IndexError: No such image.
        ValueError: Images that do not fit the explanation, a class that was not explained, or more
            rows than a figure can hold.

    Example:
        >>> from torch import nn
        >>> from lightning_saliency import explain
        >>> images = torch.rand(2, 3, 8, 8)
        >>> model = nn.Sequential(nn.Conv2d(3, 5, 8), nn.ReLU(), nn.Flatten())
        >>> figure = plot(explain(model, images), images, image=0, targets=[1, 4])
        >>> len(figure.axes)
        8
        >>> figure.savefig("explained.pdf")  # doctest: +SKIP
    """
    probe = ProbeBatch(probe) if isinstance(probe, Tensor) else probe
    _check_arguments(probe, reduce, width)
    rule = next(iter(explanation.attributions)) if rule is None else rule
    attribution = explanation[rule].detach().float().cpu()
    _check_fit(attribution, probe)
    rows = _chosen_rows(explanation, probe, image, targets)
    images = probe.displayed()
    figure, axes = _empty(len(rows), width, attribution.shape[-2:])
    size = _font_size(width)
    for ax, head in zip(axes[0], _heads(rule, attribution.shape[2], reduce), strict=True):
        ax.set_title(head, fontsize=size, color=_INK, loc="left", pad=3)
    for row, (i, k) in zip(axes, rows, strict=True):
        _draw_row(row, images[i], attribution[i, k], reduce)
        _write_label(row[0], *_words(explanation, probe, i, k), width)
    return figure


class _PaperFigure(Figure):
    """Saved as fine as print wants it, and shown by notebooks that never imported pyplot."""

    def savefig(self, fname: Any, **options: Any) -> None:
        if rcParams["savefig.dpi"] == "figure":  # else the user has chosen
            options.setdefault("dpi", 300)
        super().savefig(fname, **options)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        # IPython's formatter for figures, registered with the inline backend, goes before this.
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=2 * self.dpi)
        width, height = (round(side * self.dpi) for side in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}


def _check_arguments(probe: ProbeBatch, reduce: Reduce, width: float) -> None:
    if not isinstance(probe, ProbeBatch):
        raise TypeError(
            "`probe` must be a ProbeBatch or the tensor of images that were explained, got "
            f"{type(probe).__name__}."
        )
    if reduce not in _REDUCED:
        raise ValueError(f"`reduce` must be one of {', '.join(_REDUCED)}, got {reduce!r}.")
    if not width >= 1:
        raise ValueError(f"`width` must be at least 1 inch, got {width}.")


def _check_fit(attribution: Tensor, probe: ProbeBatch) -> None:
    explained = (len(attribution), *attribution.shape[2:])
    if explained != tuple(probe.images.shape):
        raise ValueError(
            f"`probe` must hold the images that were explained, of shape {explained}, got "
            f"{tuple(probe.images.shape)}."
        )


def _chosen_rows(
    explanation: Explanation,
    probe: ProbeBatch,
    image: int | None,
    targets: int | Sequence[int] | None,
) -> list[tuple[int, int]]:
    """Which image and which of its explained classes each row shows."""
    count = len(probe)
    if image is not None and not -count <= image < count:
        raise IndexError(f"`image` must be from 0 to {count - 1}, got {image}.")
    images = list(range(count)) if image is None else [image % count]
    explained = explanation.targets.tolist()
    if targets is not None:
        wanted = [targets] if isinstance(targets, int) else list(targets)
        rows = [(i, _column(explained[i], target, i)) for i in images for target in wanted]
    elif len(images) == 1:
        rows = [(images[0], k) for k in range(len(explained[images[0]]))]
    else:
        rows = [(i, _foremost(explanation, probe, i)) for i in images]
    if not 0 < len(rows) <= _MOST_ROWS:
        raise ValueError(
            f"a figure can hold 1 to {_MOST_ROWS} rows, got {len(rows)}. Choose with `image=…` and "
            "`targets=[…]`."
        )
    return rows


def _column(explained: list[int], target: int, image: int) -> int:
    if target not in explained:
        told = ", ".join(map(str, explained[:12])) + (", …" if len(explained) > 12 else "")
        raise ValueError(
            f"`targets` must be classes that were explained, of image {image} {told}; got "
            f"{target}. Ask for it with `explain(model, images, {target})`."
        )
    return explained.index(target)


def _foremost(explanation: Explanation, probe: ProbeBatch, image: int) -> int:
    """The column of the label, or of the strongest class where that was not explained."""
    classes = explanation.targets[image]
    strength = explanation.logits[image].gather(0, classes).nan_to_num().tolist()
    true = probe.true_classes(image)
    return max(
        range(len(strength)), key=lambda column: (int(classes[column]) in true, strength[column])
    )


def _empty(rows: int, width: float, shape: Sequence[int]) -> tuple[Figure, NDArray[Any]]:
    """A figure of equal panels as high as its rows need, and its axes ``(rows, 4)``."""
    panel = (width - 5 * _GAP) / 4
    line = _LINE * _font_size(width) / 72
    height = rows * (panel * shape[0] / shape[1] + line + _GAP) + 2 * line + _GAP
    figure = _PaperFigure(figsize=(width, height), facecolor="white", layout="compressed")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=_GAP / 2, h_pad=_GAP / 2, wspace=0, hspace=0)
    axes: NDArray[Any] = figure.subplots(rows, 4, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure, axes


def _font_size(width: float) -> float:
    return 8.0 if width >= 5 else 6.5  # points


_REDUCED: dict[Reduce, str] = {
    "abs_max": "max magnitude",
    "max": "max, signed",
    "abs_sum": "sum of magnitudes",
    "square": "sum of squares",
}


def _heads(rule: str, channels: int, reduce: Reduce) -> tuple[str, ...]:
    name = rule.replace("_", " ")
    panel = {1: "signed", 3: "by colour channel"}.get(channels, "strongest channel")
    return ("input", f"{name}\n{panel}", f"{name}\n{_REDUCED[reduce]}", "overlay")


def _words(explanation: Explanation, probe: ProbeBatch, image: int, k: int) -> tuple[str, str]:
    """The name of a row's class and its probability."""
    target = int(explanation.targets[image, k])
    logits = explanation.logits[[image]].detach().float()
    chance = float(probabilities(logits, multi_label=probe.multi_label)[0, target])
    name = " ".join(probe.class_name(target).split())
    return (name if probe.class_names else f"class {name}"), percent(chance)


def _write_label(ax: Axes, name: str, chance: str, width: float) -> None:
    """Under the first panel, where words are level and have the width of all four."""
    size = _font_size(width)
    room = int(width * 72 / (_LETTER * size)) - len(chance) - 3
    name = name if len(name) <= room else name[: room - 1].rstrip() + "…"
    ax.set_xlabel(" ", fontsize=size, labelpad=2)  # keeps a line free
    label = ax.annotate(f"{name} · {chance}", (0, 0), (0, -3), **_BELOW, fontsize=size, color=_INK)
    label.set_in_layout(False)  # else a long one would push the panels together
    label.set_parse_math(False)  # a dollar in a name is a dollar


_BELOW: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}


def _draw_row(axes: Sequence[Axes], image: Tensor, attribution: Tensor, reduce: Reduce) -> None:
    photo = _photo(image)
    _show(axes[0], photo)
    if not bool(torch.isfinite(attribution).all()):
        for ax in axes[1:]:
            _show(ax, np.full(image.shape[-2:], 0.9, dtype=np.float32))
            ax.text(0.5, 0.5, "not finite", color=_FAINT, **_CENTRED, transform=ax.transAxes)
        return
    limit = max(SATURATION * float(attribution.square().mean().sqrt()), _TINY)
    _show(axes[1], _signed(attribution / limit))
    strength: Panel = reduce_channels(attribution / limit, reduce).clamp(0, 1).numpy()
    _show(axes[2], strength, COLOURS)
    _show(axes[3], _overlay(photo, strength))


_TINY = float(torch.finfo(torch.float32).tiny)
_CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}


def _show(ax: Axes, panel: Panel, colours: str = "gray") -> None:
    ax.imshow(panel, cmap=colours, vmin=0, vmax=1)


def _photo(image: Tensor) -> Panel:
    """``(C, H, W)`` in [0, 1] as matplotlib takes it; grey where there are no three channels."""
    panel: Panel = (image.permute(1, 2, 0) if len(image) == 3 else image.mean(dim=0)).numpy()
    return panel


def _signed(attribution: Tensor) -> Panel:
    """Zero at mid grey, 1 at white, −1 at black; in colour where there are three channels."""
    values = attribution if len(attribution) == 3 else strongest_channel(attribution)[None]
    return _photo((values / 2 + 0.5).clamp(0, 1))


def _overlay(photo: Panel, strength: Panel) -> Panel:
    grey = 0.6 * (photo.mean(axis=2) if photo.ndim == 3 else photo)[..., None]
    weight = strength[..., None] ** 0.7  # brings up what is faint, less so the noise
    laid: Panel = grey * (1 - weight) + colormaps[COLOURS](strength)[..., :3] * weight
    return laid.astype(np.float32)

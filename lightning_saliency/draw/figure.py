"""Figures for notebooks and papers: the four panels of an explanation, drawn by matplotlib.

Only :class:`matplotlib.figure.Figure` is used, never pyplot. So no window is opened, no backend is
chosen, and no figure has to be closed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.draw.canvas import FAINT, INK
from lightning_saliency.draw.colours import OVERLAY_DIMMED, OVERLAY_GAMMA
from lightning_saliency.functional.arguments import check_choice
from lightning_saliency.functional.maps import (
    REDUCTIONS,
    TITLES,
    Reduce,
    reduce_channels,
    strongest_channel,
)
from lightning_saliency.functional.probabilities import probabilities
from lightning_saliency.functional.text import percent, shorten
from lightning_saliency.probe.batch import ProbeBatch

Panel: TypeAlias = NDArray[np.float32]  # (H, W), or (H, W, 3) in [0, 1]

SATURATION = 5.0  # root mean squares of an attribution at which its colours end, as in FlashTorch
COLOURS = "inferno"  # even in lightness, so it reads well in grey and for the colour-blind
_MOST_ROWS = 40
_WIDE = 5  # inches; a narrower figure has a smaller font
_INK, _FAINT = (tuple(channel / 255 for channel in ink) for ink in (INK, FAINT))
_GAP = 0.06  # inches between panels
_LINE = 1.5  # height of a line of text with the space around it, in font sizes
_LETTER = 0.75  # width of a letter in font sizes, estimated generously


def plot(
    attributions: Mapping[str, Tensor],
    explained: Tensor,
    logits: Tensor,
    probe: ProbeBatch | Tensor,
    *,
    rule: str | Sequence[str] | None = None,
    image: int | None = None,
    targets: int | Sequence[int] | None = None,
    reduce: Reduce = "abs_max",
    width: float = 7.0,
    multi_label: bool | None = None,
) -> Figure:
    """Draw attributions in rows of four panels, as FlashTorch does.

    1. The image. Any number of channels other than three is shown as their mean, in grey.
    2. The attribution by colour channel. Mid grey is zero; where red is lighter than that, more
       red would raise the logit. All channels share one scale, which ends at five times the root
       mean square. Without three channels: the strongest of them at each pixel, in grey.
    3. The maximum of panel 2 over the channels, on its scale, from black (zero) to yellow.
    4. Panel 3 over the dimmed image.

    Each row has a scale of its own, so strengths cannot be compared between rows. Of volumes, all
    panels show what the ``depth`` of the probe says; of a tensor, what is strongest along D.

    Args:
        attributions: By rule, ``(N, K, C, H, W)``, or ``(N, K, C, D, H, W)`` of volumes, in logits
            per input unit, as :func:`explain` returns them; likewise the next two.
        explained: ``(N, K)`` int64, the class that each attribution explains.
        logits: ``(N, num_classes)``.
        probe: The images that were explained. A ``ProbeBatch`` brings class names and, with
            ``mean`` and ``std``, shows images in their own colours. A tensor ``(N, C, H, W)`` is
            shown from its lowest to its highest value, and its classes by number.
        rule: The rule or rules to draw, one row each; by default all that were explained.
        image: The number of the image to draw; by default all.
        targets: The class or classes to draw, one row each. By default all that were explained if
            one image is drawn; if several are, one class each: the label, or the strongest class
            if the label was not explained.
        reduce: How panels 3 and 4 reduce the channels: ``"max"`` is FlashTorch's signed maximum,
            drawn from zero up; see :func:`maps.reduce_channels`.
        width: Width of the figure in inches: 7 fills a page, 3.4 one of two columns.
        multi_label: Whether each logit has a probability of its own; by default, the labels decide.

    Returns:
        A figure on white paper, whatever the style of matplotlib. A notebook shows it, with or
        without ``%matplotlib``. ``savefig`` writes it at 300 dots per inch; in a PDF, its words
        are text.

    Raises:
        TypeError: ``probe`` is neither a ``ProbeBatch`` nor a tensor of floating-point images.
        KeyError: A rule was not explained.
        IndexError: There is no such image.
        ValueError: The images do not fit the attributions, a class was not explained, or a figure
            cannot hold that many rows.

    Example:
        >>> from torch import nn
        >>> from lightning_saliency import explain
        >>> images = torch.rand(2, 3, 8, 8)
        >>> model = nn.Sequential(nn.Conv2d(3, 5, 8), nn.ReLU(), nn.Flatten())
        >>> figure = explain(model, images).plot(images, image=0, targets=[1, 4])
        >>> len(figure.axes)
        8
        >>> figure.savefig("explained.pdf")  # doctest: +SKIP
    """
    probe = ProbeBatch(probe) if isinstance(probe, Tensor) else probe
    _check_arguments(probe, reduce, width)
    rules = _chosen_rules(attributions, rule)
    shown = {name: attributions[name].detach().float().cpu() for name in rules}
    # A method of another library may return one channel for images of several.
    _check_fit(_widest(shown), probe)
    if probe.projection is not None:
        shown = {name: probe.projection.strongest(signed) for name, signed in shown.items()}
    channels, shape = {each.shape[2] for each in shown.values()}, _widest(shown)
    rows = _chosen_rows(explained.tolist(), logits, probe, image, targets)
    drawn = [(i, k, name) for i, k in rows for name in rules]
    _check_count(len(drawn))
    images = probe.displayed()
    multi_label = probe.multi_label if multi_label is None else multi_label
    figure, axes = _empty(len(drawn), width, shape[-2:])
    size, several = _font_size(width), len(rules) > 1
    for ax, head in zip(axes[0], _panel_heads(rules, channels, reduce, width), strict=True):
        ax.set_title(head, fontsize=size, color=_INK, loc="left", pad=3)
    for row, (i, k, name) in zip(axes, drawn, strict=True):
        _draw_row(row, images[i], shown[name][i, k], reduce)
        found = probabilities(logits[[i]].detach().float(), multi_label=multi_label)
        words = _words(probe, int(explained[i, k]), found[0])
        _write_label(row[0], words, name.replace("_", " ") if several else "", width)
    return figure


class _PaperFigure(Figure):
    """A figure that is fine enough for print, and shown by notebooks that never imported pyplot."""

    def savefig(self, fname: Any, **options: Any) -> None:
        if rcParams["savefig.dpi"] == "figure":  # Any other value is the user's own choice.
            options.setdefault("dpi", 300)
        # Some styles, such as older matplotlib's `dark_background`, change the paper of files only.
        options.setdefault("facecolor", self.get_facecolor())
        super().savefig(fname, **options)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        # Where the inline backend is active, IPython's own formatter for figures takes precedence.
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=2 * self.dpi)
        width, height = (round(side * self.dpi) for side in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}


def _widest(shown: Mapping[str, Tensor]) -> torch.Size:
    """The shape of the attributions with the most channels."""
    return max((signed.shape for signed in shown.values()), key=lambda shape: shape[2])


def _check_arguments(probe: ProbeBatch, reduce: Reduce, width: float) -> None:
    if not isinstance(probe, ProbeBatch):
        raise TypeError(
            "`probe` must be a ProbeBatch or the tensor of images that were explained, got "
            f"{type(probe).__name__}."
        )
    check_choice("reduce", reduce, REDUCTIONS)
    if not width >= 1:
        raise ValueError(f"`width` must be at least 1 inch, got {width}.")


def _chosen_rules(
    attributions: Mapping[str, Tensor], rule: str | Sequence[str] | None
) -> tuple[str, ...]:
    rules = tuple(attributions) if rule is None else (rule,) if isinstance(rule, str) else rule
    for name in rules:
        if name not in attributions:
            raise KeyError(
                f"no attribution by {name!r} here, only by {', '.join(attributions)}; ask for it "
                f"with explain(…, rules=({name!r},))"
            )
    return tuple(rules)


def _check_fit(shape: Sequence[int], probe: ProbeBatch) -> None:
    explained, given = (shape[0], *shape[2:]), tuple(probe.images.shape)
    if explained not in (given, (given[0], 1, *given[2:])):
        raise ValueError(
            f"`probe` must hold the images that were explained, of shape {explained}, got {given}."
        )


def _check_count(rows: int) -> None:
    if not 0 < rows <= _MOST_ROWS:
        raise ValueError(
            f"a figure can hold 1 to {_MOST_ROWS} rows, got {rows}. Choose with `image=…` and "
            "`targets=[…]`."
        )


def _chosen_rows(
    explained: Sequence[list[int]],
    logits: Tensor,
    probe: ProbeBatch,
    image: int | None,
    targets: int | Sequence[int] | None,
) -> list[tuple[int, int]]:
    """The image of each row and, among the classes explained of it, the column to draw."""
    count = len(probe)
    if image is not None and not -count <= image < count:
        raise IndexError(f"`image` must be from 0 to {count - 1}, got {image}.")
    images = list(range(count)) if image is None else [image % count]
    if targets is not None:
        wanted = [targets] if isinstance(targets, int) else list(targets)
        return [(i, _column(explained[i], target, i)) for i in images for target in wanted]
    if len(images) == 1:
        return [(images[0], k) for k in range(len(explained[images[0]]))]
    return [(i, _foremost(explained[i], logits[i], probe.true_classes(i))) for i in images]


def _column(explained: list[int], target: int, image: int) -> int:
    if target not in explained:
        listed = ", ".join(map(str, explained[:12])) + (", …" if len(explained) > 12 else "")
        raise ValueError(
            f"`targets` must be classes that were explained, of image {image} {listed}; got "
            f"{target}. Ask for it with `explain(model, images, {target})`."
        )
    return explained.index(target)


def _foremost(explained: list[int], logits: Tensor, true: set[int]) -> int:
    """Find the column of the label, or of the strongest class if the label was not explained."""
    strength = logits[explained].nan_to_num().tolist()
    return max(range(len(explained)), key=lambda k: (explained[k] in true, strength[k]))


def _empty(rows: int, width: float, shape: Sequence[int]) -> tuple[Figure, NDArray[Any]]:
    """Make a figure of equal panels, as high as its rows need, and its axes ``(rows, 4)``."""
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
    return 8.0 if width >= _WIDE else 6.5  # points


def _panel_heads(
    rules: Sequence[str], channels: set[int], reduce: Reduce, width: float
) -> tuple[str, ...]:
    """The heads of the four panels, for attributions with these numbers of channels."""
    several = {3: "by colour channel"}.get(max(channels), "strongest channel")
    panel = "signed" if 1 in channels else several
    if len(rules) > 1:  # The label of each row names its rule.
        # In a narrow figure, the line would run into the next head.
        panel = panel if width >= _WIDE else panel.replace(" channel", "\nchannel")
        return ("input", panel, TITLES[reduce], "overlay")
    name = rules[0].replace("_", " ")
    return ("input", f"{name}\n{panel}", f"{name}\n{TITLES[reduce]}", "overlay")


def _words(probe: ProbeBatch, target: int, found: Tensor) -> tuple[str, str]:
    """The name of a class and its probability, of those of all classes."""
    name = " ".join(probe.class_name(target).split())
    return (name if probe.class_names else f"class {name}"), percent(float(found[target]))


def _write_label(ax: Axes, words: tuple[str, str], rule: str, width: float) -> None:
    """Write the class, its probability and the rule under a row, from its left edge on."""
    size = _font_size(width)
    after = " · ".join(filter(None, (words[1], rule)))
    room = int(width * 72 / (_LETTER * size)) - len(after) - 3
    text = f"{shorten(words[0], room)} · {after}"
    ax.set_xlabel(" ", fontsize=size, labelpad=2)  # This keeps a line free for the label.
    label = ax.annotate(text, (0, 0), (0, -3), **_BELOW, fontsize=size, color=_INK)
    label.set_in_layout(False)  # In the layout, a long label would push the panels together.
    label.set_parse_math(False)  # A dollar in a name does not begin a formula.


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
    """Turn ``(C, H, W)`` in [0, 1] into what matplotlib takes: RGB, or grey unless C is 3."""
    panel: Panel = (image.permute(1, 2, 0) if len(image) == 3 else image.mean(dim=0)).numpy()
    return panel


def _signed(attribution: Tensor) -> Panel:
    """Zero at mid grey, 1 at white, −1 at black; in colour if there are three channels."""
    values = attribution if len(attribution) == 3 else strongest_channel(attribution)[None]
    return _photo((values / 2 + 0.5).clamp(0, 1))


def _overlay(photo: Panel, strength: Panel) -> Panel:
    grey = OVERLAY_DIMMED * (photo.mean(axis=2) if photo.ndim == 3 else photo)[..., None]
    weight = strength[..., None] ** OVERLAY_GAMMA
    overlay: Panel = grey * (1 - weight) + colormaps[COLOURS](strength)[..., :3] * weight
    return overlay.astype(np.float32)

"""Images in a row with words under them, as a notebook shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image
from torch import Tensor

_SIZE = 96  # pixels of the longer side of an image
_MOST = 24  # images


def show_images(images: Tensor, captions: Iterable[str]) -> str:
    """Write images and their captions as HTML.

    Args:
        images: ``(N, C, H, W)`` in [0, 1]. Any number of channels but three is shown in grey.
        captions: One text per image; they never become markup.
    """
    shown = images[:_MOST] if images.shape[1] == 3 else images[:_MOST].mean(dim=1, keepdim=True)
    figures = [_figure(image, text) for image, text in zip(shown, captions, strict=False)]
    more = len(images) - len(figures)
    rest = f"<p>… and {more} more</p>" if more else ""
    return f'<div style="display: flex; flex-wrap: wrap">{"".join(figures)}</div>{rest}'


def _figure(image: Tensor, caption: str) -> str:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    longest = max(picture.size)
    sharp = longest * 2 <= _SIZE
    size = _fit(picture.size, _SIZE / longest)
    method = Image.Resampling.NEAREST if sharp else Image.Resampling.BICUBIC
    buffer = io.BytesIO()
    picture.resize(size, method).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure style="margin: 4px; width: {_SIZE}px"><img alt="" '
        f'src="data:image/png;base64,{data}"><figcaption style="overflow-wrap: anywhere">'
        f"{escape(caption)}</figcaption></figure>"
    )


def _fit(size: Sequence[int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

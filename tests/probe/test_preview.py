"""How probes show themselves in a notebook."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_saliency import ProbeBatch


def images(text: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_a_probe_shows_its_images_and_their_names():
    batch = torch.rand(3, 3, 8, 6)
    probe = ProbeBatch(batch, torch.tensor([0, 1, 0]), class_names=("cat", "dog"))
    text = probe._repr_html_()
    shown = images(text)
    assert [each.shape for each in shown] == [(96, 72, 3)] * 3
    # Small images stay sharp: a pixel becomes a square of twelve.
    expected = (batch[1] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(shown[1][6::12, 6::12], expected)
    assert re.findall(r"<figcaption[^>]*>([^<]*)<", text) == [
        *("image 0 · cat", "image 1 · dog", "image 2 · cat"),
    ]


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channels_other_than_three_are_grey(channels):
    (shown,) = images(ProbeBatch(torch.rand(1, channels, 200, 100))._repr_html_())
    assert shown.shape == (96, 48)


def test_names_are_text():
    name = '<script>alert("x")</script>'
    text = ProbeBatch(torch.rand(1, 3, 8, 8), names=(name,))._repr_html_()
    assert "<script" not in text
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in text


def test_many_images_are_cut_short():
    text = ProbeBatch(torch.rand(30, 1, 4, 4))._repr_html_()
    assert len(images(text)) == 24
    assert "… and 6 more" in text
    assert len(text) < 60_000

"""Read photos from files, and turn them into tensors as a model expects them."""

from lightning_saliency.probe.photos import read_photo as read_photo
from lightning_saliency.probe.transforms import to_tensor as to_tensor

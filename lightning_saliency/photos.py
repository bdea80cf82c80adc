"""Photos from files, as a person sees them and as a model expects them."""

from lightning_saliency.probe.photos import read_photo as read_photo
from lightning_saliency.probe.transforms import to_tensor as to_tensor

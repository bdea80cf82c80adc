"""See where a classifier looks while it trains."""

from lightning_saliency.attribution import Explanation as Explanation
from lightning_saliency.attribution import explain as explain
from lightning_saliency.callback import SaliencyCallback as SaliencyCallback
from lightning_saliency.check import AttentionCheck as AttentionCheck
from lightning_saliency.errors import SaliencyError as SaliencyError
from lightning_saliency.imagenet import class_index as class_index
from lightning_saliency.probe import ProbeBatch as ProbeBatch
from lightning_saliency.reference import Reference as Reference

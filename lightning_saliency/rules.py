"""How gradients pass activations; :func:`declare` says what an activation of your own is."""

from lightning_saliency.attribution.rules import RULES as RULES
from lightning_saliency.attribution.rules import Coverage as Coverage
from lightning_saliency.attribution.rules import Rule as Rule
from lightning_saliency.attribution.rules import declare as declare

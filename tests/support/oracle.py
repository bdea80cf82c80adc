"""An independent reference: activations replaced while the model runs, not found in its graph.

A `TorchFunctionMode` sees every call of an activation, by module, function or method, and puts an
autograd function of its own in its place, whose backward is the rule as the paper writes it. It
shares no mechanism with the package: no graph is walked and no hook attached.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

NAMES = {
    *("relu", "relu6", "hardtanh", "threshold", "leaky_relu", "prelu", "rrelu", "elu", "celu"),
    *("selu", "gelu", "silu", "hardswish", "mish", "softplus", "clamp", "clip", "clamp_min"),
}


class Ruled(torch.autograd.Function):
    """Wrap ``function`` with the backward pass of the rule that ``mode`` has at that time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor], mode: Any) -> Tensor:
        ctx.function, ctx.mode = function, mode
        ctx.save_for_backward(x.clone())
        return function(x)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(ctx.function(x).sum(), x)
        if ctx.mode.rule == "deconvnet":
            return upstream.clamp(min=0), None, None
        if ctx.mode.rule == "guided_backprop":
            return slope.clamp(min=0) * upstream.clamp(min=0), None, None
        return slope * upstream, None, None


class Replacing(TorchFunctionMode):
    """Replaces the activations of a forward pass, and counts them."""

    rule = "gradient"

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name.strip("_") not in NAMES:
            return func(*args, **kwargs)
        x, pure, in_place = _taken_apart(func, name, args, kwargs)
        if pure is None or not x.requires_grad:
            return func(*args, **kwargs)
        self.replaced += 1
        result = Ruled.apply(x, pure, self)
        return x.copy_(result) if in_place else result


def _taken_apart(
    func: Any, name: str, args: Any, kwargs: dict[str, Any]
) -> tuple[Tensor, Callable[[Tensor], Tensor] | None, bool]:
    """The input, the activation as a pure function (None: no rectifier), whether in place."""
    plain = name.strip("_")  # `F.threshold` calls itself `_threshold`
    in_place = name.endswith("_")
    try:
        bound = dict(inspect.signature(func).bind(*args, **kwargs).arguments)
    except ValueError:  # a built-in without signature has no argument `inplace`
        bound = {"input": args[0], **kwargs} if args else dict(kwargs)
        rest = args[1:]
    else:
        rest = ()
    in_place = bool(bound.pop("inplace", False)) or in_place
    x = bound.pop("input", None)
    x = bound.pop("self", None) if x is None else x
    if plain in ("clamp", "clip", "clamp_min"):
        keep = _clamps_to_zero(plain, rest, bound)
        return x, (lambda t: torch.clamp_min(t, 0)) if keep else None, in_place
    if plain == "hardtanh" and bound.get("min_val", -1.0) != 0:
        return x, None, in_place
    out_of_place = getattr(F, plain, None) or getattr(torch, plain)
    return x, lambda t: out_of_place(t, *rest, **bound), in_place


def _clamps_to_zero(name: str, rest: Any, bound: dict[str, Any]) -> bool:
    low = bound.get("min", rest[0] if rest else None)
    high = bound.get("max", rest[1] if len(rest) > 1 else None) if name != "clamp_min" else None
    return not isinstance(low, Tensor) and low is not None and low == 0 and high is None


def oracle(
    model: nn.Module, images: Tensor, targets: Tensor, rules: Sequence[str], copies: int = 1
) -> dict[str, Tensor]:
    """Attributions ``(N, K, C, H, W)`` of the logits ``targets`` ``(N, K)``, by rule.

    Torch may scramble the gradient of batch norm for a single image on a CPU, but not that of one
    of two ``copies``, which are otherwise rounded differently, too.
    """
    leaf, training = images.clone().requires_grad_(), model.training
    model.eval()
    with Replacing() as mode:
        logits = model((leaf * 1).repeat(copies, *[1] * (images.dim() - 1)))
    model.train(training)
    logits = (logits if isinstance(logits, Tensor) else logits[0])[: len(images)]
    found = {}
    for rule in rules:
        mode.rule = rule
        maps = []
        for column in range(targets.shape[1]):
            chosen = logits.gather(1, targets[:, [column]]).sum()
            maps.append(torch.autograd.grad(chosen, leaf, retain_graph=True)[0])
        found[rule] = torch.stack(maps, dim=1)
    return found


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))

"""Captum's attribution methods as rules: integrated gradients, Grad-CAM, SmoothGrad and others.

>>> import captum.attr
>>> from lightning_saliency import captum as methods
>>> methods.rule(captum.attr.IntegratedGradients, n_steps=32).name
'integrated_gradients'

This module needs Captum: ``pip install "lightning-saliency[captum]"``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from lightning_saliency.attribution.methods import LogitModel
from lightning_saliency.errors import SaliencyError

try:
    from captum.attr import Attribution, LayerAttribution, NoiseTunnel
except ImportError as error:
    raise ImportError(
        'rules of Captum need Captum: pip install "lightning-saliency[captum]"'
    ) from error

# What a rule passes itself, and what would change what is returned.
_OURS = {"self", "forward_func", "model", "layer", "attribution_method", "device_ids"}
_OURS |= {"inputs", "target", "additional_forward_args", "return_convergence_delta", "kwargs"}
# Prefixes that wrappers for compilation and distributed training put into the names of modules.
_WRAPPED = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_forward_module)\.")


def rule(
    method: type[Attribution],
    *,
    around: type[Attribution] | None = None,
    layer: str | None = None,
    name: str | None = None,
    interpolate_mode: str = "nearest",
    **options: Any,
) -> CaptumRule:
    """Make a rule of a class of ``captum.attr``, for :func:`explain` and ``SaliencyCallback``.

    What the maps promise is then what Captum promises. Captum hooks modules, so methods that change
    activations (``DeepLift``, ``LRP``, ``GuidedBackprop``) do not see functional ones; the rules of
    this package are attached to the graph. A method may also take long: integrated gradients makes
    ``n_steps`` forward and backward passes per class, all at once unless ``internal_batch_size``
    divides them.

    Args:
        method: The class, such as ``captum.attr.IntegratedGradients``. It must explain a class,
            so methods for neurons are refused.
        around: For ``NoiseTunnel``: the class that it is put around. SmoothGrad is
            ``rule(NoiseTunnel, around=Saliency, abs=False, nt_samples=16, stdevs=0.1)``. Its noise
            is the same in each observation.
        layer: The name of a layer in the model, such as ``"layer4"``, for methods that need one. A
            map of a layer is the sum over its channels, brought to the size of the images by
            ``captum.attr.LayerAttribution.interpolate``.
        name: What the maps go by; by default the name of the class in snake case.
        interpolate_mode: How maps of a layer are enlarged; ``"nearest"`` shows how coarse they are.
        **options: Arguments of the class, such as ``multiply_by_inputs``, and of its ``attribute``,
            such as ``n_steps``, ``baselines``, ``sliding_window_shapes`` or ``strides``. Lists
            become tuples, and tensors are moved to the device of the images. Images are explained
            in chunks, so a tensor must not hold a row for each image of the probe.

    Raises:
        TypeError: ``method`` is not a class of ``captum.attr``.
        ValueError: An option is missing or unknown, or the method does not explain a class.

    Example:
        >>> import torch
        >>> from captum.attr import LayerGradCam
        >>> from lightning_saliency import explain
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> cam = rule(LayerGradCam, layer="1", relu_attributions=True, name="grad_cam")
        >>> explanation = explain(model, torch.rand(2, 3, 8, 8), rules=("gradient", cam))
        >>> explanation["grad_cam"].shape
        torch.Size([2, 2, 1, 8, 8])
    """
    for each in (method, *([] if around is None else [around])):
        if not (isinstance(each, type) and issubclass(each, Attribution)):
            raise TypeError(
                "`method` must be an attribution class such as captum.attr.IntegratedGradients, "
                f"got {each!r}."
            )
    parts = (method,) if around is None else (method, around)
    _check_parts(method, around, layer)
    options = {key: _as_tuple(value) for key, value in options.items()}
    constructor = _take(options, (_parameters(part.__init__) for part in parts))
    known = {key for part in parts for key in _parameters(part.attribute)}
    unknown = sorted(options.keys() - known)
    if unknown:
        listed = sorted(known | {key for part in parts for key in _parameters(part.__init__)})
        raise ValueError(
            f"{method.__name__} has no option {unknown[0]!r}{_did_you_mean(unknown[0], listed)} "
            f"It has {', '.join(listed) or 'none'}."
        )
    required = {key for part in parts for key in _parameters(part.attribute, required=True)}
    missing = sorted(required - options.keys())
    if missing:
        raise ValueError(
            f"{method.__name__} needs `{missing[0]}`: pass it to `rule` like any other option, "
            f"`rule({method.__name__}, {missing[0]}=…)`."
        )
    own = _snake_case(method.__name__) if name is None else name
    return CaptumRule(own, method, around, layer, interpolate_mode, constructor, options)


@dataclass(frozen=True, eq=False, repr=False)
class CaptumRule:
    """A rule that calls Captum; :func:`rule` makes it and explains the attributes."""

    name: str
    method: type[Attribution]
    around: type[Attribution] | None = None
    layer: str | None = None
    interpolate_mode: str = "nearest"
    constructor: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<rule {self.name!r} of captum.attr.{self.method.__name__}>"

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Attribute the logits of ``targets`` to ``images``; see :mod:`attribution.methods`."""
        attribution = self._build(self.around or self.method, model)
        if self.around is not None:
            attribution = self.method(attribution)
        more = {key: _move(value, images) for key, value in self.options.items()}
        if isinstance(model, LogitModel) and model.extras:
            more["additional_forward_args"] = model.extras
        found: Any = attribution.attribute(images, target=targets, **more)
        if isinstance(found, tuple) and len(found) == 1:
            (found,) = found
        of_layer = issubclass(self.around or self.method, LayerAttribution)
        result: Tensor = self._enlarge(found, images) if of_layer else found
        return result

    def _build(self, kind: type[Attribution], model: nn.Module) -> Any:
        own = _parameters(kind.__init__)
        arguments = {key: value for key, value in self.constructor.items() if key in own}
        if self.layer is None:
            return kind(model, **arguments)
        return kind(model, find_layer(model, self.layer), **arguments)

    def _enlarge(self, found: Any, images: Tensor) -> Any:
        """Bring the attributions of a layer to one channel and to the size of the images."""
        if not isinstance(found, Tensor) or found.ndim != 4:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise SaliencyError(
                f"the rule {self.name!r} attributes {shape} to the layer {self.layer!r}, which is "
                "no map: choose one that returns (N, channels, height, width), such as the last "
                "convolution."
            )
        maps, size = found.sum(dim=1, keepdim=True), tuple(images.shape[-2:])
        return LayerAttribution.interpolate(maps, size, interpolate_mode=self.interpolate_mode)


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Find a submodule of the live model by its name.

    Raises:
        SaliencyError: There is none of that name.
    """
    live = model.model if isinstance(model, LogitModel) else model
    layers: dict[str, nn.Module] = {
        _WRAPPED.sub("", path): layer for path, layer in live.named_modules() if path
    }
    if name in layers:
        return layers[name]
    ends = [path for path in layers if path.endswith(f".{name}")]
    near = ends[:3] or get_close_matches(name, layers, n=3, cutoff=0.5)
    top = [path for path, _ in live.named_children()]
    raise SaliencyError(
        f"{type(live).__name__} has no layer {name!r}. "
        + (f"Did you mean {' or '.join(map(repr, near))}? " if near else "")
        + f"At its top are {', '.join(top)}; `dict(model.named_modules())` lists all."
    )


def _check_parts(
    method: type[Attribution], around: type[Attribution] | None, layer: str | None
) -> None:
    """Refuse classes that do not go together, and those that do not explain a class."""
    name, explaining = method.__name__, around or method
    tunnel = issubclass(method, NoiseTunnel)
    if tunnel != (around is not None):
        example = "`rule(NoiseTunnel, around=captum.attr.Saliency, …)`"
        raise ValueError(
            f"{name} needs the class that it is put around: {example}."
            if tunnel
            else f"only NoiseTunnel is put around another class, as in {example}; got {name}."
        )
    attribute = getattr(explaining, "attribute", None)
    if attribute is None or "target" not in inspect.signature(attribute).parameters:
        raise ValueError(
            f"{explaining.__name__} does not explain a class: its `attribute` has no `target`. "
            "Choose a method that does, such as LayerGradCam or IntegratedGradients."
        )
    if ("layer" in inspect.signature(explaining).parameters) != (layer is not None):
        raise ValueError(
            f'{explaining.__name__} needs the name of a layer: `layer="layer4"`.'
            if layer is None
            else f"{explaining.__name__} takes no `layer`, got {layer!r}. Leave it out."
        )


def _parameters(function: Any, *, required: bool = False) -> set[str]:
    """The names of a function's parameters that are the user's to pass."""
    found = inspect.signature(function).parameters.items()
    return {
        key
        for key, parameter in found
        if key not in _OURS and not (required and parameter.default is not parameter.empty)
    }


def _take(options: dict[str, Any], names: Iterable[set[str]]) -> dict[str, Any]:
    """Take the options of these names out of ``options``."""
    wanted = set().union(*names)
    return {key: options.pop(key) for key in wanted & options.keys()}


def _as_tuple(value: Any) -> Any:
    """Make tuples, which Captum asks for, of lists, which files hold."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def _move(value: Any, images: Tensor) -> Any:
    if isinstance(value, tuple):
        return tuple(_move(item, images) for item in value)
    if not isinstance(value, Tensor):
        return value
    return value.to(images.device, images.dtype if value.is_floating_point() else None)


def _snake_case(name: str) -> str:
    """Write a name such as ``InputXGradient`` as ``input_x_gradient``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."

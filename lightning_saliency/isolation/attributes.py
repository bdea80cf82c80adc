"""Restore what a forward pass keeps outside of parameters and buffers.

A module may count its calls, draw from a generator of its own, or append to a list in an object in
a dict. :func:`attributes_kept` restores all that the modules refer to; see :mod:`objects`.

The walk stays within what belongs to the model: it enters no trainer, logger, dataset, optimizer or
other machinery, and no object of an installed package unless a module comes from that package too.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.isolation.objects import Scope, Walk
from lightning_saliency.isolation.tensors import is_restorable

_LIMIT = 50_000  # objects that are looked at, so that a model that holds its data is not slowed

# Whatever derives from these packages has a life of its own: trainers, loggers, callbacks,
# datasets, loaders, optimizers. Modules, which derive from torch, are dealt with before.
_MACHINERY = frozenset(
    {"torch", "lightning", "pytorch_lightning", "lightning_fabric", "lightning_saliency"}
)
# A user's class may derive from classes of these parts of the standard library. Others, such as
# threads and files, change by themselves.
_PLAIN = frozenset({"builtins", "abc", "typing", "collections", "enum", "types", "dataclasses"})


@contextmanager
def attributes_kept(module: nn.Module) -> Iterator[None]:
    """Restore all that the submodules of ``module`` hold: tensors, containers, objects, streams."""
    modules = list(module.modules())
    with Walk(modules, _Model(modules)).kept():
        yield


class _Model(Scope):
    """What belongs to ``modules``: objects of the user's classes and of the modules' packages."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.most_objects = _LIMIT
        self.sharded = any(map(_is_sharded, modules))
        self._packages = {_package(type(m)) for m in modules} - _MACHINERY

    def enters(self, kind: type) -> bool:
        packages = set(map(_package, kind.__mro__))
        shared = (packages & sys.stdlib_module_names) - _PLAIN - {"__main__"}
        if not issubclass(kind, nn.Module) and (shared or packages & _MACHINERY):
            return False
        return kind is SimpleNamespace or self._is_within(_package(kind))

    def owns(self, kind: type) -> bool:
        return self.enters(kind)

    def enters_function(self, function: FunctionType) -> bool:
        return self._is_within(function.__globals__.get("__name__", ""))

    def lend(self, value: Any) -> Any:
        if isinstance(value, functools._lru_cache_wrapper):
            return functools.lru_cache(**value.cache_parameters())(value.__wrapped__)
        # A validation in inference mode leaves tensors behind that autograd refuses to save.
        if type(value) is Tensor and value.is_inference() and is_restorable(value):
            with torch.inference_mode(False):
                return value.clone()
        return super().lend(value)

    def _is_within(self, name: str) -> bool:
        """Return whether the code of the module ``name`` belongs to the model."""
        package = name.partition(".")[0]
        if package in _MACHINERY:
            return False
        return package in self._packages or not _is_installed(package)


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


@functools.cache
def _is_installed(package: str) -> bool:
    """Whether a package is installed or of the standard library, rather than the user's code."""
    if package == "__main__":
        return False
    if package in sys.stdlib_module_names:
        return True
    module = sys.modules.get(package)
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return file is None or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def _is_sharded(module: nn.Module) -> bool:
    """Whether the parameters are divided among processes, and come and go in a forward pass."""
    names = {base.__name__ for base in type(module).__mro__}
    if not names.isdisjoint({"FSDPModule", "FullyShardedDataParallel"}):
        return True
    parameters = [p for _, p in module._parameters.items() if p is not None]
    return any(hasattr(p, "ds_id") or hasattr(p, "_local_tensor") for p in parameters)

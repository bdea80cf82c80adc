"""Borrow a live module for a computation, and give it back as it was found.

An observation in the middle of training must not change the run by a single bit, whatever the
user's ``forward`` does. :func:`undisturbed` is the one entry to this. It stacks context managers,
each of which borrows one thing: it notes the state, lets the computation run, and restores the
state in a ``finally`` block, so that nothing depends on the computation being successful.

- **Modes** of submodules: the flags are set again, one by one.
- **Gradients**: ``requires_grad`` and ``.grad`` are set again if they differ.
- **Everything else that modules hold**, from parameters to counters in objects in lists, is found
  by a walk; see :mod:`attributes`. Tensors are copied and compared; see :mod:`tensors`.
- **Random streams**: their states are set again; see :mod:`rng`.
- **cuDNN's search, the compiler and the modules' ``log``**: switched off inside, and on again
  afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from lightning_saliency.isolation.attributes import attributes_kept
from lightning_saliency.isolation.rng import random_streams_kept


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put ``module`` in eval mode with gradients enabled; undo every side effect at the end.

    The following are restored, also after an error:

    - the mode of every submodule;
    - parameters and buffers: which there are, their memory and every bit of their content; lazy
      layers are uninitialised again; ``.grad`` and ``requires_grad`` of parameters;
    - what modules, and the user's objects that they refer to, hold in attributes, slots, class
      attributes and closures of hooks: tensors, numpy arrays, lists, dicts, sets and deques,
      however deeply nested, counters and iterators over lists, and modules that are not registered;
    - the random streams of torch, CUDA, MPS, numpy and python, and generators that the model owns.

    Inside the ``with`` block, compiled code runs eagerly, so that the graph shows its activations,
    and the modules' own ``log`` and ``log_dict`` do nothing.

    It may be entered under ``no_grad`` or ``inference_mode``: both are suspended inside, so that
    tensors that are created there are ordinary ones.

    Not restored, because nothing can tell or undo it: global variables, what methods close over,
    files and whatever else lies outside of the model; python generators and nested iterators
    (``zip``, ``cycle``) that the pass advances; the ``functools.lru_cache`` of a function that is
    no attribute; objects of installed packages from which no module comes, and of classes such as
    threads; what lies beyond the first 50,000 objects; and the content of parameters that are
    sharded or shared between processes.
    """
    with ExitStack() as stack:
        # Exits run in reverse order: whatever is switched off below is back on, and `log` is no
        # longer shadowed, by the time that attributes and tensors are restored.
        for keep in (_gradients_kept, attributes_kept, _evaluating):
            stack.enter_context(keep(module))
        for guard in (random_streams_kept, _cudnn_search_off, _eager):
            stack.enter_context(guard())
        stack.enter_context(_silenced(module))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode, then give each its own mode back."""
    # Set the flags instead of calling `eval()`, which would run the module's own `train()`: some
    # override it to merge weights or to freeze layers. Frozen TorchScript modules have no flag,
    # because they were frozen in eval mode.
    modes = [(m, m.training) for m in module.modules() if hasattr(m, "training")]
    try:
        for m, _ in modes:
            m.training = False
        yield
    finally:
        for m, training in modes:
            m.training = training


@contextmanager
def _gradients_kept(module: nn.Module) -> Iterator[None]:
    """Restore ``requires_grad`` and ``.grad`` of every parameter."""
    found = [(p, p.requires_grad, p.grad) for p in module.parameters()]
    try:
        yield
    finally:
        for parameter, requires_grad, grad in found:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            if parameter.grad is not grad:
                parameter.grad = grad


@contextmanager
def _silenced(module: nn.Module) -> Iterator[None]:
    """Shadow ``log`` and ``log_dict`` of LightningModules by functions that do nothing."""
    # A `forward` that calls `self.log` would otherwise overwrite the metric of the current step.
    loggers = [m for m in module.modules() if callable(getattr(type(m), "log_dict", None))]
    shadows = [(m, name) for m in loggers for name in ("log", "log_dict")]
    try:
        for m, name in shadows:
            m.__dict__[name] = _log_nothing
        yield
    finally:
        for m, name in shadows:
            m.__dict__.pop(name, None)


def _log_nothing(*args: object, **kwargs: object) -> None:
    """Stand in for ``LightningModule.log`` and ``log_dict``."""


@contextmanager
def _cudnn_search_off() -> Iterator[None]:
    """Keep cuDNN from searching for the fastest algorithm, as it would for each new shape."""
    found = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = False
        yield
    finally:
        torch.backends.cudnn.benchmark = found


@contextmanager
def _eager() -> Iterator[None]:
    """Run compiled code eagerly: a compiled graph is one node, which hides its activations."""
    # Importing the compiler takes seconds. If nobody has imported it, nothing has been compiled.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield

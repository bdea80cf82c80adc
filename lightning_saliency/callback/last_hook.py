"""A moment when training is over for everyone: all callbacks and the module have had their say.

Weights change in ``on_train_end``: averages are copied into the model, pruning is made permanent,
the best checkpoint is loaded. Callbacks get that hook in the order of their list and the module
after them, so a callback that looks at the model in its own hook may be too early. It is too late
in ``on_fit_end`` and ``teardown``: by then the strategy has moved the model off its device. In
between, Lightning calls only the hook of the same name that the *strategy* has. So this one is
replaced, on the trainer's own strategy object and until it is called. Nothing else is touched: no
list of callbacks, which others may hold or iterate over, and no module, which others may copy or
pickle in their own ``on_train_end``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_saliency.callback.failures import in_turn

_NAME = "on_train_end"


class _LastHook:
    """Stands in for the hook of a strategy, and takes itself away once it is called."""

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self._found = {k: v for k, v in vars(strategy).items() if k == _NAME}
        self.steps: list[Callable[[], None]] = []
        setattr(strategy, _NAME, self)

    def __call__(self, *args: Any, **named: Any) -> None:
        self.remove()
        getattr(self._strategy, _NAME)(*args, **named)
        in_turn(*self.steps)

    def remove(self) -> None:
        delattr(self._strategy, _NAME)
        vars(self._strategy).update(self._found)


def run_last(strategy: Any, step: Callable[[], None]) -> None:
    """Take ``step`` after every ``on_train_end`` of the callbacks, the module and the strategy.

    To be called in the ``on_train_end`` of a callback. Steps of several callbacks are taken in
    turn, whatever error the ones before end in.
    """
    hook = vars(strategy).get(_NAME)
    if not isinstance(hook, _LastHook):
        hook = _LastHook(strategy)
    hook.steps.append(step)


def drop_last(strategy: Any) -> None:
    """Forget what :func:`run_last` was given, if an error has ended training before its time."""
    hook = vars(strategy).get(_NAME)
    if isinstance(hook, _LastHook):
        hook.remove()

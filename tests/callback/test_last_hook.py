"""A step that comes after all hooks at the end of training, and leaves nothing behind."""

from __future__ import annotations

import pytest

from lightning_saliency.callback.last_hook import drop_last, run_last


class Strategy:
    def __init__(self, done: list[str]) -> None:
        self.done = done

    def on_train_end(self) -> None:
        self.done.append("strategy")


@pytest.fixture
def done() -> list[str]:
    return []


def test_the_steps_come_last_and_once(done):
    strategy = Strategy(done)
    run_last(strategy, lambda: done.append("first"))
    run_last(strategy, lambda: done.append("second"))
    assert done == []
    strategy.on_train_end()
    assert done == ["strategy", "first", "second"]
    assert vars(strategy) == {"done": done}
    strategy.on_train_end()
    assert done[3:] == ["strategy"]


def test_a_step_that_fails_keeps_none_from_the_others(done):
    strategy = Strategy(done)
    run_last(strategy, lambda: 1 / 0)
    run_last(strategy, lambda: done.append("second"))
    with pytest.raises(ZeroDivisionError):
        strategy.on_train_end()
    assert done == ["strategy", "second"]
    assert vars(strategy) == {"done": done}


def test_a_hook_that_somebody_else_put_there_stays(done):
    strategy = Strategy(done)
    strategy.on_train_end = theirs = lambda: done.append("theirs")  # type: ignore[method-assign]
    for leave in (drop_last, lambda s: s.on_train_end()):
        run_last(strategy, lambda: done.append("ours"))
        leave(strategy)
        assert strategy.on_train_end is theirs
    assert done == ["theirs", "ours"]


def test_there_may_be_nothing_to_drop(done):
    strategy = Strategy(done)
    drop_last(strategy)
    strategy.on_train_end()
    assert done == ["strategy"]

"""A request to stop is read between two steps; the second interrupt ends at once."""

import os
import signal

import pytest

from conan_embed.errors import UserError
from conan_embed.training.checkpoint import checkpoints
from conan_embed.training.run import train
from tests.support.small_runs import NUM_STEPS, assert_same_run, interrupt_at


def test_a_request_to_stop_saves_and_leaves(recipe, monkeypatch):
    undisturbed = train(recipe("undisturbed"))
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for number, step in ((signal.SIGTERM, 4), (signal.SIGINT, 5)):
        with monkeypatch.context() as patch:
            interrupt_at(patch, step, lambda n=number: os.kill(os.getpid(), n))
            with pytest.raises(UserError, match=f"stopped on request after step {step} of {NUM_STEPS}"):
                train(recipe("stopped"))
        assert checkpoints(undisturbed.parent / "stopped" / "checkpoints")[-1].name == f"step-{step:08d}"
    assert handlers == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    assert_same_run(train(recipe("stopped")), undisturbed)


def test_a_second_interrupt_does_not_wait(recipe, monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    interrupt_at(monkeypatch, 2, twice)
    # A job in the background of a shell ignores interrupts from the start; this one is in the foreground.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(recipe())
    finally:
        signal.signal(signal.SIGINT, before)

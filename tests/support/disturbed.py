"""Command lines in processes of their own, disturbed on purpose: killed, or failing, at a chosen moment on one of them.

What is disturbed is patched from outside; the product knows nothing of it.
"""

import os
import signal
import sys
from pathlib import Path

import conan_embed.reporting.page
from conan_embed import cli
from conan_embed.distributed import collectives
from conan_embed.errors import UserError
from conan_embed.training import checkpoint, loop, step
from tests.support.many_processes import start_world

MESSAGE = "the disturbance that was asked for"


def run_world(size, arguments, stderr, disturbance=None, *, limit=120):
    """Run `conan-embed ARGUMENTS` on `size` processes; return their exit codes. All write into the file `stderr`."""
    return start_world(size, member, arguments, stderr, disturbance, limit=limit)


def member(arguments, stderr, disturbance):
    """What one process of a world does."""
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    run_command(arguments, disturbance)


def run_command(arguments, disturbance=None):
    """Run the command line in this process, disturbed where it is the one that `disturbance` names.

    Args:
        disturbance: (rank, step counted from 1, what to do, marker or None); with a marker, which is a file, only once.
    """
    conan_embed.reporting.page.report = lambda runs: runs[0]  # seconds of drawing that nobody looks at
    if disturbance is not None and int(os.environ["RANK"]) == disturbance[0]:
        disturb(*disturbance[1:])
    sys.argv = ["conan-embed", *arguments]
    cli.main()


def disturb(at, what, marker=None):
    """Do `what` at step `at`, or just before the next collective of that name."""
    where = {"now": False}

    def armed(*_, **__):
        if where["now"] and (marker is None or not Path(marker).exists()):
            if marker is not None:
                Path(marker).touch()
            return True
        return False

    def kill():
        os.kill(os.getpid(), signal.SIGKILL)

    def fail():
        raise UserError(MESSAGE)

    def before(module, name, act, condition=lambda *_: True):
        original = getattr(module, name)

        def disturbed(*arguments, **settings):
            if condition(*arguments) and armed():
                act()
            return original(*arguments, **settings)

        setattr(module, name, disturbed)

    original = loop.train_step

    def stepping(*arguments, **settings):
        where["now"] = arguments[1].plan.step + 1 == at
        result = original(*arguments, **settings)
        if what == "kill" and armed():
            kill()
        return result

    loop.train_step = stepping
    match what:
        case "kill":
            pass
        case "kill while saving":  # the parameters are written, the optimizer is not
            before(checkpoint, "_save", kill, lambda folder, _: folder.name == "optimizer")
        case "fail before gathering rows":
            before(collectives, "all_gather_rows", fail)
        case "fail before the gradients":
            before(step, "step_loss", fail)
        case "fail before the facts":
            before(collectives, "all_reduce_sum", fail, lambda tensor: tensor.ndim == 1)
        case "fail before the stop exchange":
            before(collectives, "all_reduce_sum", fail, lambda tensor: tensor.ndim == 0)
        case "fail before saving":
            before(checkpoint, "_save", fail)
        case "fail before the barrier":
            before(collectives, "barrier", fail)
        case "break before gathering rows":
            before(collectives, "all_gather_rows", lambda: 1 / 0)
        case _:
            raise AssertionError(what)

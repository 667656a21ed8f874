"""What the parts of a run take, beside what was estimated; the estimate is said again after the first steps."""

import contextlib
import statistics
import time
from collections.abc import Iterator

from conan_embed.console import console
from conan_embed.tuning.plan import CHOOSING, SCORING, STEPS, Plan, duration

_FIRST_STEPS = 10


class Clock:
    """Measures a run.

    Attributes:
        plan: what was estimated.
        seconds: by part, of this start of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seconds: dict[str, float] = {}
        self.steps: list[float] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add what happens within to a part; steps within count as steps, not to it."""
        started, steps = time.perf_counter(), len(self.steps)
        yield
        passed = time.perf_counter() - started - sum(self.steps[steps:])
        self.seconds[name] = round(self.seconds.get(name, 0) + passed, 1)

    def after_step(self, step: int, seconds: float) -> None:
        """Note a step; after the first ones print what is left."""
        self.steps.append(seconds)
        self.seconds[STEPS] = round(sum(self.steps), 1)
        if len(self.steps) == _FIRST_STEPS:
            console.print(self.sentence(step))

    def sentence(self, step: int) -> str:
        """Return what is left, by what steps and encoding took so far.

        Looks at the development questions are within the measured seconds of some steps.
        """
        per_step = statistics.median(self.steps)
        planned = self.plan.seconds
        pace = self.seconds[SCORING] / max(planned[SCORING] / 2, 1e-9) if SCORING in self.seconds else 1.0
        later = pace * (planned[SCORING] / 2 + planned[CHOOSING])
        left = (self.plan.steps - step) * per_step + later
        estimated = planned[STEPS] / max(self.plan.steps, 1)
        return (
            f"estimated again: {duration(left)} left; a step takes {per_step:.2g} s ({estimated:.2g} expected), "
            f"encoding {pace:.1f} times what was expected"
        )

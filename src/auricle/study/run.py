"""Run a study's stages: any number of processes, on one machine or several, share the work through the folders alone.

Each process goes through the stages in order and takes the first whose inputs are there and whose folder nobody holds. A stage that was broken
off is taken up again by whoever comes next.
"""

import time
from collections.abc import Sequence

from auricle.core import progress
from auricle.core.errors import Busy, InputError
from auricle.core.runs import fingerprint_of
from auricle.study.plan import Step

WAIT_SECONDS = 5.0
"""Between two looks at what other processes have finished."""


def run_steps(steps: Sequence[Step], wait_seconds: float = WAIT_SECONDS) -> None:
    """Run every step once, in an order that its inputs allow; returns when all are finished, by this process or others.

    Raises `InputError` where a stage refuses its input.
    """
    waiting = list(steps)
    while waiting:
        makers = {step.out for step in waiting}
        left = []
        for step in waiting:
            # What an earlier step of this very pass finished counts at once.
            if any(folder in makers and fingerprint_of(folder) is None for folder in step.needs()):
                left.append(step)
                continue
            number = len(steps) - len(waiting) + 1
            progress.event("stage", name=step.name, number=number, total=len(steps))
            try:
                step.run(step.config, step.out)
            except Busy:
                left.append(step)
        if len(left) == len(waiting):
            if not any((step.out / "lock").exists() for step in left):
                raise InputError(f"{left[0].out}: its inputs are missing: {', '.join(map(str, sorted(left[0].needs())))}")
            time.sleep(wait_seconds)
        waiting = left

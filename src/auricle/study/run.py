"""Run a study's stages: any number of processes, on one machine or several, share the work through the folders alone.

Each process goes through the stages in order and takes the first whose inputs are there and whose folder nobody holds. A stage that was broken
off is taken up again by whoever comes next.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from auricle.core import progress
from auricle.core.errors import Busy, InputError
from auricle.core.runs import fingerprint_of, held_elsewhere
from auricle.study.plan import Step

WAIT_SECONDS = 5.0
"""Between two looks at what other processes have finished."""


def run_steps(steps: Sequence[Step], wait_seconds: float = WAIT_SECONDS, after: Callable[[Step], None] = lambda step: None) -> None:
    """Run every step once, in an order that its inputs allow; returns when all are finished, by this process or others.

    `after` is called with every step that this process has finished; not with those that were finished before.

    Raises `InputError` where a stage refuses its input, once all that do not need it are finished.
    """
    waiting = list(steps)
    lost: dict[Path, str] = {}
    while waiting:
        makers = {step.out for step in waiting}
        left, busy = [], False
        for place, step in enumerate(waiting):
            if step.needs() & lost.keys():
                lost[step.out] = ""
                continue
            # What an earlier step of this very pass finished counts at once.
            blocked = any(folder in makers and fingerprint_of(folder) is None for folder in step.needs())
            if blocked or held_elsewhere(step.out):
                busy |= not blocked
                left.append(step)
                continue
            number = len(steps) - len(waiting) + 1 + place - len(left)
            progress.event("stage", name=step.name, number=number, total=len(steps))
            progress.report(f"[{number}/{len(steps)}] {step.name}")
            new = fingerprint_of(step.out) is None
            try:
                step.run(step.config, step.out)
                if new:
                    after(step)
            except Busy:
                busy = True
                left.append(step)
            except InputError as error:
                if len(steps) > number:
                    progress.notice(f"{step.name}: {error}")
                lost[step.out] = str(error)
        if len(left) == len(waiting):
            if not busy:
                raise InputError(f"{left[0].out}: its inputs are missing: {', '.join(map(str, sorted(left[0].needs())))}")
            time.sleep(wait_seconds)
        waiting = left
    if lost:
        reasons = [reason for reason in lost.values() if reason]
        raise InputError(reasons[0] if len(lost) == 1 else f"{reasons[0]} ({len(lost)} of {len(steps)} stages are missing for such reasons)")
